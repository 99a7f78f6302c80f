"""From what ECI tells of a container group to the `Observation` of its pod.

In: what we know of the group, its entries of DescribeContainerGroupStatus and, where there
is one, of DescribeContainerGroups. Out: an `Observation`. Pure. Invariant: a state that ECI
does not tell is never made up as an end; where it tells nothing of a container, it waits.
Source: ECI's states, https://help.aliyun.com (container group life cycle, 2025-01).
"""

import hashlib
import re
from typing import TypeVar

from msgspec import Struct, structs

from overspill.backends.eci.answers import (
    Condition,
    ContainerStatus,
    GroupContainer,
    GroupEntry,
    PlainState,
    StatusEntry,
    at,
)
from overspill.backends.eci.answers import State as ToldState
from overspill.model.observation import ContainerObservation, Observation, Running, State, Terminated, Waiting
from overspill.model.work import Identity

__all__ = [
    "ENDED",
    "NO_ADDRESS",
    "NO_STOCK",
    "QUOTA",
    "SPOT",
    "Group",
    "container_id",
    "observe",
    "provision_reason",
]

# Why there is no instance: the reasons of the condition InstanceProvisioned=False.
NO_STOCK, QUOTA, NO_ADDRESS, SPOT, UNPLACED = (
    "NoStock",
    "QuotaExceeded",
    "NoAddress",
    "SpotInterrupted",
    "ScheduleFailed",
)
ENDED = frozenset({"Succeeded", "Failed", "Expired", "ScheduleFailed"})
UNCREATED = frozenset({"", "Scheduling", "ScheduleFailed"})
POD_OF_MESSAGE = re.compile(r"\bpod=\S+")
READY_CONDITION = "ContainersReady"
CREATED_CONDITION = "ContainerInstanceCreated"
EXPIRING_CONDITION = "ContainerInstanceExpired"


S = TypeVar("S", State, State | None)


class Group(Struct, frozen=True, kw_only=True):
    """What is known of a container group beside its state.

    Attributes:
        containers: name and image of each, in the order of the pod; likewise `init_containers` and
            `sidecars`, which are containers to ECI.
        from_logs: the containers whose log's end stands for a message that they did not write.
        created_at: when it was asked for, seconds since 1970.
        fail_fast: the pod fails when no room is found for it.
        annotations: what is to be written on the pod.
        deleting: its deletion was asked for.
    """

    id: str
    identity: Identity
    containers: tuple[tuple[str, str], ...]
    init_containers: tuple[tuple[str, str], ...] = ()
    sidecars: tuple[tuple[str, str], ...] = ()
    from_logs: frozenset[str] = frozenset()
    restart_policy: str = "Always"
    created_at: float
    fail_fast: bool = False
    annotations: dict[str, str] = {}
    deleting: bool = False


def observe(group: Group, entry: StatusEntry | None, detail: GroupEntry | None = None) -> Observation:
    """The pod as it stands; without an entry it has just been asked for."""
    status = entry.status if entry else ""
    pod = entry.pod_status if entry else None
    init = _init_containers(group, status, detail)
    prepared = all(isinstance(c.state, Terminated) for c in init)
    told = {each.name: each for each in pod.container_statuses} if pod else {}
    begun = at(pod.start_time) if pod else 0.0
    ready_at = _ready_at(pod.conditions) if pod else 0.0
    provisioned, reason, message = _provisioned(status, pod.conditions if pod else (), detail)
    failed = status in {"Failed", "Expired"} or (status == "ScheduleFailed" and group.fail_fast)
    if failed and not reason:
        reason, message = _failure(detail)

    def container(name: str, image: str) -> ContainerObservation:
        return _container(
            group,
            name,
            image,
            told.get(name),
            status=status,
            since=begun,
            prepared=prepared,
            ready_at=ready_at,
        )

    return Observation(
        identity=group.identity,
        started_at=begun or group.created_at,
        containers=tuple(container(name, image) for name, image in group.containers),
        init_containers=(*init, *(_beside(container(name, image)) for name, image in group.sidecars)),
        ips=tuple(address.ip for address in pod.pod_ips if address.ip)
        or ((pod.pod_ip,) if pod.pod_ip else ())
        if pod
        else (),
        reason=reason,
        message=message,
        failed=failed,
        deleting=group.deleting or status == "Terminating",
        provisioned=provisioned,
        annotations=group.annotations,
    )


def container_id(group_id: str, name: str) -> str:
    """An id for a container, which ECI has none of; as Alibaba's own virtual node makes it."""
    return "eci://" + hashlib.sha256(f"{group_id}/containers/{name}".upper().encode()).hexdigest()


def provision_reason(text: str) -> str:
    """Our word for ECI's reason or error code why there is no instance."""
    lower = text.lower()
    for parts, reason in (
        (
            ("stock", "notonsale", "notmatch", "recommendempty", "instancetypeforeci", "spotcpumemory"),
            NO_STOCK,
        ),
        (("quota", "limitexceed", "perday", "vcpu"), QUOTA),
        (("ipnotenough", "vswitch", "address"), NO_ADDRESS),
        (("spot", "bidfailed", "expired"), SPOT),
    ):
        if any(part in lower for part in parts):
            return reason
    return UNPLACED


def _provisioned(
    status: str, conditions: tuple[Condition, ...], detail: GroupEntry | None
) -> tuple[bool | None, str, str]:
    """Whether there is an instance, and if not, why; the last two are empty when there is."""
    found = {condition.type: condition for condition in conditions}
    if status == "Expired":
        return False, SPOT, _events(detail) or "ECI took the spot instance back (BidFailed)"
    expiring = found.get(EXPIRING_CONDITION)
    if expiring is not None and expiring.status == "True" and status not in ENDED:
        return False, SPOT, expiring.message or "ECI is about to take the spot instance back"
    if status not in UNCREATED:
        return True, "", ""
    created = found.get(CREATED_CONDITION)
    if created is not None and created.status == "False" and created.reason not in {"", "Creating"}:
        return False, provision_reason(created.reason), f"{created.reason}: {created.message}"
    if status == "ScheduleFailed":
        return False, UNPLACED, _events(detail) or "ECI could not schedule the container group"
    return None, "", ""


def _ready_at(conditions: tuple[Condition, ...]) -> float:
    """When the containers last became ready, or ceased to be; 0 if it is not told."""
    return max(
        (at(each.last_transition_time) for each in conditions if each.type == READY_CONDITION), default=0.0
    )


def _failure(detail: GroupEntry | None) -> tuple[str, str]:
    """Why a group as a whole has failed, from its Events; nothing where its containers say it."""
    for event in reversed(detail.events if detail else ()):
        if "deadline" in (event.reason + event.message).lower():
            return "DeadlineExceeded", event.message
    return "", ""


def _events(detail: GroupEntry | None) -> str:
    """The group's last warning."""
    warnings = [f"{e.reason}: {e.message}" for e in (detail.events if detail else ()) if e.type == "Warning"]
    return warnings[-1] if warnings else ""


def _container(
    group: Group,
    name: str,
    image: str,
    told: ContainerStatus | None,
    *,
    status: str,
    since: float,
    prepared: bool,
    ready_at: float,
) -> ContainerObservation:
    if told is None:
        return ContainerObservation(name, _not_yet(prepared=prepared), image)
    state = _named(_state(told.state, since=since or group.created_at, prepared=prepared), group.identity)
    return ContainerObservation(
        name=name,
        state=state,
        image=told.image or image,
        image_id=told.image_id,
        container_id=container_id(group.id, name) if not _fresh(told) else "",
        last_state=None if _empty(told.last_state) else _state(told.last_state, since=0.0, prepared=True),
        ready=told.ready and isinstance(state, Running),
        started=isinstance(state, Running),
        restarts=told.restart_count,
        will_restart=_restarts(group, state, status),
        changed_at=ready_at,
    )


def _beside(container: ContainerObservation) -> ContainerObservation:
    """A sidecar, which the pod has among its init containers."""
    return structs.replace(container, sidecar=True)


def _fresh(told: ContainerStatus) -> bool:
    return not (told.state.running or told.state.terminated or told.restart_count)


def _empty(state: ToldState) -> bool:
    return not (state.waiting or state.running or state.terminated)


def _state(told: ToldState, *, since: float, prepared: bool) -> State:
    if told.terminated is not None:
        end = told.terminated
        return Terminated(
            exit_code=end.exit_code,
            reason=end.reason or ("Completed" if end.exit_code == 0 else "Error"),
            started_at=at(end.started_at),
            finished_at=at(end.finished_at),
            message=end.message,
            signal=end.signal,
        )
    if told.running is not None:
        return Running(told.running.since or since)
    if told.waiting is not None and told.waiting.reason:
        return Waiting(told.waiting.reason, told.waiting.message)
    return _not_yet(prepared=prepared)


def _not_yet(*, prepared: bool) -> Waiting:
    return Waiting("ContainerCreating" if prepared else "PodInitializing")


def _restarts(group: Group, state: State, status: str) -> bool:
    if status in ENDED or group.deleting or status == "Terminating":
        return False
    if isinstance(state, Waiting):
        return state.reason == "CrashLoopBackOff"
    if not isinstance(state, Terminated):
        return False
    return group.restart_policy == "Always" or (group.restart_policy == "OnFailure" and state.exit_code != 0)


def _init_containers(
    group: Group, status: str, detail: GroupEntry | None
) -> tuple[ContainerObservation, ...]:
    told = {each.name: each for each in detail.init_containers} if detail else {}
    return tuple(
        _init_container(group, name, image, told.get(name), status) for name, image in group.init_containers
    )


def _init_container(
    group: Group, name: str, image: str, told: GroupContainer | None, status: str
) -> ContainerObservation:
    state = _named(_plain(told.current_state), group.identity) if told else None
    if status in {"Running", "Succeeded"} and not (isinstance(state, Terminated) and state.exit_code == 0):
        # Containers run only once all init containers have completed, whatever an older answer said.
        state = Terminated(0, "Completed", group.created_at, group.created_at)
    previous = _plain(told.previous_state) if told else None
    return ContainerObservation(
        name=name,
        state=state or Waiting("PodInitializing"),
        image=image,
        container_id=container_id(group.id, name) if isinstance(state, Running | Terminated) else "",
        last_state=previous,
        ready=isinstance(state, Terminated) and state.exit_code == 0,
        started=isinstance(state, Running),
        restarts=told.restart_count if told else 0,
        will_restart=isinstance(state, Terminated)
        and state.exit_code != 0
        and group.restart_policy != "Never"
        and status not in ENDED,
    )


def _named(state: S, identity: Identity) -> S:
    """The state with the pod's own name in a back-off's message: the group has another one inside."""
    if isinstance(state, Waiting) and state.reason == "CrashLoopBackOff":
        own = f"pod={identity.name}_{identity.namespace}({identity.uid})"
        return Waiting(state.reason, POD_OF_MESSAGE.sub(own, state.message))
    return state


def _plain(told: PlainState) -> State | None:
    """A state in DescribeContainerGroups' words; None where it tells nothing."""
    kind = told.state.lower()
    if kind == "running":
        return Running(at(told.start_time))
    if kind in {"terminated", "succeeded", "failed"}:
        return Terminated(
            exit_code=told.exit_code,
            reason=told.reason or told.detail_status or ("Completed" if told.exit_code == 0 else "Error"),
            started_at=at(told.start_time),
            finished_at=at(told.finish_time),
            message=told.message,
            signal=told.signal,
        )
    if kind == "waiting":
        return Waiting(told.reason or told.detail_status or "PodInitializing", told.message)
    return None
