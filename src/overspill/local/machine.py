"""The machine of a cluster: a network and a mount namespace in which the worker and the cloud live.

In: a plan. Out: a prefix for argv that enters it. Several clusters on one host, each with a kubelet and a
kube-proxy, would fight over /var/lib/kubelet, /run/containerd, nftables' one table `kube-proxy` and the
host's sysctls; inside, all of these are the machine's own, and they vanish with it.
A veth pair joins it to the host, which routes the cluster's /16 there: pods, ClusterIPs and virtual nodes'
pods are reached from the host as from any other node.
Invariant: every step may be repeated; nothing on the host changes but the link, one route, one nftables
table, and ip_forward if it was off (put back as the last machine goes).
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from overspill.errors import Misconfigured, Retry
from overspill.local.commands import run, succeeds
from overspill.local.paths import Paths, state_root, write_file
from overspill.local.plan import Plan, lock_all
from overspill.local.render import render

__all__ = ["ensure_machine", "enter", "join_network", "members", "remove_machine"]

# Folders that the machine has for itself; a state folder below one of them would be hidden.
OWN_FOLDERS = ("/run", "/dev/shm", "/var/lib", "/var/log", "/var/run")  # noqa: S108 - mount points
# What a kubelet insists on; it reads these before it would write them, and the host keeps its own values.
KUBELET_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
MNT_DETACH = 2
CLONE_NEWNET = 0x40000000
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
MOUNTS = Path("/proc/self/mountinfo")


def enter(paths: Paths, argv: Sequence[str]) -> tuple[str, ...]:
    """The argv that runs `argv` inside the machine; the process keeps its pid."""
    handles = (f"--net={paths.namespaces / 'net'}", f"--mount={paths.namespaces / 'mnt'}")
    # conmon leaves a file `oom` in its working directory when a container runs out of memory. --wd would set a
    # folder of the namespace outside, for which Go programs have no path.
    return ("nsenter", *handles, f"--wdns={paths.root}", "--", *argv)


def join_network(paths: Paths) -> None:
    """Let this thread's sockets be the machine's from now on, for a command that asks something on its loopback.

    Raises:
        Misconfigured: there is no machine, or this is not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with (paths.namespaces / "net").open("rb") as handle:
            if libc.setns(handle.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        raise Misconfigured(
            f"the network of {paths.root} cannot be entered, which takes root: {error}"
        ) from error


async def ensure_machine(paths: Paths, plan: Plan) -> None:
    """Have the machine, its mounts and its link.

    Raises:
        Misconfigured: the state folder lies where the machine has folders of its own, or a tool is missing.
        Retry: the kernel refused something.
    """
    for folder in OWN_FOLDERS:
        if paths.root.is_relative_to(folder):
            raise Misconfigured(f"{paths.root} lies below {folder}; set XDG_STATE_HOME to another folder")
    if not _is_mounted(paths.namespaces / "mnt"):
        await _make_namespaces(paths)
    await _mount_inside(paths)
    await _join(paths, plan)
    await _let_out(paths, plan)


def _is_mounted(path: Path) -> bool:
    return f" {path} " in MOUNTS.read_text(encoding="utf-8")


async def _make_namespaces(paths: Paths) -> None:
    folder = paths.namespaces
    folder.mkdir(exist_ok=True)
    if not _is_mounted(folder):
        await run(["mount", "--bind", folder, folder])
    # The kernel refuses to pin a mount namespace on a mount that is shared with it.
    await run(["mount", "--make-private", folder])
    for name in ("net", "mnt"):
        (folder / name).touch()
    if not _is_mounted(folder / "net"):
        await run(["unshare", f"--net={folder / 'net'}", "true"])
    await _pin_mount_namespace(folder / "mnt")


async def _pin_mount_namespace(handle: Path) -> None:
    """Make the mount namespace on the first CPU that the kernel lets us.

    It refuses to pin a namespace within one of a higher id, and Linux 6.18 numbers them per CPU: within a
    container, a new namespace may have a lower id than the container's own, on some CPUs and always there.
    """
    refused: Retry | None = None
    for cpu in sorted(os.sched_getaffinity(0)):
        pinned = ["taskset", "-c", str(cpu)]
        try:
            await run([*pinned, "unshare", f"--mount={handle}", "--propagation", "slave", "true"])
        except Retry as error:
            refused = error
        else:
            return
    assert refused is not None
    raise refused


async def _mount_inside(paths: Paths) -> None:
    folders = (paths.machine / "lib", paths.machine / "log", paths.podman_socket.parent, paths.pods)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for key, value in KUBELET_SYSCTLS.items():
        write_file(paths.machine / "sysctl" / key.replace("/", "."), value + "\n")
    script = render("machine.sh", state=paths.root, sysctls=list(KUBELET_SYSCTLS))
    await run(enter(paths, ("sh", "-euc", script)))


async def _join(paths: Paths, plan: Plan) -> None:
    """Join host and machine by a veth pair, and route the cluster's addresses through it."""
    if not await succeeds(["ip", "link", "show", plan.link]):
        peer = ("peer", "name", "eth0", "netns", str(paths.namespaces / "net"))
        await run(["ip", "link", "add", plan.link, "type", "veth", *peer])
    length = plan.link_range.prefixlen
    for command in (
        f"address replace {plan.host_address}/{length} dev {plan.link}",
        f"link set {plan.link} up",
    ):
        await run(["ip", *command.split()])
    for command in (
        "link set lo up",
        f"address replace {plan.node_address}/{length} dev eth0",
        "link set eth0 up",
        f"route replace default via {plan.host_address}",
    ):
        await run(enter(paths, ("ip", *command.split())))
    await run(["ip", "route", "replace", plan.network, "via", plan.node_address, "dev", plan.link])


async def _let_out(paths: Paths, plan: Plan) -> None:
    """Let pods reach what the host reaches."""
    _forward_on(paths)
    rules = render("host.nft", table=plan.firewall_table, network=plan.network)
    await run(["nft", "-f", "-"], stdin=rules.encode())


def _forward_on(paths: Paths) -> None:
    with lock_all():
        if IP_FORWARD.read_text(encoding="ascii").strip() == "0":
            _restore_file(paths).touch()
            IP_FORWARD.write_text("1", encoding="ascii")


def _forward_back(paths: Paths) -> None:
    """Put it back, or leave that to a machine that needs it still."""
    with lock_all():
        if not _restore_file(paths).exists():
            return
        others = [Paths(folder) for folder in state_root().iterdir() if folder != paths.root]
        if heirs := [other for other in others if _is_mounted(other.namespaces / "mnt")]:
            _restore_file(heirs[0]).touch()
        else:
            IP_FORWARD.write_text("0", encoding="ascii")
        _restore_file(paths).unlink()


def _restore_file(paths: Paths) -> Path:
    return paths.root / "ip-forward-was-off"


def members(paths: Paths) -> set[int]:
    """Processes that live in the machine's mount namespace: daemons, shims, monitors of containers."""
    handle = paths.namespaces / "mnt"
    if not _is_mounted(handle):
        return set()
    wanted = handle.stat().st_ino
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _mount_namespace(entry) == wanted:
            found.add(int(entry.name))
    return found


def _mount_namespace(process: Path) -> int | None:
    try:
        return (process / "ns" / "mnt").stat().st_ino
    except OSError:
        return None


async def remove_machine(paths: Paths, plan: Plan | None) -> None:
    """Remove link, route, firewall table and namespaces; its processes have ended before.

    Without a plan nobody knows the name of the table, which stays; link and route go with the namespaces.
    """
    if plan is not None:
        if await succeeds(["ip", "link", "show", plan.link]):
            await run(["ip", "link", "delete", plan.link])
        if await succeeds(["nft", "list", "table", "ip", plan.firewall_table]):
            await run(["nft", "delete", "table", "ip", plan.firewall_table])
    for path in (paths.namespaces / "net", paths.namespaces / "mnt", paths.namespaces):
        while _is_mounted(path):
            _unmount(path)
    _forward_back(paths)


def _unmount(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), MNT_DETACH):
        number = ctypes.get_errno()
        raise Misconfigured(f"{path} cannot be unmounted: {os.strerror(number)}")
