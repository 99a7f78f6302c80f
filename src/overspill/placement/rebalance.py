"""Moving pods back to an earlier pool that has room again.

In: a policy's state, who is ready, since when there has been room. Out: pods to evict. Pure. Invariant: at most
`maxUnavailable` of the workload's pods are missing or not ready at any time because of this, and the eviction
API, which respects PodDisruptionBudgets, has the last word.
"""

from collections.abc import Iterator, Mapping

from overspill.placement.cooldown import Cooldowns
from overspill.placement.decide import Surroundings, conflicting, too_many
from overspill.placement.pods import Pod
from overspill.placement.ranks import Seat
from overspill.placement.state import PolicyState, revision_of

__all__ = ["Rebalancer"]

# Their pods get a successor that is placed anew.
KINDS = frozenset({"ReplicaSet", "CloneSet"})
NOWHERE = 1 << 62
# For how long an eviction that was asked for may be on its way, or refused by a PodDisruptionBudget; seconds.
UNSEEN = 10.0


class Rebalancer:
    """Remembers since when each pool has had room, and whom it has asked to go."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._asked: dict[str, float] = {}
        self._clones: set[str] = set()  # CloneSets' pods, as they were seen last
        self._owed = 0  # successors of such pods
        self._last = 0.0

    def evictions(
        self, state: PolicyState, cooldowns: Cooldowns, around: Surroundings, desired: int
    ) -> tuple[list[Pod], float | None]:
        """Pods to evict now, and the seconds after which to look again; None when nothing is to be moved."""
        rebalance = state.policy.spec.rebalance
        if rebalance.mode == "Disabled":
            return [], None
        self._count_clones(state)
        misplaced = list(_misplaced(state, cooldowns, around))
        movable = [(pool, pod) for pool, pod, fits in misplaced if fits]
        roomy = {pool for pool, _ in movable}
        self._since = {pool: self._since.get(pool, around.now) for pool in roomy}
        if not movable:  # room on nodes comes without notice
            return [], float(rebalance.interval_seconds) if misplaced else None
        ripe = min(self._since.values()) + rebalance.stabilization_seconds
        due = max(ripe, self._last + rebalance.interval_seconds) - around.now
        if due > 0:
            return [], due
        spare = rebalance.max_unavailable - self._owed - self._unavailable(state, desired, around.now)
        stable = around.now - rebalance.stabilization_seconds
        chosen = [pod for pool, pod in movable if self._since[pool] <= stable][: max(spare, 0)]
        if chosen:
            self._last = around.now
            self._asked.update((pod.metadata.uid, around.now) for pod in chosen)
        return chosen, float(rebalance.interval_seconds)

    def _count_clones(self, state: PolicyState) -> None:
        """Find out how many pods of CloneSets were evicted and have no successor yet.

        How many pods a CloneSet wants is not watched, so that every new one counts as a successor. If it is scaled in
        meanwhile, none moves until there are as many new ones.
        """
        clones = {
            uid
            for uid, pod in state.pods.items()
            if not pod.deleting and (owner := pod.owner) is not None and owner.kind == "CloneSet"
        }
        gone = (self._clones - clones) & self._asked.keys()
        self._owed = max(self._owed + len(gone) - len(clones - self._clones), 0)
        self._clones = clones

    def _unavailable(self, state: PolicyState, desired: int, now: float) -> int:
        """How many of the wanted pods are not ready, or were just asked to go and have not been seen going."""
        self._asked = {
            uid: when for uid, when in self._asked.items() if uid in state.pods and now - when < UNSEEN
        }
        ready = sum(
            pod.ready and not pod.deleting for uid, pod in state.pods.items() if uid not in self._asked
        )
        return max(desired - ready, 0)


def _misplaced(
    state: PolicyState, cooldowns: Cooldowns, around: Surroundings
) -> Iterator[tuple[int, Pod, bool]]:
    """Pods whose successors would be in a better place, the worst placed first, each with that pool.

    And whether it has room on its nodes; where it has none for one pod of a revision, no other of that one is tried.
    """
    for name, group in list(state.groups.items()):
        if any(around.is_old(seat.revision) for seat in list(group.seats.values())[:1]):
            continue  # a rollout is on: its pods go anyway
        room, sample = _rooms(state, cooldowns, around, name), state.samples.get(name)
        crammed: set[tuple[str, int]] = set()
        for seat in sorted(group.seats.values(), key=lambda seat: -seat.rank):
            pod, better = state.pods.get(seat.uid), _better(seat, room)
            if pod is None or better is None or not _may_move(pod) or (seat.revision, better) in crammed:
                continue
            into = state.policy.spec.pools[better]
            like = sample if sample is not None and revision_of(sample) == seat.revision else pod
            fits = into.capacity_check == "None" or around.capacity().take(like, into)
            yield better, pod, fits
            if not fits:
                crammed.add((seat.revision, better))
                continue
            room[better] = _following(state, room[better])


def _rooms(state: PolicyState, cooldowns: Cooldowns, around: Surroundings, group: str) -> dict[int, int]:
    """The lowest free rank of each pool that would take the successor of a group's pod."""
    vacant, sample = state.vacant(group), state.samples.get(group)
    unfit = conflicting(state, around, sample) if sample else {}
    return {
        pool: rank
        for pool, each in enumerate(state.policy.spec.pools)
        if (rank := vacant(pool)) is not None
        and pool not in unfit
        and too_many(state, pool) is None
        and cooldowns.refusal(each.name, around.now) is None
    }


def _better(seat: Seat, room: Mapping[int, int]) -> int | None:
    """The other pool in which a pod would have the lowest rank, if that is lower than its own."""
    others = {pool: rank for pool, rank in room.items() if pool != seat.pool and rank < seat.rank}
    return min(others, key=others.__getitem__) if others and seat.settled else None


def _following(state: PolicyState, rank: int) -> int:
    """The rank after this one in its pool; a pool without one has no room below anybody's rank."""
    place = state.order.place(rank)
    assert place is not None
    return state.order.slot(place[0], place[1] + 1) or NOWHERE


def _may_move(pod: Pod) -> bool:
    owner = pod.owner
    return owner is not None and owner.kind in KINDS and not pod.deleting and not pod.gated
