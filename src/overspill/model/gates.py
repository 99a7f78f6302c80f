"""A pod's readiness gates, and how the conditions stand that they name.

In: a `Pod` as the cache keeps it. Out: `Gate`s for its status. Pure. Invariant:
a pod without gates costs one comparison; its conditions are not even kept.
Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate
"""

import msgspec
from msgspec import Struct

from overspill.model.pods import Pod
from overspill.model.podstatus import Gate, seconds

__all__ = ["readiness_gates"]


class _Named(Struct, frozen=True, rename="camel"):
    condition_type: str


class _Spec(Struct, frozen=True, rename="camel"):
    readiness_gates: tuple[_Named, ...] = ()


class _Condition(Struct, frozen=True, rename="camel"):
    type: str
    status: str = "Unknown"
    last_transition_time: str | None = None


_specs = msgspec.json.Decoder(_Spec)
_conditions = msgspec.json.Decoder(list[_Condition])


def readiness_gates(pod: Pod) -> tuple[Gate, ...]:
    """The gates in the order of the spec."""
    raw = bytes(pod.status.conditions)
    if not raw:
        return ()
    found = {condition.type: condition for condition in _conditions.decode(raw)}
    return tuple(
        _gate(named.condition_type, found.get(named.condition_type))
        for named in _specs.decode(pod.spec).readiness_gates
    )


def _gate(kind: str, condition: _Condition | None) -> Gate:
    if condition is None:
        return Gate(kind)
    changed = condition.last_transition_time
    return Gate(kind, condition.status, seconds(changed) if changed else 0.0)
