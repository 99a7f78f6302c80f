"""What a policy's status says.

In: the policy's state and what surrounds it. Out: counts and text, as the CRD has them. Pure. Invariant: counts
are those of the pods as they are, so that a fresh list of pods gives the same.
"""

from typing import Any

from overspill.placement.conditions import Facts, PoolCount, conditions
from overspill.placement.pods import Pod
from overspill.placement.policy import Condition
from overspill.placement.ranks import UNKNOWN
from overspill.placement.state import PolicyState

__all__ = ["count_pools", "status_of"]

SHOWN_REVISIONS = 64


def count_pools(state: PolicyState) -> list[PoolCount]:
    """Counts by pool."""
    counts = [PoolCount() for _ in range(state.size)]
    for uid, seat in state.seats.items():
        pod = state.pods.get(uid)
        if pod is not None and seat.pool != UNKNOWN and not pod.deleting:
            _count(counts[seat.pool], pod)
    for pod in state.ending.values():
        pool = state.pool_on(pod)
        if pool is not None and pool != UNKNOWN:
            counts[pool].terminating += 1
    return counts


def _count(count: PoolCount, pod: Pod) -> None:
    count.assigned += 1
    count.scheduled += pod.bound
    count.ready += pod.ready
    count.unschedulable += pod.stranded() is not None


def status_of(
    state: PolicyState,
    facts: Facts,
    *,
    before: tuple[Condition, ...],
    cooldowns: dict[str, str],
    now: str,
) -> dict[str, Any]:
    """The whole status.

    Args:
        state: the policy's pods.
        facts: what the conditions are about.
        before: the conditions that stand now, for the times of their last transitions.
        cooldowns: until when pools are left alone, as timestamps by name.
        now: the time, as a timestamp.
    """
    policy, counts = state.policy, count_pools(state)
    targets = state.order.targets(facts.desired)
    facts.counts, facts.targets = counts, targets
    target = policy.spec.target_ref
    return {
        "observedGeneration": policy.metadata.generation,
        "target": f"{target.kind}/{target.name}" if target else "pods by label",
        "base": _of(counts[0].assigned, targets[0]),
        "elastic": str(sum(count.assigned for count in counts[1:])),
        "desiredReplicas": facts.desired,
        "replicas": len(state.pods),
        "gatedReplicas": len(state.waiting) + sum(_still_gated(state, uid) for uid in state.seats),
        "pools": [
            _pool(pool.name, count, target, cooldowns.get(pool.name))
            for pool, count, target in zip(policy.spec.pools, counts, targets, strict=True)
        ],
        "revisions": _revisions(state)[:SHOWN_REVISIONS],
        "conditions": conditions(facts, before=before, now=now),
    }


def _still_gated(state: PolicyState, uid: str) -> bool:
    pod = state.pods.get(uid)
    return pod is not None and pod.gated


def _of(have: int, target: int) -> str:
    return f"{have}/{target}"


def _pool(name: str, count: PoolCount, target: int, cooldown: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "desiredReplicas": target,
        "assignedReplicas": count.assigned,
        "scheduledReplicas": count.scheduled,
        "readyReplicas": count.ready,
        "terminatingReplicas": count.terminating,
        "unschedulableReplicas": count.unschedulable,
    }
    return entry | {"cooldownUntil": cooldown} if cooldown else entry


def _revisions(state: PolicyState) -> list[dict[str, Any]]:
    found: dict[str, dict[str, int]] = {}
    for seat in state.seats.values():
        if seat.revision and seat.pool != UNKNOWN:
            pools = found.setdefault(seat.revision, {})
            name = state.pool_name(seat.pool)
            pools[name] = pools.get(name, 0) + 1
    return [
        {"name": name, "replicas": sum(pools.values()), "pools": pools}
        for name, pools in sorted(found.items())
    ]
