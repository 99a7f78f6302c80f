"""What a backend sees of a pod: the only input from which a pod's status is made.

In: from `Backend.watch` and `Backend.list`. Out: to `agent/status`. Invariant:
an observation is whole; none is a difference to an earlier one. What `Happened`
is told once, and lost with whoever was told. Times are
seconds since 1970, as `time.time()` gives them.
"""

from msgspec import Struct

from overspill.model.work import Identity, Resources

__all__ = [
    "ContainerObservation",
    "Gone",
    "Happened",
    "Observation",
    "Running",
    "Sighting",
    "State",
    "Terminated",
    "Waiting",
]


class Waiting(Struct, frozen=True, tag="waiting"):
    """Not running yet or again; `reason` is one of the kubelet's words, such as `ContainerCreating`."""

    reason: str
    message: str = ""


class Running(Struct, frozen=True, tag="running"):
    """Running since `started_at`."""

    started_at: float


class Terminated(Struct, frozen=True, tag="terminated"):
    """Ended. `reason` is `Completed`, `Error`, `OOMKilled`, … as the kubelet says it."""

    exit_code: int
    reason: str
    started_at: float
    finished_at: float
    message: str = ""
    signal: int = 0


State = Waiting | Running | Terminated


class ContainerObservation(Struct, frozen=True):
    """One container of a pod.

    Attributes:
        restarts: how often it was started again; counts across restarts of the agent.
        will_restart: it is terminated, and the backend will start it again.
        sidecar: an init container that runs beside the others; these alone decide how the pod ends.
        changed_at: when a probe last changed `ready` or `started`; 0 for never.
        stop_signal: by which it is asked to stop, where the pod says so.
        allocated: the requests and limits that the backend has taken on; None where it does not tell.
        resources: those that it runs with.
        resize_trouble: why it does not run with those that were taken on.
    """

    name: str
    state: State
    image: str
    image_id: str = ""
    container_id: str = ""
    last_state: State | None = None
    ready: bool = False
    started: bool = False
    restarts: int = 0
    will_restart: bool = False
    sidecar: bool = False
    changed_at: float = 0.0
    stop_signal: str = ""
    allocated: Resources | None = None
    resources: Resources | None = None
    resize_trouble: str = ""


class Observation(Struct, frozen=True, tag="observation"):
    """One pod as it stands at the backend.

    Attributes:
        ips: the pod's addresses, first the primary one; empty until it has one.
        started_at: when the backend took the pod on.
        reason: why the pod as a whole failed or waits, such as `DeadlineExceeded` or `NoStock`; usually "".
        failed: the backend gave the pod up for `reason`, whatever its containers say.
        ending: it gave the pod up, and is still stopping what runs of it.
        deleting: its end was asked for and is under way.
        unknown: the backend has it, but cannot tell now how its containers are; what was told of it before holds.
        provisioned: whether the backend found room for it; False with `reason` says why not, None: the
            backend has no such notion.
        annotations: what the backend wants written on the pod, such as the size that is billed.
    """

    identity: Identity
    started_at: float
    containers: tuple[ContainerObservation, ...]
    init_containers: tuple[ContainerObservation, ...] = ()
    ephemeral_containers: tuple[ContainerObservation, ...] = ()
    ips: tuple[str, ...] = ()
    reason: str = ""
    message: str = ""
    failed: bool = False
    ending: bool = False
    deleting: bool = False
    unknown: bool = False
    provisioned: bool | None = None
    annotations: dict[str, str] = {}


class Gone(Struct, frozen=True, tag="gone"):
    """Nothing of this pod is left at the backend, and nothing of it is billed.

    Attributes:
        last: how it stood at the end, where the backend knows.
    """

    identity: Identity
    last: Observation | None = None


class Happened(Struct, frozen=True, tag="happened"):
    """Something to tell the user that no later observation shows, such as a probe's failure.

    Attributes:
        container: whom it is about, by the path of its field: `spec.containers{web}`.
        reason: of the Event, in the kubelet's words.
    """

    identity: Identity
    container: str
    reason: str
    message: str
    warning: bool = True


Sighting = Observation | Gone | Happened
