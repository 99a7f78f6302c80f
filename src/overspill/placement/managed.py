"""One policy and all that is known and remembered about it while this process leads.

In: its object, its pods, a clock's reading. Out: what is to be written, deleted, evicted, and when to look again.
No I/O. Invariant: what is remembered here alone is how long things have lasted; all else is found again.
"""

import math
from collections.abc import Iterator
from datetime import datetime

import msgspec
from msgspec import Struct

from overspill.placement.cooldown import Cooldowns
from overspill.placement.decide import Decisions, Surroundings, conflicting, decide, too_many
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy, PolicyStatus
from overspill.placement.pools import Assignment, Refusal
from overspill.placement.ranks import Seat
from overspill.placement.rebalance import Rebalancer
from overspill.placement.state import PolicyState

__all__ = ["Managed", "Outcome"]

# A ReplicaSet's, a CloneSet's or a StatefulSet's pod has a successor; a Job's counts as a failure.
MOVABLE = frozenset({"ReplicaSet", "CloneSet", "StatefulSet"})
SOON = 0.05
# Room on nodes comes without notice, as pods of no policy end. All who wait for it look at the same moments, so that
# what is left on the nodes is reckoned once.
ROOM_EVERY = 5.0
# A pool to which the apiserver did not let a pod go is tried again: what stood in the way may be gone.
REFUSED_FOR = 60.0


class Outcome(Struct):
    """What one look at a policy asks for.

    Attributes:
        decisions: seats given, pods that wait.
        doomed: pods whose pool cannot run them, and why.
        moving: pods to evict, so that their successors get a better place.
        overdue: pods that have waited for longer than the policy lets them.
        due: seconds after which to look again, None for no reason to.
    """

    decisions: Decisions
    doomed: list[tuple[Pod, str]]
    moving: list[Pod]
    overdue: list[Pod]
    due: float | None


class Managed:
    """One policy.

    Attributes:
        reasons: what was decided for pods that wait, by uid.
        released: uids of pods that are let go without a pool, since they have waited too long.
        refused: pools to which the apiserver would not let a pod go, by uid.
        conditions: as they were last written.
        older: name of an older policy with which it shares pods, or "".
        stuck: pools that hold pods which they could not run in time and which stay all the same, and why, by name.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state = PolicyState(policy)
        self.cooldowns = Cooldowns()
        self.reasons: dict[str, Assignment] = {}
        self.older = ""
        self.conditions = policy.status.conditions
        self.stuck: dict[str, str] = {}
        self._stranded: dict[str, float] = {}
        self._gated: dict[str, float] = {}
        self.released: set[str] = set()
        self.refused: dict[str, dict[int, Refusal]] = {}
        self._retry: dict[str, float] = {}  # when those refusals are forgotten
        self._rebalancer = Rebalancer()

    def renew(self, policy: Policy) -> None:
        """Take the policy as it is now, its spec being the same."""
        self.policy = self.state.policy = policy

    def edit(self, policy: Policy) -> None:
        """Take the policy as it is now, with another spec."""
        before, self.policy = self.state, policy
        self.state = PolicyState(policy)
        for pod in before.pods.values():
            self.state.apply(pod)
        self.state.ending = before.ending
        self.state.carry_over(before)
        self.refused.clear()
        self._retry.clear()

    def remember(self, status: PolicyStatus, *, wall: float, now: float) -> None:
        """Take up the cool-downs that a process before this one began, none longer than the policy says."""
        for known in status.pools:
            index = self.policy.spec.pool_index(known.name)
            if index is None or not known.cooldown_until:
                continue
            left = datetime.fromisoformat(known.cooldown_until).timestamp() - wall
            left = min(left, self.policy.spec.pools[index].cooldown_seconds)
            self.cooldowns.begin(known.name, until=now + left, why="it could not run pods before")

    def apply(self, pod: Pod, now: float) -> None:
        """Take in how a pod is now."""
        uid = pod.metadata.uid
        self.state.apply(pod)
        if uid not in self.state.pods:
            self._forget(uid)
            return
        if not pod.gated:
            self._gated.pop(uid, None)
            self.released.discard(uid)
            self._forgive(uid)
        elif uid not in self._gated:
            self._gated[uid] = now
        if pod.stranded() is None:
            self._stranded.pop(uid, None)
            self._works(pod)
        else:
            self._stranded.setdefault(uid, now)

    def remove(self, uid: str) -> None:
        """A pod is gone."""
        self.state.remove(uid)
        self._forget(uid)

    def refuse(self, uid: str, pool: int, refusal: Refusal, now: float) -> None:
        """The apiserver does not let a pod go to a pool: it gets another, or waits."""
        seat = self.state.seats.get(uid)
        if seat is None or seat.settled or seat.pool != pool:
            return  # the pod is gone, or the policy is another by now
        self.refused.setdefault(uid, {})[pool] = refusal
        self._retry[uid] = now + REFUSED_FOR
        self.state.take_back(uid)

    def look(self, around: Surroundings, *, desired: int) -> Outcome:
        """Decide what can be decided now; `desired` is how many pods the workload wants."""
        now = around.now
        self._check_troubles(now)
        for uid in [uid for uid, when in self._retry.items() if when <= now]:
            self._forgive(uid)
        made = decide(self.state, self.cooldowns, around)
        self.reasons = made.waiting
        doomed = list(self._doomed(around, desired))
        moving, move_due = self._rebalancer.evictions(self.state, self.cooldowns, around, desired)
        overdue = list(self._overdue(now))
        self.released.update(pod.metadata.uid for pod in overdue)
        end = self.cooldowns.next_end(now)  # also when nobody waits for it: the status tells of it
        retry = min(self._retry.values(), default=None)
        waits = [each - now for each in (end, retry) if each is not None]
        others = move_due, self._gate_due(now), self._strand_due(now), self._room_due(now)
        waits += [each for each in others if each is not None]
        due = min(waits, default=None)
        return Outcome(made, doomed, moving, overdue, None if due is None else max(due, SOON))

    def _check_troubles(self, now: float) -> None:
        """An edit may have made cool-downs shorter; a pod that lost its seat in a pool tells nothing of that pool."""
        for index, pool in enumerate(self.policy.spec.pools):
            self.cooldowns.shorten(pool.name, now + pool.cooldown_seconds)
            probe = self.cooldowns.probe(pool.name)
            seat = self.state.seats.get(probe)
            if probe and (seat is None or seat.pool != index):
                self.cooldowns.gone(probe)

    def _strand_due(self, now: float) -> float | None:
        """Seconds until some pool has had its time for a pod."""
        times = [
            since + self.policy.spec.pools[seat.pool].unschedulable_timeout_seconds - now
            for uid, since in self._stranded.items()
            if (seat := self.state.seats.get(uid)) is not None and seat.pool >= 0
        ]
        return min((each for each in times if each > 0), default=None)

    def _overdue(self, now: float) -> Iterator[Pod]:
        gate = self.policy.spec.gate
        for uid in self.state.waiting if gate.on_timeout == "Release" else ():
            if now - self._gated.get(uid, now) >= gate.timeout_seconds:
                yield self.state.pods[uid]

    def _gate_due(self, now: float) -> float | None:
        """Seconds until a pod has waited too long."""
        gate = self.policy.spec.gate
        if gate.on_timeout == "Wait" or not self.state.waiting:
            return None
        times = [self._gated.get(uid, now) + gate.timeout_seconds - now for uid in self.state.waiting]
        return min((each for each in times if each > 0), default=None)

    def _room_due(self, now: float) -> float | None:
        """Seconds until those who wait for room on nodes look again."""
        if all(pool.capacity_check == "None" for pool in self.policy.spec.pools):
            return None
        refusals = (why for each in self.reasons.values() for _, why in each.passed)
        return ROOM_EVERY - now % ROOM_EVERY if any(why.reason == "NoCapacity" for why in refusals) else None

    def _doomed(self, around: Surroundings, desired: int) -> Iterator[tuple[Pod, str]]:
        """Pods that their pool could not run for too long, as many as others could; begins its cool-down."""
        now, self.stuck = around.now, {}
        # Pods that wait or are still to be made take room elsewhere, too.
        coming = max(desired - len(self.state.pods), 0) + len(self.state.waiting)
        room: dict[tuple[str, int], float] = {}
        for pod, seat, since, why in list(self._overstayed(now)):
            pool, owner, place = self.policy.spec.pools[seat.pool], pod.owner, (seat.group, seat.pool)
            if place not in room:
                room[place] = self._room_elsewhere(pod, seat, around) - coming
            movable = pool.when_unschedulable == "NextPool" and owner is not None and owner.kind in MOVABLE
            if not movable or room[place] < 1:
                self.stuck[pool.name] = f"keeps pods that it cannot run: {why}"
                continue
            room[place] -= 1
            self.cooldowns.begin(pool.name, until=now + pool.cooldown_seconds, why=why)
            yield pod, f"pool {pool.name} could not run it for {now - since:.0f} s: {why}"

    def _overstayed(self, now: float) -> Iterator[tuple[Pod, Seat, float, str]]:
        """Pods that their pool could not run for too long, since when, and why."""
        for uid, since in self._stranded.items():
            seat, pod = self.state.seats.get(uid), self.state.pods.get(uid)
            condition = pod.stranded() if pod is not None else None
            if seat is None or pod is None or condition is None or seat.pool < 0:
                continue
            if now - since >= self.policy.spec.pools[seat.pool].unschedulable_timeout_seconds:
                yield pod, seat, since, condition.message or condition.reason

    def _room_elsewhere(self, pod: Pod, seat: Seat, around: Surroundings) -> float:
        """How many pods like this one other pools would take."""
        if not self.state.ranked:
            return math.inf if seat.pool + 1 < self.state.size else 0
        others = (other for other in range(self.state.size) if other != seat.pool)
        return sum(self._room(pod, seat.group, other, around) for other in others)

    def _room(self, pod: Pod, group: str, index: int, around: Surroundings) -> float:
        pool, room = self.policy.spec.pools[index], self.state.room(group, index)
        like = self.state.samples.get(group) or _unbidden(pod)
        if (
            self.state.vacant(group)(index) is None
            or self.cooldowns.refusal(pool.name, around.now) is not None
            or too_many(self.state, index) is not None
            or (pool.capacity_check == "Simulate" and not around.capacity().fits(like, pool))
            or index in conflicting(self.state, around, like)
        ):
            return 0
        if self.cooldowns.why(pool.name):
            return 1  # it is tried again
        return math.inf if room is None else room

    def _works(self, pod: Pod) -> None:
        """Whether a pod shows that its pool runs pods again."""
        seat = self.state.seats.get(pod.metadata.uid)
        if seat is not None and seat.pool >= 0 and pod.sheltered:
            self.cooldowns.works(self.policy.spec.pools[seat.pool].name, pod.metadata.uid)

    def _forget(self, uid: str) -> None:
        self.cooldowns.gone(uid)
        self._stranded.pop(uid, None)
        self._gated.pop(uid, None)
        self.released.discard(uid)
        self._forgive(uid)

    def _forgive(self, uid: str) -> None:
        self.refused.pop(uid, None)
        self._retry.pop(uid, None)


def _unbidden(pod: Pod) -> Pod:
    """A pod as if nobody had sent it anywhere: its pool's selectors cannot be told from its own any more."""
    return msgspec.structs.replace(
        pod, spec=msgspec.structs.replace(pod.spec, node_selector=None, affinity=msgspec.Raw())
    )
