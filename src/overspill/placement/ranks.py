"""Keep ranks, and the deletion costs that make a ReplicaSet go by them.

In: ranks, pools, seats of a revision. Out: costs, or ranks set right. Pure. Invariant: costs of one ReplicaSet's
pods are all different, and lower where the rank is higher, so that which pod goes next is no accident.
Source: a ReplicaSet removes pods of lower controller.kubernetes.io/pod-deletion-cost first (an int32, 0 without
the annotation), among those that are scheduled, running and ready alike;
https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from overspill.placement.pools import FillOrder

__all__ = ["SURPLUS", "Seat", "deletion_cost", "rank_of", "rerank"]

KEEP = 1_000_000
# Ranks from here on are of pods beyond their pool's limit: the first to go of their ReplicaSet.
SURPLUS = 100_000_000
UNKNOWN = -1


class Seat(Struct):
    """One pod's place.

    Attributes:
        group: whose ranks it shares: its revision's, or "" for all of the policy's.
        revision: name of the ReplicaSet or other owner, within which costs are compared.
        pool: index; UNKNOWN for a pool that the policy no longer has.
        created: for a stable order among equals.
        sent: a patch with it is on its way, or has arrived; until then it can be given to another.
        settled: its pool was seen on the pod.
        pending: its rank was changed here and has not been seen on the pod; otherwise the pod is right.
    """

    uid: str
    group: str
    revision: str
    pool: int
    rank: int
    created: str = ""
    sent: bool = False
    settled: bool = False
    pending: bool = False


def rank_of(text: str) -> int:
    """The rank that an annotation names; 0 for none that is given here.

    Whoever writes a pod may write that one, and the sequence of places is worked out up to a rank that is asked for.
    """
    rank = int(text) if text.isdecimal() and len(text) < 10 else 0
    return rank if rank < KEEP or SURPLUS < rank < 2 * SURPLUS else 0


def deletion_cost(rank: int, *, behind: int = 0) -> int:
    """The cost of a pod.

    Args:
        rank: its keep rank.
        behind: for pods of an old revision that are to go first: how many pools stand behind theirs.
            The first pool is emptied before the second, and all before pods with `behind` 0.
    """
    return -behind * KEEP - rank if behind else KEEP - rank


def rerank(order: FillOrder, seats: Iterable[Seat], pools: int) -> dict[str, int]:
    """New ranks, by uid, for the seats of one group whose rank is not right for their pool.

    Each pool's pods have its first places; those that are there keep theirs, so that few change. Pods beyond
    the pool's limit, and those of a pool that is no more, are surplus.
    """
    by_pool: dict[int, list[Seat]] = {}
    for seat in seats:
        by_pool.setdefault(seat.pool, []).append(seat)
    changed: dict[str, int] = {}
    surplus: list[Seat] = []
    for pool in range(pools):
        members = by_pool.get(pool, [])
        places = _places(order, pool, len(members))
        left, free = _keep(members, places)
        changed |= {seat.uid: rank for seat, rank in zip(left, free, strict=False)}
        surplus += left[len(free) :]
    return changed | _surplus(surplus + by_pool.get(UNKNOWN, []))


def _places(order: FillOrder, pool: int, count: int) -> list[int]:
    places = (order.slot(pool, ordinal) for ordinal in range(1, count + 1))
    return [rank for rank in places if rank is not None]


def _keep(members: Sequence[Seat], places: Sequence[int]) -> tuple[list[Seat], list[int]]:
    """Who cannot keep its rank, from the one that deserves a place most; and the places that are left."""
    free = dict.fromkeys(places)
    left = []
    for seat in sorted(members, key=lambda seat: (seat.rank == 0, seat.rank, seat.created, seat.uid)):
        if seat.rank in free:
            del free[seat.rank]
        elif seat.settled:
            left.append(seat)
    return left, list(free)


def _surplus(seats: Sequence[Seat]) -> dict[str, int]:
    taken = {seat.rank for seat in seats if seat.rank > SURPLUS}
    changed: dict[str, int] = {}
    kept: set[int] = set()
    number = SURPLUS
    for seat in seats:
        if seat.rank in taken and seat.rank not in kept:
            kept.add(seat.rank)
            continue
        number += 1
        while number in taken:
            number += 1
        changed[seat.uid] = number
    return changed
