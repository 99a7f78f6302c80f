"""Events and conditions of a container group: pure.

In: two observations that follow each other. Out: the Events that lie between them.
Invariant: an Event that repeats is counted, not told again; the latest 50 of a group are kept.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct, structs

from overspill.model.observation import (
    ContainerObservation,
    Observation,
    Running,
    State,
    Waiting,
)

__all__ = ["MOST_EVENTS", "TOLD_BY_STATES", "Condition", "Event", "happened", "merge", "with_condition"]

MOST_EVENTS = 50
# What `happened` tells whatever the engine: where an engine tells it too, once is enough.
TOLD_BY_STATES = frozenset({"Created", "Pulled", "Pulling", "Started"})


class Condition(Struct, frozen=True):
    """A condition of a group; `at` is its last transition."""

    type: str
    status: str
    at: float
    reason: str = ""
    message: str = ""


class Event(Struct, frozen=True):
    """Something that happened `count` times between `first` and `last`.

    Attributes:
        source: `EciService` or `K8sAgent`, as the filter of DescribeContainerGroupEvents names them.
    """

    type: str
    reason: str
    message: str
    last: float
    source: str = "K8sAgent"
    count: int = 1
    since: float = 0.0

    @property
    def first(self) -> float:
        """When it happened first."""
        return self.since or self.last


def merge(events: Sequence[Event], more: Iterable[Event]) -> tuple[Event, ...]:
    """The events with some added."""
    known = {(e.type, e.reason, e.message): e for e in events}
    for event in more:
        same = known.pop((event.type, event.reason, event.message), None)
        if same:
            event = structs.replace(event, count=same.count + event.count, since=same.first)  # noqa: PLW2901 - the event as it is kept
        known[event.type, event.reason, event.message] = event
    return tuple(known.values())[-MOST_EVENTS:]


def with_condition(
    conditions: Sequence[Condition], condition: Condition, *, at: float
) -> tuple[Condition, ...]:
    """The conditions with one set; its transition is `at` only if its status changed."""
    before = next((c for c in conditions if c.type == condition.type), None)
    since = before.at if before and before.status == condition.status else at
    others = tuple(c for c in conditions if c.type != condition.type)
    return (*others, structs.replace(condition, at=since))


def happened(before: Observation | None, after: Observation, *, at: float) -> list[Event]:
    """What a kubelet would have told between two observations."""
    if before and before.identity != after.identity:
        before = None
    events: list[Event] = []
    for container in (*after.init_containers, *after.containers):
        events += _of_container(_named(before, container.name), container, at)
    if after.failed and not (before and before.failed):
        events.append(Event("Warning", after.reason or "Failed", after.message, at))
    return events


def _named(observation: Observation | None, name: str) -> ContainerObservation | None:
    if observation is None:
        return None
    every = (*observation.init_containers, *observation.containers)
    return next((c for c in every if c.name == name), None)


def _of_container(
    before: ContainerObservation | None, after: ContainerObservation, at: float
) -> Iterable[Event]:
    if before and _same(before.state, after.state):
        return
    if isinstance(after.state, Waiting):
        yield from _waiting(after, after.state, at)
    elif isinstance(after.state, Running):
        if not after.restarts:
            yield Event("Normal", "Pulled", f"Successfully pulled image {after.image}", at)
        yield Event("Normal", "Created", f"Created container {after.name}", at)
        yield Event("Normal", "Started", f"Started container {after.name}", at)
    elif after.state.reason == "OOMKilled":
        yield Event("Warning", "OOMKilled", f"Out of memory: container {after.name} was killed", at)


def _waiting(container: ContainerObservation, state: Waiting, at: float) -> Iterable[Event]:
    if state.reason in {"ErrImagePull", "InvalidImageName"}:
        text = state.message or f"Failed to pull image {container.image}"
        yield Event("Warning", "Failed", text, at)
    elif state.reason in {"ImagePullBackOff", "ErrImageNeverPull"}:
        yield Event("Warning", "BackOff", f"Back-off pulling image {container.image}", at)
    elif state.reason == "CrashLoopBackOff":
        yield Event("Warning", "BackOff", f"Back-off restarting failed container {container.name}", at)
    elif state.reason == "ContainerCreating":
        yield Event("Normal", "Pulling", f"Pulling image {container.image}", at)


def _same(before: State, after: State) -> bool:
    """Whether nothing is to be told: equal, or waiting for the same with other words."""
    if isinstance(before, Waiting) and isinstance(after, Waiting):
        return before.reason == after.reason
    return before == after
