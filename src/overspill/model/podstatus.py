"""v1.PodStatus as it is written, and how it follows from an observation.

In: one `Observation` and the node's address. Out: a `PodStatus`. Invariant: a
pure function of its inputs, with every time taken from the observation, so that
the same observation always gives the same bytes and a write that changes
nothing can be left out.
Sources: k8s.io/api/core/v1/types.go (PodStatus); the phase rules of
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from overspill.model.observation import ContainerObservation, Observation, Running, State, Terminated, Waiting
from overspill.model.requirements import Requirements, requirements
from overspill.model.work import Identity

__all__ = [
    "Condition",
    "Gate",
    "NoCondition",
    "PodStatus",
    "encode",
    "failed_status",
    "phase_of",
    "ready_since",
    "refused_status",
    "seconds",
    "timestamp",
    "to_pod_status",
    "waiting_status",
]

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]
encoder = msgspec.json.Encoder()


class Condition(Struct, frozen=True, rename="camel"):
    """One condition of a pod.

    An empty reason is written as such: a strategic merge would keep the old one.
    `observed_generation` is that of the pod that it was made from (KEP-5067).
    """

    type: str
    status: Literal["True", "False"]
    last_transition_time: str
    reason: str = ""
    message: str = ""
    observed_generation: int | UnsetType = UNSET


class NoCondition(Struct, frozen=True):
    """A directive to the apiserver: this condition holds no longer, and is to be removed."""

    type: str
    directive: Literal["delete"] = msgspec.field(name="$patch", default="delete")


class RunningState(Struct, frozen=True, rename="camel"):
    """ContainerStateRunning."""

    started_at: str


class WaitingState(Struct, frozen=True, rename="camel", omit_defaults=True):
    """ContainerStateWaiting."""

    reason: str = ""
    message: str = ""


class TerminatedState(Struct, frozen=True, rename="camel"):
    """ContainerStateTerminated."""

    exit_code: int
    reason: str
    started_at: str
    finished_at: str
    container_id: str | UnsetType = msgspec.field(name="containerID", default=UNSET)
    message: str | UnsetType = UNSET
    signal: int | UnsetType = UNSET


class ContainerState(Struct, frozen=True, rename="camel"):
    """ContainerState: at most one of its members."""

    waiting: WaitingState | UnsetType = UNSET
    running: RunningState | UnsetType = UNSET
    terminated: TerminatedState | UnsetType = UNSET


NO_STATE = ContainerState()
LONGEST_MESSAGE = 1024  # of a pod that waits, as of Events


class ContainerStatus(Struct, frozen=True, rename="camel"):
    """ContainerStatus."""

    name: str
    state: ContainerState
    last_state: ContainerState
    ready: bool
    started: bool
    restart_count: int
    image: str
    image_id: str = msgspec.field(name="imageID")
    container_id: str | UnsetType = msgspec.field(name="containerID", default=UNSET)
    stop_signal: str | UnsetType = UNSET
    allocated_resources: dict[str, str] | UnsetType = UNSET
    resources: Requirements | UnsetType = UNSET


class Gate(Struct, frozen=True):
    """A readiness gate of a pod: a condition that others set, and that has to be True for the pod to be Ready.

    Attributes:
        status: of that condition, None while nobody has set it.
        since: when it last changed, seconds since 1970.
    Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate
    """

    type: str
    status: str | None = None
    since: float = 0.0


class Address(Struct, frozen=True):
    """One of podIPs or hostIPs; or, as the first, a directive to the apiserver.

    A strategic merge patch merges both lists by `ip`: without the directive, an address that
    changed (an agent's pod was replaced) would be added to the old one, and be refused as a second one.
    Source: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
    """

    ip: str | UnsetType = UNSET
    directive: str | UnsetType = msgspec.field(name="$patch", default=UNSET)


REPLACE_LIST = Address(directive="replace")


class PodStatus(Struct, frozen=True, rename="camel"):
    """The part of v1.PodStatus that a node writes."""

    phase: Phase
    start_time: str
    conditions: tuple[Condition | NoCondition, ...]
    container_statuses: tuple[ContainerStatus, ...] | UnsetType = UNSET
    init_container_statuses: tuple[ContainerStatus, ...] | UnsetType = UNSET
    ephemeral_container_statuses: tuple[ContainerStatus, ...] | UnsetType = UNSET
    host_ip: str | UnsetType = msgspec.field(name="hostIP", default=UNSET)
    host_ips: tuple[Address, ...] | UnsetType = msgspec.field(name="hostIPs", default=UNSET)
    pod_ip: str | UnsetType = msgspec.field(name="podIP", default=UNSET)
    pod_ips: tuple[Address, ...] | UnsetType = msgspec.field(name="podIPs", default=UNSET)
    reason: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    observed_generation: int | UnsetType = UNSET


def encode(status: PodStatus) -> bytes:
    """The status as JSON, the same bytes for the same status."""
    return encoder.encode(status)


def timestamp(seconds: float) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes metav1.Time."""
    return _second(int(seconds))


@lru_cache(maxsize=1024)  # a burst of pods shares its few seconds
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()


def phase_of(seen: Observation) -> Phase:
    """The phase, by the kubelet's rules; sidecars put off an end, but have no say in what it is.

    A pod that was given up has failed once nothing of it runs any more (pkg/kubelet/status, mergePodStatus).
    """
    sidecars = [init for init in seen.init_containers if init.sidecar]
    running = any(isinstance(sidecar.state, Running) for sidecar in sidecars)
    if (seen.failed and not seen.ending) or (any(map(_lost, seen.init_containers)) and not running):
        return "Failed"
    if not seen.containers or not _initialized(seen):
        return "Pending"
    states = [container.state for container in seen.containers]
    if all(isinstance(state, Terminated) for state in states) and not any(
        c.will_restart for c in seen.containers
    ):
        clean = all(isinstance(state, Terminated) and state.exit_code == 0 for state in states)
        return "Running" if running else "Succeeded" if clean else "Failed"
    return "Pending" if any(map(_never_started, seen.containers)) else "Running"


def to_pod_status(
    seen: Observation, *, host_ip: str, gates: tuple[Gate, ...] = (), start_time: str | None = None
) -> PodStatus:
    """The status that follows from an observation, and from what others say of the pod.

    `start_time` is the one that it has, as RFC 3339: a pod starts once, however often it is taken on
    (pkg/kubelet/status, updateStatusInternal).
    """
    phase = phase_of(seen)
    return PodStatus(
        phase=phase,
        start_time=start_time or timestamp(seen.started_at),
        conditions=_conditions(seen, phase, gates),
        container_statuses=tuple(map(_container_status, seen.containers)),
        init_container_statuses=tuple(map(_container_status, seen.init_containers)) or UNSET,
        ephemeral_container_statuses=tuple(map(_container_status, seen.ephemeral_containers)) or UNSET,
        host_ip=host_ip,
        host_ips=(REPLACE_LIST, Address(host_ip)),
        pod_ip=seen.ips[0] if seen.ips else UNSET,
        pod_ips=(REPLACE_LIST, *map(Address, seen.ips)) if seen.ips else UNSET,
        reason=(seen.reason or UNSET) if phase == "Failed" else UNSET,
        message=(seen.message or UNSET) if phase == "Failed" else UNSET,
    )


def waiting_status(
    identity: Identity,
    images: Iterable[tuple[str, str]],
    *,
    since: float,
    host_ip: str,
    reason: str,
    message: str = "",
) -> PodStatus:
    """The status of a pod that the backend has not been asked for yet; `images` are (container, image)."""
    if len(message) > LONGEST_MESSAGE:  # each container repeats it
        message = f"{message[: LONGEST_MESSAGE - 2]} …"
    waiting = tuple(ContainerObservation(name, Waiting(reason, message), image) for name, image in images)
    return to_pod_status(
        Observation(identity, since, waiting, reason=reason, message=message), host_ip=host_ip
    )


def refused_status(*, since: float, reason: str, message: str) -> PodStatus:
    """The terminal status of a pod that this node refuses, as the kubelet's admission writes it."""
    return PodStatus(
        phase="Failed",
        start_time=timestamp(since),
        conditions=(),
        container_statuses=(),
        reason=reason or UNSET,
        message=message or UNSET,
    )


def failed_status(*, since: float, now: float, reason: str, message: str) -> PodStatus:
    """The terminal status of a pod that may have run, of which nothing is seen; what was told of its containers stays."""
    return PodStatus(
        phase="Failed",
        start_time=timestamp(since),
        conditions=tuple(
            _condition(kind, on=False, at=now, reason="PodFailed") for kind in ("ContainersReady", "Ready")
        ),
        reason=reason,
        message=message,
    )


def _never_started(container: ContainerObservation) -> bool:
    return isinstance(container.state, Waiting) and container.last_state is None


def _initialized(seen: Observation) -> bool:
    """Whether the init containers have done their part; once an app container has begun, sidecars have."""
    begun = not all(map(_never_started, seen.containers))
    return all((begun or init.started) if init.sidecar else _completed(init) for init in seen.init_containers)


def _completed(init: ContainerObservation) -> bool:
    return isinstance(init.state, Terminated) and init.state.exit_code == 0


def _lost(init: ContainerObservation) -> bool:
    ended = isinstance(init.state, Terminated) and init.state.exit_code != 0
    return ended and not init.will_restart and not init.sidecar


def _conditions(seen: Observation, phase: Phase, gates: tuple[Gate, ...]) -> tuple[Condition, ...]:
    started = seen.started_at
    initialized_at = max([started, *(_finished(init) for init in seen.init_containers if not init.sidecar)])
    initialized = _initialized(seen)
    # Sidecars count for Ready, the other init containers do not.
    asked = [*(init for init in seen.init_containers if init.sidecar), *seen.containers]
    changed_at = max([initialized_at, *(ready_since(c) for c in asked)])
    unready = [c.name for c in asked if not c.ready]
    reason, message = _unready(phase, unready) if unready or phase != "Running" else ("", "")
    containers_ready = _condition(
        "ContainersReady", on=not reason, at=changed_at, reason=reason, message=message
    )
    return (
        _prepared(seen, phase),
        _condition("Initialized", on=initialized, at=initialized_at)
        if initialized
        else _condition(
            "Initialized",
            on=False,
            at=started,
            reason="ContainersNotInitialized",
            message=_uninitialized(seen),
        ),
        containers_ready,
        _ready(containers_ready, changed_at, gates),
        *_provisioned(seen),
    )


def _prepared(seen: Observation, phase: Phase) -> Condition:
    """Whether the pod has a place and an address; if not, why, where nothing else than this tells."""
    waits = phase == "Pending" and seen.provisioned is None and not seen.ips
    reason, message = (seen.reason, seen.message) if waits else ("", "")
    return _condition(
        "PodReadyToStartContainers", on=bool(seen.ips), at=seen.started_at, reason=reason, message=message
    )


def _unready(phase: Phase, unready: list[str]) -> tuple[str, str]:
    """Reason and message of a pod that is not ready."""
    if phase == "Succeeded":
        return "PodCompleted", ""
    if phase == "Failed":
        return "PodFailed", ""
    return "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"


def _ready(containers: Condition, changed_at: float, gates: tuple[Gate, ...]) -> Condition:
    """Ready: the containers are, and every readiness gate is open."""
    if gates and containers.status == "True":
        changed_at = max(changed_at, *(gate.since for gate in gates))
        closed = [_closed(gate) for gate in gates if gate.status != "True"]
        if closed:
            message = ", ".join(closed)
            return _condition(
                "Ready", on=False, at=changed_at, reason="ReadinessGatesNotReady", message=message
            )
        return _condition("Ready", on=True, at=changed_at)
    return structs.replace(containers, type="Ready")


def _closed(gate: Gate) -> str:
    if gate.status is None:
        return f'corresponding condition of pod readiness gate "{gate.type}" does not exist.'
    return f'the status of pod readiness gate "{gate.type}" is not "True", but {gate.status}'


def _provisioned(seen: Observation) -> tuple[Condition, ...]:
    """Whether the backend found room, for whoever places pods; only of backends that can run out of it."""
    if seen.provisioned is None:
        return ()
    reason, message = ("", "") if seen.provisioned else (seen.reason, seen.message)
    return (
        _condition(
            "InstanceProvisioned", on=seen.provisioned, at=seen.started_at, reason=reason, message=message
        ),
    )


def _condition(kind: str, *, on: bool, at: float, reason: str = "", message: str = "") -> Condition:
    return Condition(kind, "True" if on else "False", timestamp(at), reason, message)


def _uninitialized(seen: Observation) -> str:
    names = " ".join(
        init.name for init in seen.init_containers if not (init.started if init.sidecar else _completed(init))
    )
    return f"containers with incomplete status: [{names}]"


def _finished(container: ContainerObservation) -> float:
    return container.state.finished_at if isinstance(container.state, Terminated) else 0.0


def ready_since(container: ContainerObservation) -> float:
    """When a container last changed in a way that its readiness depends on."""
    state = container.state
    if isinstance(state, Running):
        return max(state.started_at, container.changed_at)
    ended = state if isinstance(state, Terminated) else container.last_state
    return ended.finished_at if isinstance(ended, Terminated) else 0.0


def _container_status(seen: ContainerObservation) -> ContainerStatus:
    return ContainerStatus(
        name=seen.name,
        state=_state(seen.state, seen.container_id),
        last_state=_state(seen.last_state, "") if seen.last_state else NO_STATE,
        ready=seen.ready,
        started=seen.started,
        restart_count=seen.restarts,
        image=seen.image,
        image_id=seen.image_id,
        container_id=seen.container_id or UNSET,
        stop_signal=seen.stop_signal or UNSET,
        allocated_resources=requirements(seen.allocated).requests if seen.allocated else UNSET,
        resources=requirements(seen.resources) if seen.resources else UNSET,
    )


def _state(state: State, container_id: str) -> ContainerState:
    if isinstance(state, Running):
        return ContainerState(running=RunningState(timestamp(state.started_at)))
    if isinstance(state, Waiting):
        return ContainerState(waiting=WaitingState(state.reason, state.message))
    return ContainerState(
        terminated=TerminatedState(
            exit_code=state.exit_code,
            reason=state.reason,
            started_at=timestamp(state.started_at),
            finished_at=timestamp(state.finished_at),
            container_id=container_id or UNSET,
            message=state.message or UNSET,
            signal=state.signal or UNSET,
        )
    )
