"""A policy's conditions.

In: what is known of its pods and pools. Out: metav1.Conditions in sentences. Pure. Invariant: a condition's time
of transition changes with its status alone.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from overspill.placement.policy import Condition, Policy

__all__ = ["Facts", "PoolCount", "conditions"]


class PoolCount(Struct):
    """Pods of one pool."""

    assigned: int = 0
    scheduled: int = 0
    ready: int = 0
    terminating: int = 0
    unschedulable: int = 0


class Facts(Struct):
    """What conditions tell.

    Attributes:
        desired: how many pods the workload wants.
        found: whether the workload is there, as far as it can be looked up.
        waiting: how many pods wait, and the sentence why.
        trouble: pools that are left alone, and why.
        older: name of the policy that decides in this one's place, or "".
    """

    policy: Policy
    desired: int
    found: bool = True
    waiting: int = 0
    why: str = ""
    trouble: dict[str, str] = {}
    older: str = ""
    counts: list[PoolCount] = []
    targets: tuple[int, ...] = ()
    peak: int = 0


def conditions(facts: Facts, *, before: tuple[Condition, ...], now: str) -> list[dict[str, Any]]:
    """All conditions, as the API has them."""
    known = {each.type: each for each in before}
    return [msgspec.to_builtins(_dated(each, known.get(each.type), facts, now)) for each in _all(facts)]


def _dated(new: Condition, old: Condition | None, facts: Facts, now: str) -> Condition:
    same = old is not None and old.status == new.status and old.last_transition_time
    return msgspec.structs.replace(
        new,
        last_transition_time=old.last_transition_time if same and old else now,
        observed_generation=facts.policy.metadata.generation,
    )


def _all(facts: Facts) -> Iterator[Condition]:
    over = _over(facts)
    yield _ready(facts, over)
    yield _condition("TargetFound", facts.found, "Found", "NotFound", "", "there is no such workload")
    yield _condition(
        "Waiting", facts.waiting > 0, "PodsWait", "NoneWaits", f"{facts.waiting} pods wait: {facts.why}", ""
    )
    text = "; ".join(f"pool {name} {why}" for name, why in facts.trouble.items())
    yield _condition("PoolUnschedulable", bool(facts.trouble), "CannotRunPods", "AllRunPods", text, "")
    yield _condition("OverAssigned", bool(over), "AboveLimit", "WithinLimits", over, "")
    text = f"policy {facts.older} is older and decides for pods that both match"
    yield _condition("Conflict", bool(facts.older), "OlderPolicy", "NoOther", text, "")


def _ready(facts: Facts, over: str) -> Condition:
    for bad, reason, text in (
        (facts.policy.spec.suspend, "Suspended", "pods go where the scheduler likes"),
        (bool(facts.older), "Conflict", f"policy {facts.older} decides"),
        (not facts.found, "TargetNotFound", "there is no such workload"),
        (facts.waiting > 0, "PodsWait", f"{facts.waiting} pods wait: {facts.why}"),
        (bool(over), "OverAssigned", over),
        (bool(facts.trouble), "PoolUnschedulable", ", ".join(facts.trouble)),
    ):
        if bad:
            return Condition("Ready", "False", reason, text)
    short = _short(facts)
    if short:
        return Condition("Ready", "True", "Uneven", short)
    return Condition("Ready", "True", "Placed", "every pod is in the pool that it is to be in")


def _short(facts: Facts) -> str:
    """Pools that have less than they should, which the next new pods mend, or a rebalance."""
    names = [pool.name for pool in facts.policy.spec.pools]
    short = [
        f"{name} has {count.assigned} of {target}"
        for name, count, target in zip(names, facts.counts, facts.targets, strict=False)
        if count.assigned < target
    ]
    return "; ".join(short)


def _over(facts: Facts) -> str:
    names = [pool.name for pool in facts.policy.spec.pools]
    return "; ".join(
        f"pool {names[index]} has {count.assigned} pods, {count.assigned - limit} above its limit"
        for index, count in enumerate(facts.counts)
        if (limit := _limit(facts, index)) is not None and count.assigned > limit
    )


def _limit(facts: Facts, index: int) -> int | None:
    """What a pool may have of all revisions that live now."""
    pool, spec = facts.policy.spec.pools[index], facts.policy.spec
    if pool.max_replicas is None:
        return None
    if spec.counting.scope == "Total" or facts.peak < 2:
        room = pool.room(max(facts.desired, sum(each.assigned for each in facts.counts)))
        return max(room or 0, pool.min_replicas)
    if spec.rollout.max_surge is not None:
        return (pool.room(0) or 0) + spec.rollout.max_surge
    return None if isinstance(pool.max_replicas, str) else facts.peak * pool.max_replicas


def _condition(name: str, on: bool, reason: str, otherwise: str, text: str, other: str) -> Condition:  # noqa: FBT001 - a table's row
    return Condition(name, "True" if on else "False", reason if on else otherwise, text if on else other)
