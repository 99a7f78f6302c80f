"""activeDeadlineSeconds, where the backend does not see to it: lowered while a pod runs, or passed before it did.

In: a pod, since when it counts as active. Out: the seconds that are left. Pure. Invariant: a backend that was
told the deadline ends the pod first, and keeps its logs.
Source: k8s.io/kubernetes pkg/kubelet/active_deadline.go.
"""

from overspill.agent.plan import Fail
from overspill.model.pods import Pod

__all__ = ["EXCEEDED", "seconds_left"]

EXCEEDED = Fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
FIELD = b"activeDeadlineSeconds"  # looked for before a spec is decoded
# Seconds that a backend has to end by itself what it was told the deadline of.
LATE = 5.0


def seconds_left(pod: Pod, *, since: float, now: float) -> float | None:
    """Seconds until the agent ends the pod, not above 0 if that is due; None for never."""
    leaving = pod.ended or pod.metadata.deletion_timestamp is not None
    if leaving or FIELD not in bytes(pod.spec):
        return None
    deadline = pod.decoded_spec().active_deadline_seconds
    return None if deadline is None else since + deadline + LATE - now
