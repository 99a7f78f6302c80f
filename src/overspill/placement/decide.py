"""One look at a policy: who gets which seat now.

In: the policy's state and what surrounds it. Out: seats given, pods that still wait and why, pods whose rank
changed. No I/O; the state is changed to hold the seats. Invariant: pods are taken in a fixed order, so that the
same pods seen together get the same seats whoever decides.
"""

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from overspill.placement.capacity import Capacity
from overspill.placement.cooldown import Cooldowns
from overspill.placement.nodes import Node, conflicts, pool_of
from overspill.placement.pods import Pod
from overspill.placement.pools import FAR, FULL, Assignment, Refusal, choose_pool
from overspill.placement.ranks import UNKNOWN, Seat, deletion_cost
from overspill.placement.state import PolicyState, revision_of

__all__ = ["Decisions", "Surroundings", "assignment_for", "conflicting", "cost_of", "decide", "too_many"]

Refusals = dict[int, Refusal]
# What a pod asks of its node itself: its nodeSelector, its affinity in JSON.
Wishes = tuple[tuple[tuple[str, str], ...], bytes]
UNNUMBERED = Refusal("NoStatefulSet", "takes pods by their number, and their StatefulSet is not known yet")
encode = msgspec.json.Encoder().encode


def _no_node(_name: str) -> Node | None:
    return None


def _empty() -> Capacity:
    return Capacity((), ())


class Surroundings(Struct):
    """What a decision looks at beside the policy's own pods.

    Attributes:
        now: seconds of a clock that never goes back.
        nodes, node: all nodes, and one by its name.
        is_old: whether a revision is to make room for a newer one, by the name of its ReplicaSet.
        first_ordinal: number of a StatefulSet's first pod; None as long as the StatefulSet is not known.
        capacity: what is left on the nodes; only asked for by pools with a capacity check.
        refused: pools to which the apiserver would not let a pod go, by uid.
        conflicts: pools that pods cannot go to because of their own wishes, as far as it was found out, by wishes.
    """

    now: float = 0.0
    nodes: Callable[[], Iterable[Node]] = tuple
    node: Callable[[str], Node | None] = _no_node
    is_old: Callable[[str], bool] = lambda _name: False
    first_ordinal: int | None = 0
    capacity: Callable[[], Capacity] = _empty
    refused: dict[str, Refusals] = {}
    conflicts: dict[Wishes, Refusals] = {}


class Decisions(Struct):
    """What one look came to.

    Attributes:
        placed: pods that got a seat, with the reasons.
        waiting: pods that did not; pods of a group for which nothing can change share one Assignment.
        touched: uids whose rank or marks are to be written anew.
    """

    placed: list[tuple[Pod, Assignment]] = []
    waiting: dict[str, Assignment] = {}
    touched: list[str] = []


def decide(state: PolicyState, cooldowns: Cooldowns, around: Surroundings) -> Decisions:
    """Adopt who runs already, set ranks right, seat who waits."""
    made = Decisions(placed=[], waiting={}, touched=_adopt(state, around))
    made.touched += state.straighten()
    hopeless: dict[tuple[str, Wishes, bytes], Assignment] = {}
    simulates = any(pool.capacity_check == "Simulate" for pool in state.policy.spec.pools)
    for pod in _in_order(state, around):
        uid = pod.metadata.uid
        kind = state.group_of(pod), _wishes(pod), _needs(pod) if simulates else b""
        ordinary = uid not in around.refused
        if ordinary and kind in hopeless:
            made.waiting[uid] = hopeless[kind]
            continue
        assignment = assignment_for(state, cooldowns, around, pod)
        if assignment.pool is None:
            made.waiting[uid] = assignment
            if ordinary and state.ranked:
                hopeless[kind] = assignment
            continue
        state.give(pod, assignment)
        pool = state.policy.spec.pools[assignment.pool]
        cooldowns.given(pool.name, uid)
        if pool.capacity_check == "Simulate":
            around.capacity().take(pod, pool)
        made.placed.append((pod, assignment))
    return made


def assignment_for(state: PolicyState, cooldowns: Cooldowns, around: Surroundings, pod: Pod) -> Assignment:
    """Where a pod would go now."""
    ordinal = None if state.ranked else pod.ordinal
    if ordinal is None:
        refused = _refusals(state, cooldowns, around, pod)
        return choose_pool(state.size, state.vacant(state.group_of(pod)), refused)
    if around.first_ordinal is None:
        return Assignment(None, passed=tuple((index, UNNUMBERED) for index in range(state.size)))
    rank = min(max(ordinal - around.first_ordinal + 1, 1), FAR)  # whoever makes a pod may give it any number
    return _by_ordinal(state, rank, _refusals(state, cooldowns, around, pod))


def cost_of(state: PolicyState, seat: Seat, around: Surroundings) -> int | None:
    """The deletion cost that a pod is to have; None where it is not ours to write, or has no meaning."""
    spec = state.policy.spec
    if not spec.scale_in.manage_deletion_cost or not state.ranked:
        return None
    if spec.target_ref is not None and spec.target_ref.kind in {"Job", "CronJob"}:
        return None
    reversed_ = spec.rollout.old_revision_scale_in == "FirstPoolFirst" and around.is_old(seat.revision)
    behind = state.size - 1 - seat.pool if reversed_ and seat.pool != UNKNOWN else 0
    return deletion_cost(seat.rank, behind=behind)


def _in_order(state: PolicyState, around: Surroundings) -> list[Pod]:
    """Pods that wait, those of old revisions first: they are the ones that serve."""
    old: dict[str, bool] = {}

    def key(pod: Pod) -> tuple[bool, str, str]:
        revision = revision_of(pod)
        if revision not in old:
            old[revision] = around.is_old(revision)
        return not old[revision], pod.created, pod.metadata.uid

    return sorted((state.pods[uid] for uid in state.waiting), key=key)


def _adopt(state: PolicyState, around: Surroundings) -> list[str]:
    """Seat pods that run without having been placed, by the node they are on."""
    if state.policy.spec.counting.existing_pods == "Ignore":
        return []
    adopted = []
    for pod in sorted((state.pods[uid] for uid in state.strays), key=_age):
        node = around.node(pod.spec.node_name) if pod.bound else None
        pool = pool_of(state.policy.spec.pools, node.metadata.labels) if node else None
        if pool is None:
            continue
        rank = state.group(state.group_of(pod)).vacant(pool) or 0
        seat = state.give(pod, Assignment(pool, rank))
        seat.settled = seat.pending = True
        adopted.append(pod.metadata.uid)
    return adopted


def _age(pod: Pod) -> tuple[str, str]:
    return pod.created, pod.metadata.uid


def _refusals(state: PolicyState, cooldowns: Cooldowns, around: Surroundings, pod: Pod) -> Refusals:
    refused = dict(around.refused.get(pod.metadata.uid, {}))
    unfit = conflicting(state, around, pod)
    for index, pool in enumerate(state.policy.spec.pools):
        refusal = (
            refused.get(index)
            or too_many(state, index)
            or unfit.get(index)
            or cooldowns.refusal(pool.name, around.now)
        )
        if refusal is None and pool.capacity_check == "Simulate" and not around.capacity().fits(pod, pool):
            refusal = Refusal("NoCapacity", "has no node with enough left of what the pod requests")
        if refusal is not None:
            refused[index] = refusal
    return refused


def conflicting(state: PolicyState, around: Surroundings, pod: Pod) -> Refusals:
    """The pools that a pod cannot go to because of its own wishes; found out once for all pods with the same."""
    wishes = _wishes(pod)
    if wishes not in around.conflicts:
        around.conflicts[wishes] = conflicts(pod, state.policy.spec.pools, list(around.nodes()))
    return around.conflicts[wishes]


def _wishes(pod: Pod) -> Wishes:
    selector = pod.spec.node_selector
    return tuple(sorted(selector.items())) if selector else (), bytes(pod.spec.affinity)


def _needs(pod: Pod) -> bytes:
    """All of a pod by which nodes have room for it or not, beside its wishes."""
    spec = pod.spec
    return encode((spec.containers, spec.init_containers, spec.resources, spec.overhead)) + bytes(
        spec.tolerations
    )


def too_many(state: PolicyState, index: int) -> Refusal | None:
    """Whether all revisions together have what a rollout may have of a pool."""
    surge, limit = state.policy.spec.rollout.max_surge, state.order.limit(index)
    if surge is None or limit is None or state.totals[index] < limit + surge:
        return None
    return Refusal(
        "Full", f"has {state.totals[index]} pods of all revisions, {limit} and a surge of {surge} allowed"
    )


def _by_ordinal(state: PolicyState, rank: int, refused: Refusals) -> Assignment:
    """A StatefulSet's pod has the pool of its number, or the next that takes it."""
    place = state.order.place(rank)
    if place is None:
        return Assignment(
            None, passed=tuple((index, refused.get(index, FULL)) for index in range(state.size))
        )
    for index in range(place[0], state.size):
        if index not in refused:
            passed = tuple(each for each in refused.items() if each[0] < index)
            return Assignment(index, rank, passed)
    return Assignment(None, passed=tuple(refused.items()))
