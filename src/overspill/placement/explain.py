"""Why a pod is where it is, or why it waits, in sentences.

In: a policy, what was decided. Out: text for people. Pure. Invariant: it is told from the same Assignment that
decided, so that it cannot say anything else than what was done.
"""

from collections.abc import Iterator, Mapping

from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.pools import Assignment, Refusal
from overspill.placement.ranks import SURPLUS, UNKNOWN, Seat
from overspill.placement.state import PolicyState

__all__ = ["explain", "why_waiting"]


def why_waiting(policy: Policy, assignment: Assignment) -> str:
    """Why no pool takes a pod."""
    return "; ".join(_sentence(policy, index, refusal) for index, refusal in assignment.passed)


def explain(
    state: PolicyState, pod: Pod, assignment: Assignment | None, *, refused: Mapping[int, Refusal], old: bool
) -> Iterator[str]:
    """Sentences about one pod.

    Args:
        state: the pods of its policy.
        pod: the pod.
        assignment: where it would go now, or why nowhere; None for one that is placed.
        refused: the pools that take nobody now, and why.
        old: whether its revision is being replaced.
    """
    name, policy = pod.metadata.name, state.policy
    limits = ", ".join(_limit(state, index) for index in range(state.size))
    yield f"Pod {name} is placed by policy {policy.metadata.name}: {limits}."
    seat = state.seats.get(pod.metadata.uid)
    if seat is None:
        yield from _unseated(policy, pod, assignment)
        return
    if seat.pool == UNKNOWN:
        yield "It was placed in a pool that the policy no longer has. It goes first at scale-in."
        return
    pool, revision = state.pool_name(seat.pool), seat.revision or "its workload"
    counts = state.group(seat.group).counts
    if seat.rank > SURPLUS:
        yield f"It is in pool {pool}, beyond the pool's limit: it holds {_pods(counts[seat.pool])} of {revision}."
        yield f"At scale-in of {revision} it is among the first to go."
        return
    where = f", on node {pod.spec.node_name}" if pod.bound else ""
    count = _pods(counts[seat.pool])
    yield f"It is in pool {pool} ({count} of {revision}){where}, with keep rank {seat.rank}:"
    yield f"{revision} keeps it as long as it has {_pods(seat.rank)} or more, if all are ready alike."
    if old and state.policy.spec.rollout.old_revision_scale_in == "FirstPoolFirst":
        yield f"But {revision} makes room for a newer revision, and its pods in {state.pool_name(0)} go first."
    yield from _earlier(state, seat, refused)
    yield from _held_up(pod)


def _earlier(state: PolicyState, seat: Seat, refused: Mapping[int, Refusal]) -> Iterator[str]:
    """Why it is in no pool that comes before its own."""
    counts, moves = state.group(seat.group).counts, state.policy.spec.rebalance.mode == "Evict"
    vacant = state.vacant(seat.group)
    for pool in range(seat.pool):
        rank, name, count = vacant(pool), state.pool_name(pool), _pods(counts[pool])
        if pool in refused:
            yield _sentence(state.policy, pool, refused[pool], before="Pool") + "."
        elif rank is None or rank > seat.rank:
            yield f"Pool {name} comes before it, and has {count}, as many as it is to have."
        else:
            then = "it is moved there, when rebalance comes to it" if moves else "new pods go there; it stays"
            yield f"Pool {name} comes before it, and has room: {then}."


def _held_up(pod: Pod) -> Iterator[str]:
    """Why a pod that has its pool does not run."""
    others = ", ".join(gate.name for gate in pod.spec.scheduling_gates)
    if others:
        yield f"It is still held by other scheduling gates: {others}; ask whoever put them there."
    condition = pod.stranded()
    if condition is not None:
        yield f"Its pool cannot run it for now: {condition.message or condition.reason}."


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def _unseated(policy: Policy, pod: Pod, assignment: Assignment | None) -> Iterator[str]:
    if not pod.gated:
        yield "It was not placed: it was there before the policy, or its gate was taken off by hand."
        return
    if assignment is None or assignment.pool is not None:
        yield "It waits for the controller to place it; `overspill placement status` tells whether one works."
        return
    yield "It waits, because no pool takes it:"
    for index, refusal in assignment.passed:
        yield f"  {_sentence(policy, index, refusal)}."


def _sentence(policy: Policy, index: int, refusal: Refusal, *, before: str = "pool") -> str:
    return f"{before} {policy.spec.pools[index].name} {refusal.message}"


def _limit(state: PolicyState, index: int) -> str:
    pool = state.policy.spec.pools[index]
    most = "any number" if pool.max_replicas is None else f"up to {pool.max_replicas}"
    return f"{most} in {pool.name}"
