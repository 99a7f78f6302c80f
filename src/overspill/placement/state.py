"""What is known of one policy's pods: who sits where.

In: pods as they are seen, decisions as they are made. Out: counts, free ranks, who waits. No I/O.
Invariant: whatever led here, the state equals one that is built anew from the pods alone, but for ReplicaSets that
lost their last pod, and for seats that were given and have not been seen yet; those count, so that nobody gets a place
twice.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec

from overspill import names
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.pools import Assignment, FillOrder
from overspill.placement.ranks import SURPLUS, UNKNOWN, Seat, rerank

__all__ = ["Group", "PolicyState", "revision_of"]


def revision_of(pod: Pod) -> str:
    """Name of the ReplicaSet or other controller that made a pod; "" for none."""
    owner = pod.owner
    return owner.name if owner else ""


class Group:
    """The ranks of one revision, or of all where the policy counts so.

    Attributes:
        counts: pods of each pool.
        crooked: some rank does not fit its pool, is held twice, or could be taken by a surplus pod.
    """

    def __init__(self, order: FillOrder, pools: int) -> None:
        self._order = order
        self._held: dict[int, set[str]] = {}
        self._free: list[list[int]] = [[] for _ in range(pools)]  # heaps; may hold ranks that are held again
        self._tops = [0] * pools  # ordinals up to here were given out once, or are in the heap
        self._surplus = [0] * pools
        self._beyond = SURPLUS + 1  # ranks between SURPLUS and this one are held
        self.counts = [0] * pools
        self.crooked = False
        self.seats: dict[str, Seat] = {}

    def vacant(self, pool: int) -> int | None:
        """The lowest free rank of a pool; None when it is full."""
        heap = self._free[pool]
        while heap and heap[0] in self._held:
            heapq.heappop(heap)
        if heap:
            return heap[0]
        while (rank := self._order.slot(pool, self._tops[pool] + 1)) in self._held:
            self._tops[pool] += 1  # of a pod of another pool, which cannot be moved yet
        return rank

    def next_surplus(self) -> int:
        """A rank beyond all places."""
        while self._beyond in self._held:
            self._beyond += 1
        return self._beyond

    def add(self, seat: Seat) -> None:
        """Take a seat in."""
        self.seats[seat.uid] = seat
        holders = self._held.setdefault(seat.rank, set())
        holders.add(seat.uid)
        if seat.pool == UNKNOWN:
            self.crooked = self.crooked or seat.rank <= SURPLUS or len(holders) > 1
            return
        self.counts[seat.pool] += 1
        if seat.rank > SURPLUS:
            self._surplus[seat.pool] += 1
            self.crooked = self.crooked or len(holders) > 1 or self.vacant(seat.pool) is not None
            return
        place = self._order.place(seat.rank) if seat.rank else None
        if place is None or place[0] != seat.pool or len(holders) > 1:
            self.crooked = True
            return
        self._raise_top(seat.pool, place[1])

    def check(self, seat: Seat) -> None:
        """A seat can be moved from now on: what could not be set right before is to be looked at again."""
        place = self._order.place(seat.rank) if 0 < seat.rank <= SURPLUS else None
        fits = seat.rank > SURPLUS or (place is not None and place[0] == seat.pool)
        self.crooked = self.crooked or not fits or len(self._held[seat.rank]) > 1

    def remove(self, uid: str) -> None:
        """Take a seat away."""
        seat = self.seats.pop(uid)
        holders = self._held[seat.rank]
        holders.discard(uid)
        if not holders:
            del self._held[seat.rank]
            if seat.rank > SURPLUS:
                self._beyond = min(self._beyond, seat.rank)
        if seat.pool == UNKNOWN:
            return
        self.counts[seat.pool] -= 1
        if seat.rank > SURPLUS:
            self._surplus[seat.pool] -= 1
            return
        place = self._order.place(seat.rank) if seat.rank else None
        if place is not None and place[1] <= self._tops[place[0]]:
            heapq.heappush(self._free[place[0]], seat.rank)
            self.crooked = self.crooked or self._surplus[place[0]] > 0

    def _raise_top(self, pool: int, ordinal: int) -> None:
        for between in range(self._tops[pool] + 1, ordinal):
            rank = self._order.slot(pool, between)
            assert rank is not None, "places before a place exist"
            heapq.heappush(self._free[pool], rank)
        self._tops[pool] = max(self._tops[pool], ordinal)


class PolicyState:
    """All pods of one policy.

    Attributes:
        pods: the active ones by uid: neither ended nor, unless the policy counts those, being deleted.
        waiting: uids of those that wait for their pool, each with its group.
        strays: uids of those that run without having been placed here.
        replica_sets: pods of each ReplicaSet that are not being deleted, by its name; one whose last pod is being
            deleted stays, since it lacks that one's successor.
        totals: pods of each pool, over all revisions.
        samples: a pod of each group as it was at its gate: what it asks for itself cannot be told from its pool's
            selectors later.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.order = FillOrder(policy.spec)
        self.size = len(policy.spec.pools)
        self.pods: dict[str, Pod] = {}
        self.waiting: dict[str, str] = {}
        self._waiting_in: Counter[str] = Counter()
        self.strays: set[str] = set()
        self.ending: dict[str, Pod] = {}
        self.replica_sets: Counter[str] = Counter()
        self.totals = [0] * self.size
        self.seats: dict[str, Seat] = {}
        self.groups: dict[str, Group] = {}
        self.samples: dict[str, Pod] = {}

    def apply(self, pod: Pod) -> None:
        """Take in how a pod is now."""
        uid = pod.metadata.uid
        if pod.deleting and not pod.ended:
            self.ending[uid] = pod
        if pod.ended or (pod.deleting and self.policy.spec.counting.terminating == "Ignore"):
            self._drop(uid)
            return
        self._uncount(uid)
        self.pods[uid] = pod
        self._count(pod, 1)
        if pod.gated:
            if uid not in self.seats and uid not in self.waiting:
                group = self.waiting[uid] = self.group_of(pod)
                self._waiting_in[group] += 1
            return
        self._wait_no_more(uid)
        pool = self.pool_on(pod)
        if pool is None:
            seat = self.seats.get(uid)
            if seat is None or not seat.settled:  # a settled one is adopted, its labels on their way
                self._leave(uid)
                self.strays.add(uid)
            return
        self.strays.discard(uid)
        self._seen(pod, pool)

    def remove(self, uid: str) -> None:
        """A pod is gone, or of another policy."""
        pod = self.pods.get(uid)
        self._drop(uid)
        self.ending.pop(uid, None)
        if pod is not None and not pod.deleting and not self.replica_sets[revision_of(pod)]:
            del self.replica_sets[revision_of(pod)]

    def give(self, pod: Pod, assignment: Assignment) -> Seat:
        """Seat a pod where it was decided; it counts from now on."""
        assert assignment.pool is not None
        group = self.group_of(pod)
        rank = assignment.rank or self.group(group).next_surplus()
        seat = Seat(
            uid=pod.metadata.uid,
            group=group,
            revision=revision_of(pod),
            pool=assignment.pool,
            rank=rank,
            created=pod.created,
        )
        self._leave(seat.uid)
        self._sit(seat)
        if pod.gated:
            self.samples[group] = pod
        self._wait_no_more(seat.uid)
        self.strays.discard(seat.uid)
        return seat

    def owes(self, uid: str) -> bool:
        """Whether a pod, as it was seen last, has another rank than it is to have."""
        seat, pod = self.seats.get(uid), self.pods.get(uid)
        return seat is not None and pod is not None and seat.pending and pod.rank != seat.rank

    def take_back(self, uid: str) -> None:
        """A seat that was given could not be taken; the pod waits again, if it is still there."""
        seat = self.seats.get(uid)
        if seat is None or seat.settled:
            return
        self._leave(uid)
        pod = self.pods.get(uid)
        if pod is not None:
            self.apply(pod)

    def carry_over(self, before: "PolicyState") -> None:
        """Take in the seats that a state before this one has sent and nobody has seen yet."""
        for seat in before.seats.values():
            pool = None if seat.pool == UNKNOWN else self.policy.spec.pool_index(before.pool_name(seat.pool))
            if not seat.sent or pool is None or seat.uid not in self.pods or seat.uid in self.seats:
                continue
            self._sit(msgspec.structs.replace(seat, pool=pool))
            self._wait_no_more(seat.uid)
        self.samples = {group: pod for group, pod in before.samples.items() if group in self.groups}

    def pool_name(self, pool: int) -> str:
        """A pool's name."""
        return self.policy.spec.pools[pool].name

    def straighten(self) -> list[str]:
        """Set the ranks right of every group that needs it; the uids whose rank changed."""
        touched: list[str] = []
        for name, group in list(self.groups.items()):
            if not group.crooked:
                continue
            changed = rerank(self.order, group.seats.values(), self.size) if self.ranked else {}
            seats = list(group.seats.values())
            fresh = self.groups[name] = Group(self.order, self.size)
            for seat in seats:
                seat.rank = changed.get(seat.uid, seat.rank)
                if seat.uid in changed:
                    seat.pending = self.pods[seat.uid].rank != seat.rank
                fresh.add(seat)
            fresh.crooked = False
            touched += changed
        return touched

    def group_of(self, pod: Pod) -> str:
        """The group whose ranks a pod shares."""
        owner = pod.owner
        per_revision = self.policy.spec.counting.scope == "Revision" and owner and owner.kind == "ReplicaSet"
        return revision_of(pod) if per_revision else ""

    def group(self, name: str) -> Group:
        """A group, made when it is first asked for."""
        return self.groups.get(name) or self.groups.setdefault(name, Group(self.order, self.size))

    @property
    def ranked(self) -> bool:
        """Whether ranks matter: a StatefulSet's pods go by their number."""
        target = self.policy.spec.target_ref
        return target is None or target.kind != "StatefulSet"

    def vacant(self, group: str) -> Callable[[int], int | None]:
        """The lowest free rank of each pool of a group; None where it is full."""
        return partial(self._vacant, group)

    def room(self, group: str, pool: int) -> int | None:
        """How many pods more a pool takes of a group; None without a limit.

        A percentage is one of the pods that the group has now, with those that wait.
        """
        held = self.group(group)
        most = self.order.most(pool, len(held.seats) + self._waiting_in[group])
        return None if most is None else max(most - held.counts[pool], 0)

    def pool_on(self, pod: Pod) -> int | None:
        """The pool that was written on a pod; UNKNOWN for one that is no more, None without any."""
        name = pod.labels.get(names.POOL_LABEL)
        if not name:
            return None
        index = self.policy.spec.pool_index(name)
        return UNKNOWN if index is None else index

    def desired(self, replicas: Callable[[str], int | None]) -> int:
        """How many pods there are to be: those that are not being deleted, and those that ReplicaSets lack.

        Args:
            replicas: how many pods a ReplicaSet of a name wants; None for one that is gone, which is forgotten.
        """
        total = len(self.pods) - sum(uid in self.pods for uid in self.ending)
        for name, count in list(self.replica_sets.items()):
            wanted = replicas(name)
            if wanted is not None:
                total += max(wanted - count, 0)
            elif not count:
                del self.replica_sets[name]
        return total

    def _vacant(self, group: str, pool: int) -> int | None:
        return None if self.room(group, pool) == 0 else self.group(group).vacant(pool)

    def _wait_no_more(self, uid: str) -> None:
        group = self.waiting.pop(uid, None)
        if group is not None:
            self._waiting_in[group] -= 1

    def _seen(self, pod: Pod, pool: int) -> None:
        uid = pod.metadata.uid
        known = self.seats.get(uid)
        if known is not None and (known.pool, known.rank) == (pool, pod.rank):
            if not known.settled:
                self.groups[known.group].check(known)
            known.sent = known.settled = True
            known.pending = False
            return
        if known is not None and known.settled and known.pending and known.pool == pool:
            return  # its rank is on its way to it
        self._leave(uid)
        self._sit(
            Seat(
                uid=uid,
                group=self.group_of(pod),
                revision=revision_of(pod),
                pool=pool,
                rank=pod.rank,
                created=pod.created,
                sent=True,
                settled=True,
            )
        )

    def _sit(self, seat: Seat) -> None:
        self.seats[seat.uid] = seat
        self.group(seat.group).add(seat)
        if seat.pool != UNKNOWN:
            self.totals[seat.pool] += 1

    def _leave(self, uid: str) -> None:
        seat = self.seats.pop(uid, None)
        if seat is None:
            return
        group = self.groups[seat.group]
        group.remove(uid)
        if not group.seats:
            del self.groups[seat.group]
            self.samples.pop(seat.group, None)
        if seat.pool != UNKNOWN:
            self.totals[seat.pool] -= 1

    def _drop(self, uid: str) -> None:
        self._uncount(uid)
        self.pods.pop(uid, None)
        self._wait_no_more(uid)
        self.strays.discard(uid)
        self._leave(uid)

    def _uncount(self, uid: str) -> None:
        pod = self.pods.get(uid)
        if pod is not None:
            self._count(pod, -1)

    def _count(self, pod: Pod, by: int) -> None:
        owner = pod.owner
        if owner is not None and owner.kind == "ReplicaSet" and not pod.deleting:
            self.replica_sets[owner.name] += by
