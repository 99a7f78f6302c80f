"""The images of a local cluster, made on this machine: pause, busybox, web, burn.

In: the built `pause`, Debian's static busybox. Out: archives in the cache, named by their content.
No container registry is asked for anything.
"""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from overspill.errors import Misconfigured, NotFound
from overspill.local.archive import File, Image, layer_of, write_archive
from overspill.local.builds import Programs
from overspill.local.cloud import load_images
from overspill.local.commands import run, succeeds
from overspill.local.paths import Paths, cache_root
from overspill.local.plan import Plan
from overspill.local.worker import import_images

__all__ = ["BASE_IMAGES", "BURN", "BUSYBOX", "PAUSE", "PREFIX", "WEB", "base_archive", "load_image"]

PREFIX = "localhost/overspill"
PAUSE = f"{PREFIX}/pause:1"
BUSYBOX = f"{PREFIX}/busybox:1"
WEB = (f"{PREFIX}/web:1", f"{PREFIX}/web:2")
BURN = f"{PREFIX}/burn:1"
BASE_IMAGES = {PAUSE, BUSYBOX, *WEB, BURN}
BUSYBOX_PATHS = ("/bin/busybox", "/usr/bin/busybox")

# httpd in the background: a shell as process 1 takes SIGTERM, which httpd as process 1 would not.
SERVE = """httpd -f -p "${PORT:-80}" -h /tmp/www &
trap 'kill $!; exit 0' TERM INT
wait $!
"""
WEB_SCRIPT = """#!/bin/sh
mkdir -p /tmp/www
echo "hello from $(hostname), version VERSION" > /tmp/www/index.html
"""
# Some 50 ms of CPU per request, the same for every one: load is requests per second.
BURN_SCRIPT = """#!/bin/sh
mkdir -p /tmp/www/cgi-bin
cat > /tmp/www/cgi-bin/burn <<'END'
#!/bin/sh
left=30000
while [ $left -gt 0 ]; do left=$((left - 1)); done
printf 'Content-Type: text/plain\\r\\n\\r\\nburned by %s\\n' "$(hostname)"
END
chmod +x /tmp/www/cgi-bin/burn
"""


def base_archive(built: Programs) -> Path:
    """The archive of pause, busybox, both versions of web, and burn.

    Raises:
        Misconfigured: there is no static busybox on this machine.
    """
    busybox = _busybox()
    pause = Path(built.path("pause"))
    digest = hashlib.sha256()
    for file in (busybox, pause, Path(__file__), Path(__file__).with_name("archive.py")):
        digest.update(file.read_bytes())
    target = cache_root() / "images" / f"base-{digest.hexdigest()[:16]}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            write_archive(target, _images(Path(folder), busybox, pause))
    return target


def _busybox() -> Path:
    for path in map(Path, BUSYBOX_PATHS):
        if path.exists() and b"/lib64/ld-linux" not in path.read_bytes()[:4096]:
            return path
    raise Misconfigured(
        "no static busybox on this machine, of which the images are made: install busybox-static, "
        "or run `make setup`"
    )


def _images(folder: Path, busybox: Path, pause: Path) -> list[Image]:
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    tools = {f"bin/{applet}": File(link="busybox") for applet in applets}
    tools["bin/busybox"] = File(busybox.read_bytes(), 0o755)
    tools["etc/passwd"] = File(b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    tools["etc/group"] = File(b"root:x:0:\nnogroup:x:65534:\n")
    scripts = {f"web{version}": WEB_SCRIPT.replace("VERSION", str(version)) for version in (1, 2)}
    scripts["burn"] = BURN_SCRIPT
    layers = {
        "busybox": tools,
        "pause": {"pause": File(pause.read_bytes(), 0o755)},
        **{name: {"bin/serve": File((script + SERVE).encode(), 0o755)} for name, script in scripts.items()},
    }
    files = {name: folder / f"{name}.tar" for name in layers}
    for name, content in layers.items():
        files[name].write_bytes(layer_of(content))
    return [
        Image(name=PAUSE, layers=[files["pause"]], command=(), entrypoint=("/pause",)),
        Image(name=BUSYBOX, layers=[files["busybox"]], command=("sh",)),
        *(
            Image(name=name, layers=[files["busybox"], files[script]], command=("/bin/serve",))
            for script, name in zip(scripts, (*WEB, BURN), strict=True)
        ),
    ]


async def load_image(paths: Paths, plan: Plan, built: Programs, name: str) -> None:
    """Copy an image from the user's Podman to the worker and the cloud.

    Raises:
        NotFound: the user's Podman has no such image.
        Misconfigured: the cluster has nowhere to load images into, or Podman is missing.
    """
    if not plan.machine:
        raise Misconfigured(
            f"cluster {plan.name!r} runs no containers: it has no worker and no podman backend"
        )
    if not await succeeds(["podman", "image", "exists", name]):
        raise NotFound(f"Podman has no image {name!r}; see `podman images`, or build it with `podman build`")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        await run(["podman", "save", "--output", archive, name], timeout=600)
        if plan.workers:
            await import_images(paths, built, archive)
        if plan.cloud:
            await load_images(paths, archive)
