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
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from overspill.model.observation import ContainerObservation, Observation, Running, State, Terminated, Waiting
from overspill.model.work import Identity

__all__ = [
    "Condition",
    "PodStatus",
    "encode",
    "phase_of",
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
    """

    type: str
    status: Literal["True", "False"]
    last_transition_time: str
    reason: str = ""
    message: str = ""


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
    conditions: tuple[Condition, ...]
    container_statuses: tuple[ContainerStatus, ...]
    init_container_statuses: tuple[ContainerStatus, ...] | UnsetType = UNSET
    host_ip: str | UnsetType = msgspec.field(name="hostIP", default=UNSET)
    host_ips: tuple[Address, ...] | UnsetType = msgspec.field(name="hostIPs", default=UNSET)
    pod_ip: str | UnsetType = msgspec.field(name="podIP", default=UNSET)
    pod_ips: tuple[Address, ...] | UnsetType = msgspec.field(name="podIPs", default=UNSET)
    reason: str | UnsetType = UNSET
    message: str | UnsetType = UNSET


def encode(status: PodStatus) -> bytes:
    """The status as JSON, the same bytes for the same status."""
    return encoder.encode(status)


def timestamp(seconds: float) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes metav1.Time."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()


def phase_of(seen: Observation) -> Phase:
    """The phase, by the kubelet's rules."""
    if seen.failed or any(_lost(init) for init in seen.init_containers):
        return "Failed"
    if any(not _completed(init) for init in seen.init_containers):
        return "Pending"
    states = [container.state for container in seen.containers]
    if all(isinstance(state, Terminated) for state in states) and not any(
        c.will_restart for c in seen.containers
    ):
        clean = all(isinstance(state, Terminated) and state.exit_code == 0 for state in states)
        return "Succeeded" if clean else "Failed"
    never_started = any(isinstance(c.state, Waiting) and c.last_state is None for c in seen.containers)
    return "Pending" if never_started else "Running"


def to_pod_status(seen: Observation, *, host_ip: str) -> PodStatus:
    """The status that follows from an observation."""
    phase = phase_of(seen)
    return PodStatus(
        phase=phase,
        start_time=timestamp(seen.started_at),
        conditions=_conditions(seen, phase),
        container_statuses=tuple(map(_container_status, seen.containers)),
        init_container_statuses=tuple(map(_container_status, seen.init_containers)) or UNSET,
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
    waiting = tuple(ContainerObservation(name, Waiting(reason, message), image) for name, image in images)
    return to_pod_status(Observation(identity, since, waiting), host_ip=host_ip)


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


def _completed(init: ContainerObservation) -> bool:
    return isinstance(init.state, Terminated) and init.state.exit_code == 0


def _lost(init: ContainerObservation) -> bool:
    return isinstance(init.state, Terminated) and init.state.exit_code != 0 and not init.will_restart


def _conditions(seen: Observation, phase: Phase) -> tuple[Condition, ...]:
    started = seen.started_at
    initialized_at = max([started, *(_finished(init) for init in seen.init_containers)])
    initialized = all(map(_completed, seen.init_containers))
    ready = bool(seen.containers) and all(c.ready for c in seen.containers) and phase == "Running"
    changed_at = max([initialized_at, *(_since(c.state) for c in seen.containers)])
    if ready:
        reason, message = "", ""
    elif phase == "Succeeded":
        reason, message = "PodCompleted", ""
    elif phase == "Failed":
        reason, message = "PodFailed", ""
    else:
        unready = " ".join(c.name for c in seen.containers if not c.ready)
        reason, message = "ContainersNotReady", f"containers with unready status: [{unready}]"
    return (
        _condition("PodReadyToStartContainers", on=bool(seen.ips), at=started),
        _condition("Initialized", on=initialized, at=initialized_at)
        if initialized
        else _condition(
            "Initialized",
            on=False,
            at=started,
            reason="ContainersNotInitialized",
            message=_uninitialized(seen),
        ),
        _condition("ContainersReady", on=ready, at=changed_at, reason=reason, message=message),
        _condition("Ready", on=ready, at=changed_at, reason=reason, message=message),
        *_provisioned(seen),
    )


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
    names = " ".join(init.name for init in seen.init_containers if not _completed(init))
    return f"containers with incomplete status: [{names}]"


def _finished(container: ContainerObservation) -> float:
    return container.state.finished_at if isinstance(container.state, Terminated) else 0.0


def _since(state: State) -> float:
    if isinstance(state, Running):
        return state.started_at
    return state.finished_at if isinstance(state, Terminated) else 0.0


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
