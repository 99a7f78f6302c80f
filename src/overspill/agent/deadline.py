"""activeDeadlineSeconds: what of it a backend is given, and what it does not see to.

That is one which is lowered while a pod runs, or passes before it does, or long before the backend thinks so: that counts
from when the pod began there. In: a pod, since when it counts as active. Out: the seconds that are left. Pure. Invariant:
a backend that was told the deadline, and began soon, ends the pod first, and keeps its logs.
Source: k8s.io/kubernetes pkg/kubelet/active_deadline.go.
"""

import math

import msgspec
from msgspec import Struct, structs

from overspill.agent.plan import Fail
from overspill.model.pods import Pod
from overspill.model.podstatus import seconds
from overspill.model.work import WorkSpec

__all__ = ["EXCEEDED", "seconds_left", "shortened", "spent"]

EXCEEDED = Fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
FIELD = b"activeDeadlineSeconds"  # looked for before a spec is decoded
# Seconds that a backend has to end the pod by itself: it counts from when the pod's containers began, which takes some.
PATIENCE = 60.0
# The same where it was told another deadline, so that nothing is to be waited for.
LATE = 5.0


class _Spec(Struct, rename="camel"):
    active_deadline_seconds: int | None = None


def seconds_left(pod: Pod, *, since: float, now: float, told: float) -> float | None:
    """Seconds until the agent ends the pod, not above 0 if that is due; None for never.

    `told` is the deadline that the backend was given: infinity for none, or if it has no such pod; 0 if that is not
    known any more.
    """
    leaving = pod.ended or pod.metadata.deletion_timestamp is not None
    if leaving or FIELD not in bytes(pod.spec):
        return None
    # The rest is not decoded: it may be refused because that cannot be done.
    deadline = msgspec.json.decode(pod.spec, type=_Spec).active_deadline_seconds
    if deadline is None:
        return None
    return since + deadline + (LATE if deadline < told else PATIENCE) - now


def spent(pod: Pod, *, now: float) -> float:
    """Seconds of a pod's deadline that are over before a backend has it: it has waited, or been there before."""
    start = pod.status.start_time
    return max(now - seconds(start), 0.0) if start and FIELD in bytes(pod.spec) else 0.0


def shortened(work: WorkSpec, spent: float) -> WorkSpec:
    """The same work with what is left of its deadline: a backend counts from when it takes the pod on."""
    deadline = work.active_deadline_seconds
    if deadline is None or not spent:
        return work
    return structs.replace(work, active_deadline_seconds=max(math.ceil(deadline - spent), 1))
