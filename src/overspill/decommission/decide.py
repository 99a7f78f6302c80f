"""What is left to do for a node without an agent, decided from one look at both sides.

In: the node's container groups, then its pods, each list whole. Out: groups to remove, pods to remove. Pure.
Invariants: a group is removed only if its pod is gone, ended or on its way out; a pod only if it has no group.
The groups must have been listed first: a group that is there has a pod that was there before it.
"""

from collections.abc import Collection, Sequence

from msgspec import Struct

from overspill.backends.base import ContainerGroup
from overspill.model.pods import Pod

__all__ = ["LATE", "SILENCE", "Heart", "Rest", "rest"]

# Longer than a Lease lasts: what a clock of ours saw unchanged for so long has nobody who renews it.
SILENCE = 45.0
# What an agent made just before it let go of its Lease is listed within this: ECI's index may be 30 s late.
LATE = 35.0


class Rest(Struct, frozen=True):
    """What to remove now."""

    groups: tuple[ContainerGroup, ...] = ()
    pods: tuple[Pod, ...] = ()


def rest(groups: Collection[ContainerGroup], pods: Sequence[Pod]) -> Rest:
    """What nobody is left to remove but us."""
    wanted = {pod.metadata.uid for pod in pods if not pod.ended and pod.metadata.deletion_timestamp is None}
    with_group = {group.identity.uid for group in groups}
    return Rest(
        tuple(group for group in groups if group.identity.uid not in wanted and not group.terminating),
        tuple(pod for pod in pods if pod.metadata.uid not in with_group and _only_we_can_end(pod)),
    )


def _only_we_can_end(pod: Pod) -> bool:
    """With a grace of 0 it waits for the owners of its finalizers alone."""
    meta = pod.metadata
    return meta.deletion_timestamp is not None and meta.deletion_grace_period_seconds != 0


class Heart:
    """Whether a node's agent lives, judged by its Lease and one clock, which is ours."""

    def __init__(self) -> None:
        self._beat: str | None = None
        self._since = 0.0

    def beats(self, holder: str, renewed: str, *, now: float) -> bool:
        """Take in what the Lease says; an agent that let go of it is gone, once what it made last can be seen."""
        beat = renewed if holder else ""
        if beat != self._beat:
            self._beat, self._since = beat, now
        return now - self._since < (SILENCE if holder else LATE)
