"""The worker: a real kubelet on containerd, inside the machine.

In: a plan and the built programs. Out: node `worker-0`. Nothing here is ours but the flags: what runs on
this node runs as on any Kubernetes node.
"""

import json
from pathlib import Path

from overspill.errors import Misconfigured
from overspill.local.builds import Programs
from overspill.local.certificates import WORKER
from overspill.local.cgroups import ensure_cgroup
from overspill.local.commands import run, succeeds, until
from overspill.local.machine import enter
from overspill.local.paths import Paths, write_file
from overspill.local.plan import Plan
from overspill.local.processes import PATH, Processes, Program
from overspill.local.render import render

__all__ = ["ctr", "has_images", "import_images", "start_containerd", "start_kubelet"]

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_PLUGINS = Path("/usr/lib/cni")
READY_TIMEOUT = 60.0
RESOLV_CONF = Path("/etc/resolv.conf")


async def start_containerd(paths: Paths, plan: Plan, built: Programs, *, pause_image: str) -> None:
    """Have containerd answering.

    Raises:
        Misconfigured: Debian's CNI plugins or runc are missing.
        Retry: it did not come up.
    """
    if not (CNI_PLUGINS / "bridge").exists():
        raise Misconfigured(
            f"no CNI plugins in {CNI_PLUGINS}: install containernetworking-plugins, or run `make setup`"
        )
    config = paths.config / "containerd.toml"
    cni = paths.config / "cni"
    values = {"plugins": CNI_PLUGINS, "cni": cni, "socket": CONTAINERD_SOCKET, "config": paths.config}
    write_file(config, render("containerd.toml", pause_image=pause_image, **values))
    write_file(cni / "10-pods.conflist", _cni(plan))
    (paths.config / "registries").mkdir(exist_ok=True)
    program = Program(
        name="containerd",
        argv=enter(paths, (built.path("containerd"), "--config", str(config))),
        env={"PATH": f"{built.containerd}:{PATH}"},
    )
    processes = Processes(paths)
    processes.ensure(program)

    async def answers() -> bool:
        processes.require("containerd")
        return await succeeds(ctr(paths, built, "version"))

    await until(answers, what="containerd to answer", timeout=READY_TIMEOUT)


def _cni(plan: Plan) -> str:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        # Host and machine route the whole cluster, so that pods see each other's own addresses.
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni",
            "ranges": [[{"subnet": str(plan.pod_range)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}, indent=2)


def ctr(paths: Paths, built: Programs, *arguments: str) -> tuple[str, ...]:
    """An argv of containerd's own client, in the namespace of Kubernetes' images."""
    return enter(paths, (built.path("ctr"), "--address", CONTAINERD_SOCKET, "-n", "k8s.io", *arguments))


async def has_images(paths: Paths, built: Programs, names: set[str]) -> bool:
    """Whether containerd has all of these images."""
    listed = await run(ctr(paths, built, "images", "list", "-q"))
    return names <= set(listed.decode().split())


async def import_images(paths: Paths, built: Programs, archive: Path) -> None:
    """Import an archive of images, so that pods find them present."""
    await run(
        ctr(paths, built, "images", "import", "--local", "--no-unpack=false", str(archive)), timeout=300
    )


def start_kubelet(paths: Paths, plan: Plan, built: Programs) -> None:
    """Have the kubelet started; it registers its node by itself."""
    ensure_cgroup(plan.cgroup)
    servers = name_servers(RESOLV_CONF.read_text(encoding="utf-8") if RESOLV_CONF.exists() else "")
    resolv_conf = paths.config / "resolv.conf"
    # A loopback server of the host is out of reach from a pod; CoreDNS runs on the host and forwards to it.
    reachable = [server for server in servers if not server.startswith("127.")] or [plan.dns_address]
    write_file(resolv_conf, "".join(f"nameserver {server}\n" for server in reachable))
    config = paths.config / "kubelet.yaml"
    values = {"pki": paths.pki, "cgroup": plan.cgroup, "socket": CONTAINERD_SOCKET, "dns": plan.dns_address}
    write_file(config, render("kubelet.yaml", resolv_conf=resolv_conf, **values))
    flags = (
        f"--config={config}",
        f"--kubeconfig={paths.pki / 'kubelet.kubeconfig'}",
        f"--hostname-override={WORKER}",
        f"--node-ip={plan.node_address}",
    )
    argv = enter(paths, (built.path("kubelet"), *flags))
    Processes(paths).ensure(Program(name="kubelet", argv=argv))


def name_servers(text: str) -> list[str]:
    """The IPv4 name servers of a resolv.conf."""
    lines = [line.split() for line in text.splitlines()]
    return [words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1 and "." in words[1]]
