"""What ECI answers, as far as it is read.

In: an answer's JSON, its keys folded to lower case (`wire.decode`). Out: values. Invariant:
everything has a default, for the service leaves out what is empty; no field here is
trusted to be there but `container_group_id`.
Source: models of the official SDK 2.1.0, whose keys are of mixed case (`StartedAtstartedAt`).
"""

from datetime import datetime

from msgspec import Struct

__all__ = [
    "Condition",
    "ContainerStatus",
    "Created",
    "Event",
    "EventsPage",
    "ExecAnswer",
    "GroupContainer",
    "GroupEntry",
    "GroupsPage",
    "LogAnswer",
    "MetricAnswer",
    "PodStatus",
    "PriceAnswer",
    "State",
    "StatusEntry",
    "StatusPage",
    "VSwitchAttributes",
    "at",
]


def _lower(name: str) -> str:
    return name.replace("_", "")


def at(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time, 0 if there is none or it cannot be read."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


class Answer(Struct, frozen=True, rename=_lower):
    """What every answer holds."""

    request_id: str = ""


class Created(Answer, frozen=True, rename=_lower):
    """Of CreateContainerGroup."""

    container_group_id: str = ""


class Waiting(Struct, frozen=True, rename=_lower):
    """A container that waits."""

    reason: str = ""
    message: str = ""


class Running(Struct, frozen=True, rename=_lower):
    """A container that runs; the service's spelling of its start is not known for sure."""

    started_at: str = ""
    started_at_started_at: str = ""

    @property
    def since(self) -> float:
        """When it started, 0 if the answer does not say."""
        return at(self.started_at or self.started_at_started_at)


class Terminated(Struct, frozen=True, rename=_lower):
    """A container that has ended."""

    container_id: str = ""
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str = ""
    finished_at: str = ""


class State(Struct, frozen=True, rename=_lower):
    """One of its members is set, or none."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Struct, frozen=True, rename=_lower):
    """One container, in the words of Kubernetes."""

    name: str = ""
    image: str = ""
    image_id: str = ""
    ready: bool = False
    started: bool = False
    restart_count: int = 0
    state: State = State()
    last_state: State = State()


class Condition(Struct, frozen=True, rename=_lower):
    """One condition of a group."""

    type: str = ""
    status: str = ""
    last_transition_time: str = ""
    reason: str = ""
    message: str = ""


class PodIp(Struct, frozen=True, rename=_lower):
    """One address."""

    ip: str = ""


class PodStatus(Struct, frozen=True, rename=_lower):
    """A group's status, in the words of Kubernetes."""

    phase: str = ""
    pod_ip: str = ""
    pod_ips: tuple[PodIp, ...] = ()
    start_time: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class StatusEntry(Struct, frozen=True, rename=_lower):
    """One group of DescribeContainerGroupStatus; it tells nothing of init containers or tags."""

    container_group_id: str
    status: str = ""
    pod_status: PodStatus = PodStatus()


class StatusPage(Answer, frozen=True, rename=_lower):
    """Of DescribeContainerGroupStatus."""

    data: tuple[StatusEntry, ...] = ()
    next_token: str = ""
    total_count: int = 0


class Tag(Struct, frozen=True, rename=_lower):
    """One tag."""

    key: str = ""
    value: str = ""


class Event(Struct, frozen=True, rename=_lower):
    """Something that happened to a group."""

    type: str = ""
    reason: str = ""
    message: str = ""
    last_timestamp: str = ""


class GroupEvents(Struct, frozen=True, rename=_lower):
    """What happened to one group."""

    container_group_id: str = ""
    events: tuple[Event, ...] = ()


class EventsPage(Answer, frozen=True, rename=_lower):
    """Of DescribeContainerGroupEvents."""

    data: tuple[GroupEvents, ...] = ()


class PlainState(Struct, frozen=True, rename=_lower):
    """A container's state as DescribeContainerGroups tells it; `state` is Waiting, Running or Terminated."""

    state: str = ""
    detail_status: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int = 0
    signal: int = 0
    start_time: str = ""
    finish_time: str = ""


class GroupContainer(Struct, frozen=True, rename=_lower):
    """One container of DescribeContainerGroups."""

    name: str = ""
    image: str = ""
    ready: bool = False
    restart_count: int = 0
    current_state: PlainState = PlainState()
    previous_state: PlainState = PlainState()


class GroupEntry(Struct, frozen=True, rename=_lower):
    """One group of DescribeContainerGroups."""

    container_group_id: str
    status: str = ""
    cpu: float = 0.0
    memory: float = 0.0
    ephemeral_storage: int = 0
    instance_type: str = ""
    compute_category: tuple[str, ...] | str = ""
    spot_strategy: str = ""
    zone_id: str = ""
    v_switch_id: str = ""
    security_group_id: str = ""
    intranet_ip: str = ""
    restart_policy: str = "Always"
    creation_time: str = ""
    succeeded_time: str = ""
    failed_time: str = ""
    expired_time: str = ""
    tags: tuple[Tag, ...] = ()
    events: tuple[Event, ...] = ()
    containers: tuple[GroupContainer, ...] = ()
    init_containers: tuple[GroupContainer, ...] = ()

    @property
    def tagged(self) -> dict[str, str]:
        """The tags by key."""
        return {tag.key: tag.value for tag in self.tags}

    @property
    def ended_at(self) -> float:
        """When it ended, 0 if the answer does not say."""
        return at(self.succeeded_time or self.failed_time or self.expired_time)


class GroupsPage(Answer, frozen=True, rename=_lower):
    """Of DescribeContainerGroups."""

    container_groups: tuple[GroupEntry, ...] = ()
    next_token: str = ""
    total_count: int = 0


class LogAnswer(Answer, frozen=True, rename=_lower):
    """Of DescribeContainerLog."""

    content: str = ""


class ExecAnswer(Answer, frozen=True, rename=_lower):
    """Of ExecContainerCommand. The address is a secret while it lasts, so repr leaves it out."""

    web_socket_uri: str = ""

    def __repr__(self) -> str:
        return f"ExecAnswer({self.request_id!r})"


class Cpu(Struct, frozen=True, rename=_lower):
    """Consumption since the start, in nanoseconds."""

    usage_core_nano_seconds: int = 0


class Memory(Struct, frozen=True, rename=_lower):
    """Memory in bytes."""

    working_set: int = 0


class ContainerRecord(Struct, frozen=True, rename=_lower):
    """One container's sample."""

    name: str = ""
    cpu: Cpu = Cpu()
    memory: Memory = Memory()


class Record(Struct, frozen=True, rename=_lower):
    """One sample of a group."""

    timestamp: str = ""
    containers: tuple[ContainerRecord, ...] = ()


class MonitorData(Struct, frozen=True, rename=_lower):
    """The samples of one group."""

    container_group_id: str = ""
    records: tuple[Record, ...] = ()


class MetricAnswer(Answer, frozen=True, rename=_lower):
    """Of DescribeMultiContainerGroupMetric."""

    monitor_datas: tuple[MonitorData, ...] = ()


class Quote(Struct, frozen=True, rename=_lower):
    """A price per second."""

    currency: str = ""
    trade_price: float = 0.0


class PriceInfo(Struct, frozen=True, rename=_lower):
    """The price part of a quote."""

    price: Quote = Quote()


class PriceAnswer(Answer, frozen=True, rename=_lower):
    """Of DescribeContainerGroupPrice."""

    price_info: PriceInfo = PriceInfo()


class VSwitchAttributes(Answer, frozen=True, rename=_lower):
    """Of the VPC's DescribeVSwitchAttributes."""

    zone_id: str = ""
