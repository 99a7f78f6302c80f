"""Which unwanted groups have been so for long enough, and how many may go now.

In: what each look found, the time. Out: those that are due. Pure but for what it remembers. Invariant: due is only
what two looks or more, all since this object was made or emptied, found to be the same, over the whole quiet time.
"""

from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from overspill.orphans.sort import UNWANTED, Sorted, State

__all__ = ["Pace", "Sightings"]

LEAST = 2


class _Sighting(Struct):
    state: State
    uid: str
    since: float
    count: int = 1


class Sightings:
    """What was unwanted in every look."""

    def __init__(self, *, quiet_seconds: float) -> None:
        self._quiet = quiet_seconds
        self._seen: dict[str, _Sighting] = {}

    def clear(self) -> None:
        """Begin counting anew."""
        self._seen.clear()

    def note(self, found: Iterable[Sorted], now: float) -> list[Sorted]:
        """Take in one look; returns the groups that were not unwanted in the last one."""
        before, self._seen = self._seen, {}
        new = []
        for each in found:
            if each.state not in UNWANTED:
                continue
            id_, uid = each.group.id, each.group.identity.uid
            known = before.get(id_)
            if known is None or (known.state, known.uid) != (each.state, uid):
                self._seen[id_] = _Sighting(each.state, uid, now)
                new.append(each)
            else:
                known.count += 1
                self._seen[id_] = known
        return new

    def due(self, found: Iterable[Sorted], now: float) -> list[Sorted]:
        """Of the groups of the last look those that may go, the dearest first."""
        due = [each for each in found if self._is_due(each.group.id, now)]
        return sorted(due, key=lambda each: (-(each.group.price or 0), each.group.created_at, each.group.id))

    def _is_due(self, id_: str, now: float) -> bool:
        seen = self._seen.get(id_)
        return seen is not None and seen.count >= LEAST and now - seen.since >= self._quiet


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
