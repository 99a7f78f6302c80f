"""The plan of a cluster: what was asked for and what was chosen free, in one JSON file.

In: `Options`. Out: a `Plan`, written before anything of it is made. Invariants: a plan never changes but
for the number of virtual nodes; one command at a time works on a cluster.
"""

import contextlib
import fcntl
import ipaddress
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import msgspec
from msgspec import Struct

from overspill.errors import Conflict, Misconfigured, NotFound
from overspill.local.paths import Paths, cluster_paths, state_root, write_file
from overspill.local.ports import choose_network, choose_ports, routed_networks
from overspill.local.processes import PATH

__all__ = ["Options", "Plan", "load_plan", "lock", "lock_all", "make_plan", "no_cloud", "save_plan"]

PORTS = (
    "apiserver",
    "etcd",
    "etcd-peer",
    "controller-manager",
    "scheduler",
    "dns",
    "dns-health",
    "dns-ready",
    "emulator",
    "metrics-server",
    "webhook",
)
BACKENDS = ("eci", "podman", "simulated")
INJECTIONS = ("policy", "webhook")


class Options(Struct, frozen=True, kw_only=True):
    """What the user asked for; None: not said."""

    name: str = "overspill"
    workers: int | None = None
    virtual_nodes: int | None = None
    backend: str | None = None
    tuned: bool | None = None
    injection: str | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """Everything that was decided about a cluster."""

    name: str
    workers: int
    virtual_nodes: int
    backend: str
    tuned: bool
    network: str
    link: str
    ports: dict[str, int]
    injection: str = "policy"

    @property
    def machine(self) -> bool:
        """Whether there is a machine (namespaces of its own) for the worker and the cloud."""
        return self.workers > 0 or self.cloud

    @property
    def cloud(self) -> bool:
        """Whether virtual nodes' pods run at Podman, directly or behind the ECI emulator."""
        return self.backend in {"podman", "eci"}

    @property
    def metrics(self) -> bool:
        """Whether metrics-server runs: not beside a scale run, whose figures it would blur."""
        return not self.tuned

    @property
    def placement(self) -> bool:
        """Whether the controller runs: where there are virtual nodes to overflow to, but not beside a scale run."""
        return self.virtual_nodes > 0 and not self.tuned

    def _quarter(self, number: int) -> IPv4Network:
        """One fourth of the cluster's /16: 0 link, 1 the worker's pods, 2 the cloud's pods, 3 services."""
        return list(IPv4Network(self.network).subnets(prefixlen_diff=2))[number]

    @property
    def link_range(self) -> IPv4Network:
        """The network between host and machine."""
        return next(self._quarter(0).subnets(new_prefix=24))

    @property
    def host_address(self) -> str:
        """Where the control plane listens: the host's end of the link, or loopback without a machine."""
        return str(self.link_range[1]) if self.machine else "127.0.0.1"

    @property
    def node_address(self) -> str:
        """The machine's end of the link: the worker's InternalIP."""
        return str(self.link_range[2])

    @property
    def pod_range(self) -> IPv4Network:
        """Addresses of the worker's pods."""
        return self._quarter(1)

    @property
    def cloud_range(self) -> IPv4Network:
        """Addresses of virtual nodes' pods."""
        return self._quarter(2)

    @property
    def vswitch_ranges(self) -> tuple[IPv4Network, IPv4Network]:
        """Addresses of the emulated vSwitches."""
        first, second, *_ = self.cloud_range.subnets(prefixlen_diff=2)
        return first, second

    @property
    def podman_range(self) -> IPv4Network:
        """Addresses of Podman's default network, beside those of the vSwitches."""
        return (
            list(self.cloud_range.subnets(prefixlen_diff=2))[3] if self.backend == "eci" else self.cloud_range
        )

    @property
    def service_range(self) -> IPv4Network:
        """ClusterIPs."""
        return self._quarter(3)

    @property
    def dns_address(self) -> str:
        """ClusterIP of kube-dns."""
        return str(self.service_range[10])

    @property
    def endpoint(self) -> str:
        """URL of the apiserver."""
        return f"https://{self.host_address}:{self.ports['apiserver']}"

    @property
    def cgroup(self) -> str:
        """Name of the cgroup that holds the worker's pods."""
        return f"overspill-{self.name}-{self.link.removeprefix('ovs')}"

    @property
    def firewall_table(self) -> str:
        """Name of the nftables table on the host that lets pods out."""
        return f"overspill-{self.name}-{self.link.removeprefix('ovs')}"


def load_plan(name: str) -> Plan:
    """The plan of an existing cluster.

    Raises:
        NotFound: there is no such cluster.
        Misconfigured: its file cannot be understood.
    """
    paths = cluster_paths(name)
    try:
        return msgspec.json.decode(paths.plan.read_bytes(), type=Plan)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no cluster {name!r}{_others(name)}; start it with `overspill up --name {name}`"
        ) from error
    except OSError as error:
        raise Misconfigured(f"{paths.plan} cannot be read: {error}") from error
    except msgspec.DecodeError as error:
        raise Misconfigured(
            f"{paths.plan} holds no plan: {error}; `overspill down --name {name}` clears it"
        ) from error


def _others(name: str) -> str:
    names = sorted(path.parent.name for path in state_root().glob("*/cluster.json"))
    names = [other for other in names if other != name]
    return f" (there are: {', '.join(names)})" if names else ""


def make_plan(options: Options, check: Callable[[Plan], None] = lambda _: None) -> Plan:
    """The plan to follow: the existing one, or a new one that is written down before it is returned.

    `check` sees it before that, and may refuse it.

    Raises:
        Conflict: the cluster exists with other options.
        Misconfigured, Unsupported: the options cannot be had on this machine or together.
    """
    paths = cluster_paths(options.name)
    state_root().mkdir(parents=True, exist_ok=True)
    with lock_all():
        known = paths.plan.exists()
        plan = _adapted(load_plan(options.name), options) if known else _new_plan(options)
        check(plan)
        save_plan(paths, plan)
    return plan


def save_plan(paths: Paths, plan: Plan) -> None:
    """Write the plan down."""
    write_file(paths.plan, msgspec.json.format(msgspec.json.encode(plan), indent=2), mode=0o600)


def _adapted(plan: Plan, options: Options) -> Plan:
    for field in ("workers", "backend", "tuned", "injection"):
        wanted, had = getattr(options, field), getattr(plan, field)
        if wanted is not None and wanted != had:
            raise Conflict(
                f"cluster {plan.name!r} runs with {field} = {had}; for {field} = {wanted} first take it down: "
                f"`overspill down --name {plan.name}`"
            )
    if options.virtual_nodes is None:
        return plan
    return msgspec.structs.replace(plan, virtual_nodes=options.virtual_nodes)


def _new_plan(options: Options) -> Plan:
    root = os.geteuid() == 0
    tuned = bool(options.tuned)
    workers = int(root and not tuned) if options.workers is None else options.workers
    backend = options.backend or ("simulated" if tuned or no_cloud() else "eci")
    injection = options.injection or INJECTIONS[0]
    if injection not in INJECTIONS:
        raise Misconfigured(f"unknown injection {injection!r}; there are {', '.join(INJECTIONS)}")
    _check(workers=workers, backend=backend, tuned=tuned, root=root)
    others = [*_readable_plans()]
    network = choose_network([*routed_networks(), *(IPv4Network(other.network) for other in others)])
    return Plan(
        name=options.name,
        workers=workers,
        virtual_nodes=1 if options.virtual_nodes is None else options.virtual_nodes,
        backend=backend,
        tuned=tuned,
        network=str(ipaddress.IPv4Network(network)),
        # Not made of the name: another user, or a container on this host, may have a cluster of that name.
        link=f"ovs{secrets.token_hex(5)}",
        ports=choose_ports(PORTS, {port for other in others for port in other.ports.values()}),
        injection=injection,
    )


def _readable_plans() -> Iterator[Plan]:
    """Those of every cluster; the addresses and ports of one whose plan is broken are found out only if it runs."""
    for path in state_root().glob("*/cluster.json"):
        with contextlib.suppress(Misconfigured, NotFound):
            yield load_plan(path.parent.name)


def no_cloud() -> str:
    """Why real containers cannot be had on this machine; "" if they can."""
    if os.geteuid():
        return "real containers need root"
    return "" if shutil.which("podman", path=PATH) else "Podman is not installed (`make setup` brings it)"


def _check(*, workers: int, backend: str, tuned: bool, root: bool) -> None:
    if backend not in BACKENDS:
        raise Misconfigured(f"unknown backend {backend!r}; there are {', '.join(BACKENDS)}")
    if workers not in (0, 1):
        raise Misconfigured(f"--workers is 0 or 1, not {workers}")
    if tuned and (workers or backend != "simulated"):
        raise Misconfigured("--tuned is for scale runs: without a worker, on the simulated backend")
    if not root and (workers or backend != "simulated"):
        raise Misconfigured(
            "a worker and the backends podman and eci need root; without it, this works: "
            "`overspill up --workers 0 --backend simulated`"
        )


@contextlib.contextmanager
def lock(name: str) -> Iterator[Paths]:
    """Be the only command that works on this cluster; its folder is made if missing.

    Raises:
        Conflict: another command does.
    """
    paths = cluster_paths(name)
    paths.root.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _locked(paths.root, wait=False):
        try:
            yield paths
        finally:
            with contextlib.suppress(OSError):
                paths.root.rmdir()  # only when nothing came of it


def lock_all() -> contextlib.AbstractContextManager[None]:
    """Be the only command that decides what concerns several clusters; waits for others."""
    return _locked(state_root())


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock a folder itself, so that no lock file is left behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError as error:
        raise Conflict(
            f"another overspill command is working on {folder}; try again when it is done"
        ) from error
    finally:
        os.close(descriptor)
