"""A container group and what becomes of it: pure.

In: commands of the API, the engine's observations, the clock. Out: the next value of the group.
Invariants: an ended group never lives again; a group is billed in exactly the states of `BILLED`;
`changed_at` moves whenever something that a listing shows has changed.

    Scheduling --> Pending --> Running --> Succeeded | Failed
        |             ^           |
        v             |           +--> Restarting | Updating --> Running | Succeeded | Failed
    ScheduleFailed    +-- (another attempt)            any live --> Terminating | Expired | Failed

Source: ECI's page on the life cycle of container groups (2025-01).
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct, structs

from overspill.emulator.happenings import Condition, Event, happened, merge, with_condition
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated

__all__ = [
    "BILLED",
    "ENDED",
    "Group",
    "Retention",
    "Step",
    "attempted_again",
    "expired",
    "failed",
    "forgotten",
    "interrupted",
    "lost",
    "next_step",
    "not_placed",
    "pending_too_long",
    "placed",
    "removed",
    "seen",
    "status_of",
]

LIVE = frozenset({"Scheduling", "Pending", "Running", "Restarting", "Updating", "Terminating"})
ENDED = frozenset({"Succeeded", "Failed", "Expired", "ScheduleFailed"})
PENDING_TOO_LONG = "MaxPendingTimeExceeded"
BILLED = LIVE - {"Scheduling"}


class Group(Struct, frozen=True, kw_only=True):
    """One container group.

    Attributes:
        seq: order of creation; what paging goes by.
        cpu, memory: the rounded specification, in vCPU and GiB.
        price: of one second.
        attempt: counts what was given to the engine for this group: a restart is another attempt.
        submitted: the attempt that the engine has, or is being given; None while it has nothing.
        removing: its deletion was asked for.
        changed_at: when something that a listing shows changed last.
        expires_at: when a spot group under notice is taken back.
        pending_until: when it is given up, should it still be Pending.
    """

    id: str
    seq: int
    name: str
    region: str
    zone: str
    vpc: str
    vswitch: str
    security_group: str
    address: str
    cpu: float
    memory: float
    price: float
    created_at: float
    changed_at: float
    status: str = "Scheduling"
    compute_category: str = ""
    spot_strategy: str = "NoSpot"
    spot_price_limit: float = 0.0
    resource_group: str = ""
    tags: dict[str, str] = {}
    attempt: int = 0
    submitted: int | None = None
    removing: bool = False
    grace_seconds: int = 30
    observation: Observation | None = None
    conditions: tuple[Condition, ...] = ()
    events: tuple[Event, ...] = ()
    reason: str = ""
    message: str = ""
    ended_at: float | None = None
    expires_at: float | None = None
    pending_until: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will run in it any more."""
        return self.status in ENDED

    @property
    def hidden(self) -> bool:
        """Whether listings leave it out: it had ended, and its deletion was asked for."""
        return self.removing and self.ended


class Step(Struct, frozen=True):
    """What the engine is to do next about a group."""

    verb: str
    attempt: int


def next_step(group: Group) -> Step | None:
    """Create or delete, by what the engine has and what it should have; None when the two agree."""
    wanted = _wanted(group)
    if group.submitted == wanted:
        return None
    if group.submitted is not None:
        return Step("delete", group.submitted)
    return Step("create", group.attempt)


def _wanted(group: Group) -> int | None:
    if group.removing or group.status in {"Scheduling", "ScheduleFailed", "Expired"}:
        return None
    if group.ended and group.reason == PENDING_TOO_LONG:
        return None
    # What has ended stays for its logs as long as the group does, and is never made anew.
    return group.submitted if group.ended else group.attempt


def placed(group: Group, *, at: float, pending_seconds: float) -> Group:
    """Scheduling is done: images are pulled from here on, for so long at most, and billing begins."""
    if group.status != "Scheduling":
        return group
    done = _to(group, "Pending", at=at)
    return with_events(
        structs.replace(
            done,
            pending_until=at + pending_seconds,
            conditions=with_condition(
                done.conditions, Condition("ContainerInstanceCreated", "True", at), at=at
            ),
        ),
        [Event("Normal", "SuccessfulScheduled", "The container instance was created.", at, "EciService")],
    )


def not_placed(group: Group, *, reason: str, message: str, at: float) -> Group:
    """Scheduling has failed for good; the group is never billed."""
    if group.status != "Scheduling":
        return group
    condition = Condition("ContainerInstanceCreated", "False", at, reason, message)
    ended = _to(group, "ScheduleFailed", at=at, reason=reason, message=message)
    return with_events(
        structs.replace(ended, conditions=with_condition(ended.conditions, condition, at=at)),
        [Event("Warning", reason, message, at, "EciService")],
    )


def seen(group: Group, observation: Observation, *, at: float) -> Group:
    """The engine's newest observation of the attempt that it has.

    Containers may end after their group has, which failed for its deadline; its status stays.
    """
    if observation.unknown or observation.identity.attempt != group.submitted:
        return group
    if group.ended:
        return structs.replace(group, observation=observation, changed_at=at)
    told = with_events(group, happened(group.observation, observation, at=at))
    told = structs.replace(told, observation=observation, changed_at=at)
    if told.status == "Terminating" or observation.identity.attempt != group.attempt:
        return told
    status = status_of(observation)
    if status in {"Pending", told.status}:
        return told  # a group that has run once stays Running while its containers start again
    return _to(told, status, at=at, reason=observation.reason, message=observation.message)


def status_of(observation: Observation) -> str:
    """Pending, Running, Succeeded or Failed, from the containers alone."""
    if observation.failed and not observation.ending:
        return "Failed"
    if any(_over(c) and not _succeeded(c) for c in observation.init_containers):
        return "Failed"
    containers = observation.containers
    if containers and all(map(_over, containers)):
        return "Succeeded" if all(map(_succeeded, containers)) else "Failed"
    return "Running" if any(map(_begun, containers)) else "Pending"


def _over(container: ContainerObservation) -> bool:
    return isinstance(container.state, Terminated) and not container.will_restart


def _succeeded(container: ContainerObservation) -> bool:
    return isinstance(container.state, Terminated) and container.state.exit_code == 0


def _begun(container: ContainerObservation) -> bool:
    return isinstance(container.state, Running | Terminated) or container.restarts > 0


def attempted_again(group: Group, *, status: str, at: float) -> Group:
    """A restart or update: what the engine has goes, then the next attempt is made. Live groups only."""
    event = Event("Normal", status, f"The container group is {status.lower()}.", at, "EciService")
    return with_events(_to(structs.replace(group, attempt=group.attempt + 1), status, at=at), [event])


def removed(group: Group, *, at: float) -> Group:
    """Its deletion was asked for; it stays, and is billed, until the engine has nothing of it.

    One that is being scheduled has nothing in the engine yet, and was never billed.
    """
    leaving = structs.replace(group, removing=True, changed_at=at)
    if leaving.ended or leaving.status == "Scheduling":
        return leaving
    event = Event("Normal", "Killing", "The container group is being deleted.", at, "EciService")
    return with_events(_to(leaving, "Terminating", at=at), [event])


def lost(group: Group, *, at: float) -> Group:
    """The engine says that nothing of the attempt it had is left."""
    without = structs.replace(group, submitted=None)
    if group.ended or group.removing or group.submitted != group.attempt:
        return without
    message = "The instance failed, and its containers with it."
    return failed(without, reason="SystemFailure.Redeploy", message=message, at=at)


def failed(group: Group, *, reason: str, message: str, at: float) -> Group:
    """Given up for a reason that no container gave."""
    if group.ended:
        return group
    event = Event("Warning", reason, message, at, "EciService")
    return with_events(_to(group, "Failed", at=at, reason=reason, message=message), [event])


def pending_too_long(group: Group, *, at: float) -> Group:
    """It is still Pending when its time is up: given up, and its containers with it."""
    if group.status != "Pending":
        return group
    return failed(group, reason=PENDING_TOO_LONG, message="The group was Pending for too long.", at=at)


def interrupted(group: Group, *, at: float, notice: float) -> Group:
    """A spot group's notice that it is taken back `notice` seconds from now."""
    if group.ended or group.status == "Terminating" or group.expires_at is not None:
        return group
    message = "Spot ECI will be released in 3 minutes."
    conditions = with_condition(
        group.conditions,
        Condition("ContainerInstanceExpired", "True", at, "SpotToBeReleased", message),
        at=at,
    )
    told = structs.replace(group, conditions=conditions, expires_at=at + notice, changed_at=at)
    return with_events(told, [Event("Warning", "SpotToBeReleased", message, at, "EciService")])


def expired(group: Group, *, at: float) -> Group:
    """A spot group was taken back."""
    if group.ended:
        return group
    message = "The pod is spot instance, and have been released"
    event = Event("Warning", "SpotReleased", message, at, "EciService")
    return with_events(_to(group, "Expired", at=at, reason="BidFailed", message=message), [event])


def with_events(group: Group, events: Sequence[Event]) -> Group:
    """With these happenings told as well; the latest 50 are kept."""
    if not events:
        return group
    return structs.replace(group, events=merge(group.events, events), changed_at=events[-1].last)


def _to(group: Group, status: str, *, at: float, reason: str = "", message: str = "") -> Group:
    return structs.replace(
        group,
        status=status,
        changed_at=at,
        reason=reason,
        message=message,
        ended_at=at if status in ENDED else None,
    )


class Retention(Struct, frozen=True):
    """How long ended groups stay: all for `seconds`, then the newest `count`; failures to schedule apart."""

    seconds: float = 3600.0
    count: int = 100
    schedule_failed_seconds: float = 86_400.0


def forgotten(groups: Iterable[Group], retention: Retention, *, now: float) -> list[Group]:
    """The ended groups that the service forgets now."""
    ended = sorted((g for g in groups if g.ended and not g.removing), key=lambda g: -(g.ended_at or 0))
    kept = [g for g in ended if g.status != "ScheduleFailed"]
    old = [g for g in kept[retention.count :] if (g.ended_at or 0) < now - retention.seconds]
    unplaced = [
        g
        for g in ended
        if g.status == "ScheduleFailed" and (g.ended_at or 0) < now - retention.schedule_failed_seconds
    ]
    return old + unplaced
