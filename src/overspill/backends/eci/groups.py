"""The container groups of this node, as they were told last.

In: orders, groups that were made, entries of listings. Out: observations to the feed. Invariant:
the only place where a group is known or forgotten; a pod has at most one group here, and another
one that shows up for the same pod is unwanted, and told to be removed.
"""

import time
from collections.abc import Callable, Iterable, Iterator

import structlog
from msgspec import Struct, structs

from overspill.backends.eci.annotations import fails_fast
from overspill.backends.eci.answers import GroupEntry, StatusEntry, at
from overspill.backends.eci.containers import says_by_log
from overspill.backends.eci.prices import (
    Kind,
    annotations_of_entry,
    annotations_of_work,
    ending_annotations,
    kind_of_entry,
)
from overspill.backends.eci.sidecars import in_order, initial, sidecars
from overspill.backends.eci.status import ENDED, Group, observe
from overspill.backends.eci.tags import FAIL_FAST_TAG, FROM_LOGS_TAG, identity_of, sidecars_of
from overspill.backends.feed import Feed
from overspill.model.observation import ContainerObservation, Gone, Observation, Terminated
from overspill.model.work import WorkSpec

__all__ = ["Groups", "Tracked", "chunks", "group_of_entry", "group_of_work"]

log = structlog.get_logger(__name__)


# A deletion that ECI has answered to is asked for again after this, longer each time; seconds.
HEEDED_WITHIN, HEEDED_CAP = 60.0, 960.0


class Tracked(Struct, eq=False):
    """One group, and what is known of it.

    Attributes:
        since: when it came to be known here, of the monotonic clock.
        detail: its entry of DescribeContainerGroups, where that was needed.
        listed: whether it ever stood in an answer of ECI; a new group may be missing there for a while.
        removing: ECI has answered to its deletion, so that it may be gone at any moment.
        answered_at: when it did so last, of the monotonic clock.
        patience: seconds from then until it is asked once more.
        kind: what its price depends on, where that is known.
        ended_since: when it was first seen as ScheduleFailed, of the monotonic clock.
        ended_at: when it was first seen as ended, in seconds since 1970; 0 until then.
    """

    group: Group
    seen: Observation
    since: float
    entry: StatusEntry | None = None
    detail: GroupEntry | None = None
    listed: bool = False
    removing: bool = False
    answered_at: float = 0.0
    patience: float = HEEDED_WITHIN
    kind: Kind | None = None
    ended_since: float | None = None
    ended_at: float = 0.0

    @property
    def status(self) -> str:
        """ECI's word for its state; "" until it was listed."""
        return self.entry.status if self.entry else ""

    @property
    def _beside(self) -> list[ContainerObservation]:
        """What runs at the same time."""
        return [*self.seen.containers, *(init for init in self.seen.init_containers if init.sidecar)]

    @property
    def prepared(self) -> bool:
        """Whether all init containers have ended."""
        return all(init.sidecar or isinstance(init.state, Terminated) for init in self.seen.init_containers)

    @property
    def settled(self) -> bool:
        """Whether nothing is expected to change soon."""
        return not self.group.deleting and (
            self.status in ENDED or (self.status == "Running" and all(c.ready for c in self._beside))
        )


class Groups:
    """Groups by the uid of their pod."""

    def __init__(
        self,
        feed: Feed,
        *,
        remove: Callable[[str], None],
        quote: Callable[[Kind | None], dict[str, str]],
        complete: Callable[[Group, Observation], Observation],
        holds: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._quote = quote
        self._complete = complete
        self._holds = holds
        self._remove = remove
        self._clock = clock
        self._by_uid: dict[str, Tracked] = {}
        self._uids: dict[str, str] = {}
        self.unwanted: dict[str, float] = {}  # id -> since when
        # Told of each group that becomes known, and of each that nothing is left of.
        self.on_known: Callable[[Tracked], None] = lambda _: None
        self.on_gone: Callable[[Tracked], None] = lambda _: None
        # Told of each id that ECI does not list any more, and that needs no removal.
        self.on_left: Callable[[str], None] = lambda _: None

    def __iter__(self) -> Iterator[Tracked]:
        return iter(self._by_uid.values())

    def __len__(self) -> int:
        return len(self._by_uid)

    def of_pod(self, uid: str) -> Tracked | None:
        """The group of a pod."""
        return self._by_uid.get(uid)

    def by_id(self, group_id: str) -> Tracked | None:
        """The group of an id."""
        return self._by_uid.get(self._uids.get(group_id, ""))

    def add(
        self,
        group: Group,
        *,
        kind: Kind | None = None,
        entry: StatusEntry | None = None,
        detail: GroupEntry | None = None,
    ) -> Tracked:
        """Know a new group; answers the one that is known for its pod, which may be another."""
        known = self._by_uid.get(group.identity.uid)
        if known is not None and (known.group.id == group.id or not self._gives_way(known, group, entry)):
            return known
        group = structs.replace(group, annotations=group.annotations | self._quote(kind))
        seen = observe(group, entry, detail)
        tracked = Tracked(group, seen, self._clock(), entry, detail, listed=entry is not None, kind=kind)
        self._by_uid[group.identity.uid] = tracked
        self._uids[group.id] = group.identity.uid
        self._feed.publish(tracked.seen)
        self.on_known(tracked)
        return tracked

    def _gives_way(self, known: Tracked, group: Group, entry: StatusEntry | None) -> bool:
        """Whether a known group is replaced by another one of the same pod; the loser is to be removed."""
        replaced = _weight(group, entry.status if entry else "") > _weight(known.group, known.status)
        loser = known.group if replaced else group
        self.unwanted[loser.id] = self._clock()
        self._remove(loser.id)
        log.warning("pod has two container groups; one is removed", removed=loser.id, pod=group.identity.name)
        if replaced:
            self._uids.pop(known.group.id, None)
        return replaced

    def update(self, entry: StatusEntry) -> Tracked | None:
        """Take in what was told of a group; None if it is not known."""
        tracked = self.by_id(entry.container_group_id)
        if tracked is not None:
            tracked.listed = True
            if tracked.removing and entry.status != "Terminating":
                self._ask_again(tracked)
            if entry != tracked.entry:
                tracked.entry = entry
                self._look(tracked)
        return tracked

    def detail(self, entry: GroupEntry, status: StatusEntry | None) -> None:
        """Take in both entries of a group; one that is not known but ours becomes known."""
        if entry.container_group_id in self.unwanted:
            return
        tracked = self.by_id(entry.container_group_id)
        if tracked is None:
            group = group_of_entry(entry)
            if group is None:
                return
            tracked = self.add(group, kind=kind_of_entry(entry), entry=status, detail=entry)
            if tracked.group.id != group.id:
                return
        tracked.entry, tracked.detail = status or tracked.entry, entry
        tracked.listed = True
        tracked.kind = kind_of_entry(entry) or tracked.kind
        written = tracked.group.annotations | annotations_of_entry(entry) | self._quote(tracked.kind)
        tracked.group = structs.replace(tracked.group, annotations=written)
        self._look(tracked)

    def forget_unwanted(self, present: set[str], *, before: float) -> None:
        """Forget what has been unwanted since `before` and is not present any more: a listing may be late with the others.

        What is there still is to be removed once more.
        """
        for group_id in [each for each, since in self.unwanted.items() if since < before]:
            if group_id in present:
                self._remove(group_id)
            else:
                del self.unwanted[group_id]
                self.on_left(group_id)

    def mark_deleting(self, tracked: Tracked) -> None:
        """Its deletion was asked for."""
        tracked.group = structs.replace(tracked.group, deleting=True)
        self._look(tracked)

    def quoted(self, kind: Kind) -> None:
        """The price of a kind of groups has become known."""
        written = self._quote(kind)
        for tracked in [each for each in self if each.kind == kind]:
            annotations = tracked.group.annotations | written
            tracked.group = structs.replace(tracked.group, annotations=annotations)
            self._look(tracked)

    def removal_answered(self, group_id: str) -> None:
        """ECI has answered to a deletion: from now on the group's absence from a listing means something."""
        tracked = self.by_id(group_id)
        if tracked is not None:
            tracked.listed = tracked.removing = True
            tracked.answered_at = self._clock()

    def _ask_again(self, tracked: Tracked) -> None:
        """What ECI had not found, or has not carried out, would run and be billed for ever."""
        if self._clock() - tracked.answered_at > tracked.patience:
            log.warning("container group is there still; it is deleted again", group=tracked.group.id)
            tracked.answered_at, tracked.patience = self._clock(), min(2 * tracked.patience, HEEDED_CAP)
            self._remove(tracked.group.id)

    def gone(self, tracked: Tracked) -> None:
        """Nothing is left of it."""
        group = tracked.group
        self._uids.pop(group.id, None)
        self.on_left(group.id)
        if self._by_uid.get(group.identity.uid) is tracked:
            del self._by_uid[group.identity.uid]
            tracked.seen = self._observe(tracked)  # which may have been held back
            self.on_gone(tracked)
            self._feed.publish(Gone(group.identity, tracked.seen))

    def look_again(self, group_id: str) -> None:
        """More is known of a group than what was told of it."""
        tracked = self.by_id(group_id)
        if tracked is not None:
            self._look(tracked)

    def _look(self, tracked: Tracked) -> None:
        if tracked.status == "ScheduleFailed" and tracked.ended_since is None:
            tracked.ended_since = self._clock()
        if tracked.status in ENDED and not tracked.ended_at:
            tracked.ended_at = time.time()
        seen = self._observe(tracked)
        if seen != tracked.seen and not self._holds(tracked.group.id):
            tracked.seen = seen
            self._feed.publish(seen)

    def _observe(self, tracked: Tracked) -> Observation:
        observed = carried(tracked.seen, observe(tracked.group, tracked.entry, tracked.detail))
        seen = self._complete(tracked.group, observed)
        if tracked.status not in ENDED or tracked.status == "ScheduleFailed":  # which costs nothing
            return seen
        ending = ending_annotations(seen, tracked.detail)
        return structs.replace(seen, annotations=seen.annotations | ending)


def _weight(group: Group, status: str) -> tuple[int, bool, float]:
    """Of two groups of a pod the heavier one is kept: a later attempt, else what goes on, else what was first."""
    return group.identity.attempt, not group.deleting and status not in ENDED, -group.created_at


def carried(before: Observation, seen: Observation) -> Observation:
    """The same, with the times of changes that were known: what ECI tells is believed where something has changed."""
    known = {each.name: each for each in (*before.init_containers, *before.containers)}

    def one(now: ContainerObservation) -> ContainerObservation:
        was = known.get(now.name)
        if was is None or (was.ready, was.started, was.restarts) != (now.ready, now.started, now.restarts):
            return now
        return now if was.changed_at == now.changed_at else structs.replace(now, changed_at=was.changed_at)

    containers, init = tuple(map(one, seen.containers)), tuple(map(one, seen.init_containers))
    return structs.replace(seen, containers=containers, init_containers=init)


def group_of_work(work: WorkSpec, group_id: str, *, region: str, created_at: float) -> Group:
    """What is known of a group that was just made."""
    return Group(
        id=group_id,
        identity=work.identity,
        containers=tuple((each.name, each.image) for each in work.containers),
        init_containers=tuple((each.name, each.image) for each in initial(work)),
        sidecars=tuple((each.name, each.image) for each in sidecars(work)),
        from_logs=frozenset(each.name for each in in_order(work) if says_by_log(each)),
        restart_policy=work.restart_policy,
        created_at=created_at,
        fail_fast=fails_fast(work.annotations),
        annotations=annotations_of_work(group_id, work, region=region),
    )


def group_of_entry(entry: GroupEntry) -> Group | None:
    """What is known of a group that was found; None if it is not ours."""
    identity = identity_of(entry.tagged)
    if identity is None:
        return None
    images = {each.name: each.image for each in entry.containers}
    beside = [name for name in sidecars_of(entry.tagged) if name in images]
    return Group(
        id=entry.container_group_id,
        identity=identity,
        containers=tuple((name, image) for name, image in images.items() if name not in beside),
        sidecars=tuple((name, images[name]) for name in beside),
        init_containers=tuple((each.name, each.image) for each in entry.init_containers),
        from_logs=_from_logs(entry),
        restart_policy=entry.restart_policy,
        created_at=at(entry.creation_time),
        fail_fast=FAIL_FAST_TAG in entry.tagged,
        annotations=annotations_of_entry(entry),
    )


def _from_logs(entry: GroupEntry) -> frozenset[str]:
    every = [each.name for each in (*entry.containers, *entry.init_containers)]
    numbers = entry.tagged.get(FROM_LOGS_TAG, "").split()
    return frozenset(
        every[int(number)] for number in numbers if number.isdecimal() and int(number) < len(every)
    )


def chunks(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    """The ids in groups of at most `size`."""
    every = list(ids)
    return (every[start : start + size] for start in range(0, len(every), size))
