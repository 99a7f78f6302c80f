"""The contract of a backend.

In: a `WorkSpec` and an identity. Out: `Sighting`s. Three answers are kept apart:

- *gone*: a `Gone` in `watch`, or absent from a `list` that succeeded. Only this may change a pod's phase.
- *not found*: `NotFound` raised by one call about one pod. The caller asked too early or too late.
- *cannot tell*: `Retry`. Nothing is known.

`tests/contract/` holds one suite that every backend passes; that is when a backend is done.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

from msgspec import Struct

from overspill.model.observation import Observation, Sighting
from overspill.model.work import Container, Identity, Resources, Volume, WorkSpec

__all__ = [
    "TOOK_BOUNDS",
    "Backend",
    "Capabilities",
    "ContainerGroup",
    "ContainerUsage",
    "Demand",
    "Inventoried",
    "Inventory",
    "Listing",
    "Located",
    "LogOptions",
    "Metered",
    "PodUsage",
    "ProbeCount",
    "Probing",
    "Process",
    "Share",
]


class Capabilities(Struct, frozen=True):
    """What a backend can do. What is missing here is refused by name before a pod is created.

    Attributes:
        pod_fields: paths below `spec` that the backend honours, beside those that the agent itself
            resolves (`model/fields.py`): `containers[].resources.limits.cpu`, with `[]` for any item.
            A trailing `.*` takes everything below.
        verbs: of `logs`, `exec`, `attach`, `port-forward`, `metrics`, `debug`.
        reads_files: it gives pods the files of their volumes; otherwise no token is asked for on their behalf.
    """

    pod_fields: frozenset[str]
    verbs: frozenset[str]
    reads_files: bool = True


class LogOptions(Struct, frozen=True):
    """PodLogOptions as the kubelet takes them (`since_time` in seconds since 1970; an empty `stream` means both)."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since_time: float | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None
    stream: Literal["", "Stdout", "Stderr"] = ""


class ContainerUsage(Struct, frozen=True):
    """One container's consumption since its start: cumulative CPU seconds, working set in bytes."""

    name: str
    cpu_seconds: float
    memory_bytes: int
    started_at: float


class PodUsage(Struct, frozen=True):
    """One pod's consumption, sampled at `sampled_at` (seconds since 1970)."""

    identity: Identity
    sampled_at: float
    containers: tuple[ContainerUsage, ...]


class ProbeCount(Struct, frozen=True):
    """How one probe of one container went, since this process looks after its pod.

    Attributes:
        kind: `Liveness`, `Readiness` or `Startup`.
        successful, failed: answers of either kind; one that could not be had is none.
        took: of the successful ones, how many took up to each of `TOOK_BOUNDS` and no less; then the longer ones.
        seconds: that they took together.
    """

    identity: Identity
    container: str
    kind: str
    successful: int
    failed: int
    took: tuple[int, ...]
    seconds: float


# Prometheus' usual bounds, in seconds, which are the kubelet's for probes.
TOOK_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Process(Protocol):
    """A process in a container, or a container attached to: three byte streams and an end."""

    async def write(self, data: bytes) -> None:
        """Write to stdin; returns when there is room for more."""

    async def close_stdin(self) -> None:
        """End stdin; stdout and stderr stay open."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (1, bytes) of stdout and (2, bytes) of stderr until both end; a terminal has only 1."""

    async def resize(self, *, width: int, height: int) -> None:
        """Set the size of the terminal; ignored without one."""

    async def wait(self) -> int:
        """The exit code, once `output` has ended. An attached container that runs on answers 0."""

    async def close(self) -> None:
        """Let go: an exec'd process is killed, an attached container is left running."""


@runtime_checkable
class Backend(Protocol):
    """Runs pods. Used as an async context manager; keeps no state that a listing does not bring back.

    A method may raise `Retry` (cannot tell), `Throttled`, or `Misconfigured` besides what it names.
    """

    name: str
    capabilities: Capabilities

    async def __aenter__(self) -> Self:
        """Connect, find again everything of this cluster and node, and start to look after it."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything without stopping any pod."""

    async def create(self, work: WorkSpec) -> None:
        """Take a pod on; returns once it is recorded, long before it runs.

        The same (uid, attempt) again is no error and makes nothing new, also after a lost reply.
        Trouble that comes later (an image that cannot be pulled) shows in observations.

        Raises:
            Unsupported: a field or value cannot be honoured; nothing was created.
            Rejected: the backend refused it as wrong; nothing was created.
        """

    async def delete(self, identity: Identity, *, grace_seconds: int) -> None:
        """Ask for a pod's end: SIGTERM, `grace_seconds`, SIGKILL; returns at once, `Gone` follows in `watch`.

        Again with a shorter grace shortens it; with a longer one changes nothing.

        Raises:
            NotFound: there is no such pod (any more).
        """

    async def list(self) -> Sequence[Observation]:
        """Every pod of this cluster and node. Complete, or an error; never a part."""

    def watch(self) -> AsyncIterator[Sequence[Sighting]]:
        """Batches of what changed, from the call on; the agent lists after it has begun to watch.

        Ends only by cancellation or with an error; the agent then watches and lists anew.
        """

    async def refresh(self, identity: Identity, volumes: Mapping[str, Volume]) -> None:
        """Replace the files of a running pod's volumes, each volume atomically.

        Raises:
            NotFound: there is no such pod.
        """

    async def add_ephemeral(self, identity: Identity, containers: Sequence[Container]) -> None:
        """Start ephemeral containers in a running pod (verb `debug`); one whose name is known stays as it is.

        Returns once it is recorded; `Observation.ephemeral_containers` tells how they fare.

        Raises:
            NotFound: there is no such pod.
            Unsupported, Rejected: they cannot be had; nothing has changed.
        """

    async def resize(self, identity: Identity, resources: Mapping[str, Resources]) -> None:
        """Give containers of a pod, by name, other requests and limits of CPU and memory.

        Returns once it is recorded. `ContainerObservation.allocated` and `.resources` tell how far it is.

        Raises:
            NotFound: there is no such pod.
            Unsupported: a running pod cannot be resized; nothing has changed.
        """

    async def change_images(self, identity: Identity, images: Mapping[str, str]) -> None:
        """Run containers of a pod, by name, from other images; those that run are ended and started anew.

        Returns once it is recorded. `ContainerObservation.image` tells what a container runs from.

        Raises:
            NotFound: there is no such pod.
            Unsupported: a pod keeps the images that it was made with; nothing has changed.
        """

    def logs(self, identity: Identity, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The container's output in pieces; with `follow` until the container ends.

        Raises:
            NotFound: no such pod or container, or no previous run of it; says which.
            Rejected: the container has not started; says what it waits for.
            Unsupported: its streams are kept in one, and cannot be told apart.
        """

    async def exec(
        self, identity: Identity, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> Process:
        """Start a process in a running container.

        Raises:
            NotFound: no such pod, or the container is not running.
        """

    async def attach(self, identity: Identity, container: str, *, stdin: bool, tty: bool) -> Process:
        """Attach to the container's main process.

        Raises:
            NotFound: no such pod, or the container is not running.
        """

    async def port_forward(self, identity: Identity, port: int) -> Process:
        """Connect to a port on the pod's loopback; `output` yields what it sends as stdout.

        Raises:
            NotFound: no such pod, or nothing listens there.
        """

    async def usage(self) -> Sequence[PodUsage]:
        """What the running containers of this node use, from the latest samples."""

    async def health(self) -> None:
        """Return when the backend answers; raises `Retry` or `Misconfigured` with the reason if not."""


@runtime_checkable
class Probing(Protocol):
    """What a backend is besides if it asks probes itself, and so can tell how they went."""

    def probe_counts(self) -> Iterable[ProbeCount]:
        """Of the probes of all pods; those of a pod go with it."""


class Demand(Struct, frozen=True):
    """What one budget of calls is asked for.

    Attributes:
        waiting: calls that wait for their turn now.
        made: calls that were made since the start.
        eta: seconds until a call would be made that came now.
        rate: calls per second that the whole account may make.
    """

    waiting: int
    made: int
    eta: float
    rate: float


class Share(Struct, frozen=True):
    """The part of an account's quotas that one agent may use; 1 is all of them.

    Attributes:
        fair: of every burst, and of the rate of budgets that are not in `rates`.
        rates: by budget, of its calls per second.
    """

    fair: float = 1.0
    rates: Mapping[str, float] = {}


@runtime_checkable
class Located(Protocol):
    """What a backend is besides if it knows in which part of the world its pods run."""

    async def node_labels(self) -> Mapping[str, str]:
        """The labels by which a scheduler tells it; those of the agent's settings go before them."""


@runtime_checkable
class Metered(Protocol):
    """What a backend is besides if its calls count against quotas that the agents of a cluster share.

    Attributes:
        quota: names the quotas; agents of the same name share them. Must be a label's value.
        share: set by the agent, at any time.
    """

    name: str
    quota: str
    share: Share

    def demand(self) -> Mapping[str, Demand]:
        """Of the budgets that are worth sharing by demand; always the same ones."""


class ContainerGroup(Struct, frozen=True, kw_only=True):
    """One group as the cloud has it: the containers of one attempt of one pod, on whichever virtual node.

    Attributes:
        id: the backend's name of it, which never names another group.
        created_at: seconds since 1970; 0 if the backend does not say.
        status: in the backend's own word, for people.
        terminating: its end was asked for, and the backend will bring it about by itself.
        ended: its containers have ended for good.
        price: per second, of what it costs now; None if that is not known.
        currency: of the price.
    """

    id: str
    identity: Identity
    created_at: float
    status: str
    terminating: bool = False
    ended: bool = False
    price: Decimal | None = Decimal(0)
    currency: str = ""


class Listing(Struct, frozen=True):
    """Every group of one cluster, and how many others there are where these are.

    Attributes:
        groups: of this cluster, of all its nodes.
        foreign: how many carry another cluster's id, or none. They are counted and nothing more.
    """

    groups: Sequence[ContainerGroup]
    foreign: int


class Inventory(Protocol):
    """What a backend holds of one cluster, over all nodes, seen by nobody's agent. An async context manager.

    It has calls of its own to make, few enough that no agent waits longer for its turn. A method may raise
    `Retry` (cannot tell), `Throttled` or `Misconfigured` besides what it names.

    Attributes:
        cluster: the id by which the agents of the cluster mark what is theirs.
    """

    cluster: str

    async def __aenter__(self) -> Self:
        """Connect."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go."""

    async def list(self) -> Listing:
        """Every group of this cluster. Complete, or an error; never a part."""

    async def remove(self, group: ContainerGroup) -> None:
        """Ask for the end of one group; returns once that was accepted, a later `list` shows it gone.

        Raises:
            NotFound: there is none of this id any more.
            Conflict: it is not of the identity that `group` has; nothing was removed.
        """


@runtime_checkable
class Inventoried(Protocol):
    """What a backend's factory is besides if its groups outlive the agent that made them."""

    def inventory(self, *, cluster: str, options: Mapping[str, Any]) -> Inventory:
        """The view of the whole cluster; `options` are those of the agents.

        Raises:
            Misconfigured: an option is unknown or wrong.
            Unsupported: nothing outlives its agent here, and why.
        """
