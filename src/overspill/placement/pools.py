"""Which pool a pod goes to.

In: a policy's pools, which ranks are free, which pools take nothing now. Out: an `Assignment`. Pure.
Invariant: the order in which a growing workload fills its pools is one sequence. The pod at place n of it
has keep rank n; a new pod gets the lowest rank that is free in a pool that takes it. Hence pods 1 to n are
spread exactly as the policy wants n pods to be, for every n, and removing the highest rank keeps that true.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from overspill.placement.policy import PolicySpec, Pool

__all__ = ["FAR", "Assignment", "FillOrder", "Refusal", "choose_pool"]


# The sequence is worked out place by place up to here; no workload is larger, but what it is scaled to may be.
FAR = 100_000


class FillOrder:
    """The sequence of pools that a growing workload fills, worked out as far as it is asked for.

    First every pool's minimum, in the order of the pools, then each up to its maximum. Of several pools
    with percentages each grows when its share of the next number of pods, rounded up, has grown.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self._pools = spec.pools
        self._limits = _limits(spec.pools)
        self._first_without_end = spec.when_exhausted == "FirstPool" and _share(spec.pools) < 100
        if self._first_without_end:
            self._limits[0] = None
        self._sequence = array("B")  # the pool of rank 1, 2, …
        self._ordinals = array("L")  # … and its so many-eth place that this is
        self._slots: list[array[int]] = [array("L") for _ in spec.pools]  # the ranks of each pool
        self._ended = False

    def slot(self, pool: int, ordinal: int) -> int | None:
        """The rank of a pool's so many-eth place, from 1; None when it has no such place."""
        slots, limit = self._slots[pool], self._limits[pool]
        if limit is not None and ordinal > limit:
            return None
        while len(slots) < ordinal and not self._ended:
            self._grow()
        return slots[ordinal - 1] if ordinal <= len(slots) else None

    def place(self, rank: int) -> tuple[int, int] | None:
        """Pool and ordinal of a rank; None when no pool has it."""
        while len(self._sequence) < rank and not self._ended:
            self._grow()
        if not 0 < rank <= len(self._sequence):
            return None
        return self._sequence[rank - 1], self._ordinals[rank - 1]

    def targets(self, replicas: int) -> tuple[int, ...]:
        """How many of so many pods each pool is to have; the sum is less when no pool takes the rest."""
        near = min(replicas, FAR)
        self.place(near)
        counts, left = [bisect_right(slots, near) for slots in self._slots], replicas - near
        for index, pool in enumerate(self._pools):
            room = pool.room(replicas)
            more = left if room is None else min(max(room - counts[index], 0), left)
            counts[index] += more
            left -= more
        if self._first_without_end:
            counts[0] += left
        return tuple(counts)

    def limit(self, pool: int) -> int | None:
        """How many places a pool has in all; None without a limit."""
        return self._limits[pool]

    def most(self, pool: int, replicas: int) -> int | None:
        """How many of so many pods a pool may have when others take none; None without a limit."""
        share, without_end = self._pools[pool].room(replicas), pool == 0 and self._first_without_end
        if self._limits[pool] is not None or share is None or without_end:
            return self._limits[pool]
        return max(share, self._pools[pool].min_replicas)

    def _grow(self) -> None:
        pool = self._next()
        if pool is None:
            self._ended = True
            return
        self._sequence.append(pool)
        self._slots[pool].append(len(self._sequence))
        self._ordinals.append(len(self._slots[pool]))

    def _next(self) -> int | None:
        for index, pool in enumerate(self._pools):
            if len(self._slots[index]) < pool.min_replicas:
                return index
        replicas = len(self._sequence) + 1
        for index, pool in enumerate(self._pools):
            room = pool.room(replicas)
            if room is None or len(self._slots[index]) < room:
                return index
        return 0 if self._first_without_end else None


def _limits(pools: Sequence[Pool]) -> list[int | None]:
    """How many places each pool ever gets: a pool behind one that takes all the rest has its minimum."""
    return [
        pool.min_replicas if _share(pools[:index]) >= 100 else _own_limit(pool)
        for index, pool in enumerate(pools)
    ]


def _share(pools: Sequence[Pool]) -> int:
    """How many percent of every number of pods these pools take."""
    return sum(100 if pool.max_replicas is None else pool.percent or 0 for pool in pools)


def _own_limit(pool: Pool) -> int | None:
    if isinstance(pool.max_replicas, int):
        return max(pool.max_replicas, pool.min_replicas)
    return pool.min_replicas if pool.percent == 0 else None


class Refusal(Struct, frozen=True):
    """Why a pool does not take a pod now.

    Attributes:
        reason: one word, as in a condition.
        message: the rest of the sentence "pool X …".
        lasting: it is this pod that the pool cannot have, whatever becomes of others.
        spares: it is spared while other pools take pods, and takes those that no other has room for.
    """

    reason: str
    message: str
    lasting: bool = False
    spares: bool = False


class Assignment(Struct, frozen=True):
    """What was decided for a pod.

    Attributes:
        pool: index of the pool; None: the pod waits.
        rank: its keep rank; 0: it is beyond its pool's limit, and the first to go.
        passed: pools that would have come first, or could have, and why they do not take it.
    """

    pool: int | None
    rank: int = 0
    passed: tuple[tuple[int, Refusal], ...] = ()


FULL = Refusal("Full", "has as many pods as it takes")


def choose_pool(
    pools: int, vacant: Callable[[int], int | None], refused: Mapping[int, Refusal]
) -> Assignment:
    """The pool with the lowest free rank, of those that take the pod.

    Where there is room in pools alone that are spared, it goes to the last of them: nothing is won by waiting. A pod
    that only fits where there is no place left, because of a node selector of its own, goes there all the same:
    anywhere else it could never run.

    Args:
        pools: how many pools there are.
        vacant: the lowest free rank of a pool, None when it is full.
        refused: the pools that do not take this pod now.
    """
    room = {pool: rank for pool in range(pools) if (rank := vacant(pool)) is not None}
    free = {pool: rank for pool, rank in room.items() if pool not in refused}
    passed = {pool: refused.get(pool, FULL) for pool in range(pools) if pool not in free}
    if free:
        pool = min(free, key=free.__getitem__)
        return Assignment(pool, free[pool], tuple(each for each in passed.items() if each[0] < pool))
    spared = [pool for pool in room if refused[pool].spares]
    if spared and not any(refused[pool].lasting for pool in room):
        pool = spared[-1]
        return Assignment(pool, room[pool], tuple(each for each in passed.items() if each[0] < pool))
    fitting = [pool for pool in range(pools) if not (pool in refused and refused[pool].lasting)]
    if 0 < len(fitting) < pools and all(passed[pool] is FULL for pool in fitting):
        return Assignment(fitting[-1], passed=tuple(passed.items()))
    return Assignment(None, passed=tuple(passed.items()))
