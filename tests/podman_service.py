"""A Podman service of the tests' own: its storage, network and socket are in one folder and vanish with it.

Reads: the host's podman, runc and busybox. Writes: one temporary folder, one bridge while pods run.
"""

import asyncio
import http.client
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

IMAGE = "localhost/busybox:1"
NETWORK = "pods"
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
exit_command_delay = 2
[network]
network_backend = "netavark"
"""


class PodmanService:
    """One service; `kill` and `start` it as a fault would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = str(folder / "sock")
        self.data_dir = str(folder / "data")
        self.bridge = f"ovt{random.getrandbits(24):06x}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        self._environment = os.environ | {"CONTAINERS_CONF": str(folder / "containers.conf")}

    def start(self) -> None:
        """Start the service and wait until it answers."""
        Path(self.socket).unlink(missing_ok=True)
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._podman(), "system", "service", "--time=0", f"unix://{self.socket}"],
                env=self._environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,  # where conmon leaves a file `oom` when a container runs out of memory
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not Path(self.socket).exists():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.folder / "service.log").read_text())
            time.sleep(0.02)

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """End the service; its containers go on."""
        if self._process:
            self._process.send_signal(sig)
            self._process.wait(30)
            self._process = None

    def run(self, *args: str, stdin: bytes | None = None) -> str:
        """Run the podman command on the same storage."""
        done = subprocess.run(
            [*self._podman(), *args], env=self._environment, input=stdin, capture_output=True, check=True
        )
        return done.stdout.decode()

    def containers(self) -> list[dict]:
        """All containers, those that only the storage knows among them."""
        return json.loads(self.run("ps", "--all", "--external", "--format", "json"))

    def leftovers(self) -> list[str]:
        """Whatever of any pod is still there, but for volumes that outlive pods."""
        volumes = self.run("volume", "ls", "--quiet").split()
        folders = [str(path) for path in Path(self.data_dir).glob("*/*/*") if path.parent.name != "_kept"]
        return [*(str(c["Names"]) for c in self.containers()), *volumes, *folders]

    async def stopped(self, pod: str) -> None:
        """Wait until nothing of a pod runs."""
        async with asyncio.timeout(20):
            while self.run("pod", "inspect", "--format", "{{.State}}", pod).strip() != "Exited":  # noqa: ASYNC110 - Podman's own state is all there is to look at
                await asyncio.sleep(0.05)

    def prepare(self) -> None:
        """Make the image and the network."""
        self.run("import", "--change", 'CMD ["/bin/sh"]', "-", IMAGE, stdin=busybox_root())
        subnet = f"10.{random.randint(180, 250)}.{random.randint(0, 255)}.0/24"
        network = {"name": NETWORK, "network_interface": self.bridge, "subnets": [{"subnet": subnet}]}
        self._post("/networks/create", network)

    def clear(self) -> None:
        """Remove every pod, after a test that failed."""
        if self.leftovers():
            self.remove_all()
            shutil.rmtree(self.data_dir)

    def remove_all(self) -> None:
        """Remove every pod and container."""
        self.run("pod", "rm", "--all", "--force", "--time", "0")
        self.run("rm", "--all", "--force", "--time", "0", "--volumes")

    def remove(self) -> None:
        """Leave nothing behind."""
        self.remove_all()
        self.run("network", "rm", "--force", NETWORK)
        self.kill(signal.SIGTERM)
        for mount in _mounts_below(self.folder):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _post(self, path: str, body: dict) -> None:
        connection = http.client.HTTPConnection("podman")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.socket)
        with closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/v4.0.0/libpod{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            assert answer.status < 300, answer.read()

    def _podman(self) -> list[str]:
        return [
            "podman",
            f"--root={self.folder}/root",
            f"--runroot={self.folder}/run",
            f"--tmpdir={self.folder}/tmp",
            f"--network-config-dir={self.folder}/networks",
        ]


@contextmanager
def running_service() -> Iterator[PodmanService]:
    """A service with image and network."""
    service = PodmanService(Path(tempfile.mkdtemp(prefix="ovt-")))  # sockets below it need a short path
    try:
        service.start()
        service.prepare()
        yield service
    finally:
        service.remove()


def missing() -> str:
    """Why Podman cannot be used here; "" if it can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("podman", "runc", "busybox") if shutil.which(name) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def busybox_root() -> bytes:
    """A root file system of nothing but the host's static busybox and its names."""
    names = subprocess.run(["/bin/busybox", "--list"], capture_output=True, check=True, text=True).stdout
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for name in set(names.split()) - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for path, text in (("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")):
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sorted(
        (p for p in (line.split()[1] for line in lines) if p.startswith(f"{folder}/")), reverse=True
    )
