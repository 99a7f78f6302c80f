"""Which unwanted groups have been so for long enough, and how many may go now.

In: what each look found, the time. Out: those that are due. Pure but for what it remembers. Invariant: due is only
what two looks or more in a row found to be the same, over the whole quiet time. Counted is the time from one look
to the next of one process; what passed between the last look of a leader and the first of its successor is not, so
that no clock is compared with another's.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from msgspec import Struct

from overspill.orphans.sort import UNWANTED, Sorted, State

__all__ = ["Pace", "Sighting", "Sightings"]

LEAST = 2


class Sighting(Struct, frozen=True):
    """One unwanted group, and for how long and in how many looks it has been seen so."""

    state: State
    uid: str
    seconds: float = 0.0
    looks: int = 1


class Sightings:
    """What was unwanted in every look.

    Attributes:
        seen: by group; for a successor to begin with.
    """

    def __init__(self, *, quiet_seconds: float) -> None:
        self._quiet = quiet_seconds
        self._noted_at: float | None = None
        self.seen: dict[str, Sighting] = {}

    def begin(self, seen: Mapping[str, Sighting]) -> None:
        """Go on from what a predecessor has seen; with nothing, begin anew."""
        self._noted_at, self.seen = None, dict(seen)

    def note(self, found: Iterable[Sorted], now: float) -> list[Sorted]:
        """Take in one look; returns the groups that were not unwanted in the last one."""
        passed = 0.0 if self._noted_at is None else now - self._noted_at
        before, self.seen, self._noted_at = self.seen, {}, now
        new = []
        for each in found:
            if each.state not in UNWANTED:
                continue
            id_, uid = each.group.id, each.group.identity.uid
            known = before.get(id_)
            if known is None or (known.state, known.uid) != (each.state, uid):
                self.seen[id_] = Sighting(each.state, uid)
                new.append(each)
            else:
                self.seen[id_] = Sighting(each.state, uid, known.seconds + passed, known.looks + 1)
        return new

    def due(self, found: Iterable[Sorted]) -> list[Sorted]:
        """Of the groups of the last look those that may go, the dearest first."""
        due = [each for each in found if self._is_due(each.group.id)]
        return sorted(due, key=lambda each: (-(each.group.price or 0), each.group.created_at, each.group.id))

    def _is_due(self, id_: str) -> bool:
        seen = self.seen.get(id_)
        return seen is not None and seen.looks >= LEAST and seen.seconds >= self._quiet


class Pace:
    """At most so many in any minute."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether one more is allowed now; counts it if so."""
        while self._taken and now - self._taken[0] >= 60.0:
            self._taken.popleft()
        if len(self._taken) >= self._most:
            return False
        self._taken.append(now)
        return True
