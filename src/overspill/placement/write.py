"""The one writer of pods in placement.

In: keys of pods. Out: one PATCH for each whose marks are not as they should be, one DELETE for each that is
doomed. Invariant: what is written follows from the newest pod, policy and seat at the moment of writing; a
pod is not written twice in one version, and not at all when another process may lead by now.
"""

from collections.abc import Callable
from typing import Protocol

import structlog

from overspill import metrics
from overspill.errors import Conflict, NotFound, Rejected, Retry
from overspill.kube.cache import Cache, Key
from overspill.kube.client import JSON_PATCH, METADATA_ONLY, Client
from overspill.kube.events import Events, ObjectRef
from overspill.kube.eviction import evict
from overspill.kube.queue import Queue
from overspill.kube.resources import PODS
from overspill.placement import patch
from overspill.placement.decide import Surroundings, cost_of
from overspill.placement.managed import Managed
from overspill.placement.pods import Pod
from overspill.placement.pools import Refusal

__all__ = ["PodWriter", "reference"]

log = structlog.get_logger(__name__)

# A pod whose policy is being made is looked at again after this many seconds.
POLICY_EVERY = 1.0
# In flight at once: bounds what a stopped and continued process can still do, and the overshoot of two that lead.
WRITERS = 50


class Books(Protocol):
    """Where the writer looks things up."""

    def managed_of(self, uid: str) -> Managed | None:
        """The policy of a pod."""

    async def is_late(self, pod: Pod) -> bool:
        """Whether a policy gates a pod, or is to be made for it, that is not known here yet."""

    def around(self, managed: Managed) -> Surroundings:
        """What surrounds a policy."""

    def awaits_policy(self, pod: Pod) -> bool:
        """Whether a pod that no policy gates is about to have one that does."""

    def refused(self, key: Key, pool: int, refusal: Refusal) -> None:
        """The apiserver does not let a pod go to a pool."""


class PodWriter:
    """Writes pods, up to `WRITERS` at a time."""

    def __init__(
        self, client: Client, pods: Cache[Pod], books: Books, events: Events, *, sure: Callable[[], bool]
    ) -> None:
        """`sure` tells whether no other process can lead."""
        self._client = client
        self._pods = pods
        self._books = books
        self._events = events
        self._sure = sure
        self._sent: dict[str, str] = {}  # uid -> the version that was patched
        self._missed: set[str] = set()  # uids that are to be looked at in their next version
        self.queue: Queue[Key] = Queue(self._write, name="placement-pods", workers=WRITERS)

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        self._sent.pop(uid, None)
        self._missed.discard(uid)

    def heard(self, key: Key) -> None:
        """There is a new version of a pod: what could not be written to the last one is tried again."""
        if key.uid in self._missed:
            self._missed.discard(key.uid)
            self.queue.add(key)

    async def _write(self, key: Key) -> float | None:
        pod = self._pods.get(key)
        if pod is None:
            return None
        if self._sent.get(key.uid) == pod.metadata.resource_version:
            self._missed.add(key.uid)  # this version is history: its successor will come by the watch
            return None
        if not self._sure():
            raise Retry("another process may lead by now")
        managed = self._books.managed_of(key.uid)
        if managed is not None and managed.policy.gates:
            await self._write_seat(key, pod, managed)
        elif pod.gated and not pod.deleting:
            if self._books.awaits_policy(pod) or await self._books.is_late(pod):
                return POLICY_EVERY
            await self._send(key, pod, patch.release(pod))
        return None

    async def _write_seat(self, key: Key, pod: Pod, managed: Managed) -> None:
        seat = managed.state.seats.get(key.uid)
        if pod.deleting:
            return
        if seat is None:
            if key.uid in managed.released and pod.gated:
                await self._send(key, pod, patch.release(pod))
            return
        pools = managed.policy.spec.pools
        pool = pools[seat.pool] if seat.pool >= 0 else None
        cost = cost_of(managed.state, seat, self._books.around(managed))
        labels, annotations = patch.marks(managed.policy.metadata.name, pool, rank=seat.rank, cost=cost)
        if not pod.gated or pool is None:
            changes = patch.mark(pod, labels, annotations)
            if changes:
                await self._send(key, pod, changes)
            return
        seat.sent = True
        kept = patch.kept_labels(pod, pool)
        if kept:
            text = f"pool {pool.name} does not change labels that the pod has: {', '.join(kept)}"
            self._events.warning(reference(pod), "LabelsKept", text)
        try:
            if await self._send(key, pod, patch.place(pod, pool, labels, annotations)):
                metrics.PODS_PLACED.labels(str(seat.pool)).inc()
        except Rejected as error:
            self._events.warning(
                reference(pod),
                "PoolRefused",
                f"the apiserver does not let it go to pool {pool.name}: {error}",
            )
            self._books.refused(key, seat.pool, Refusal("Refused", f"was refused: {error}"))

    async def _send(self, key: Key, pod: Pod, changes: list[patch.Operation]) -> bool:
        version = pod.metadata.resource_version
        try:
            await self._client.patch(
                PODS,
                key.name,
                changes,
                namespace=key.namespace,
                content_type=JSON_PATCH,
                accept=METADATA_ONLY,
                retry=False,
            )
        except (Conflict, NotFound):  # the watch brings what it is now, or has brought it meanwhile
            metrics.PLACEMENT_CONFLICTS.inc()
            self._sent[key.uid] = version
            self.queue.add(key)
            return False
        self._sent[key.uid] = version
        return True

    async def delete(self, pod: Pod, why: str) -> bool:
        """Delete a pod as it was seen; False when it has changed since, such as by being bound."""
        if not self._sure():
            raise Retry("another process may lead by now")
        meta = pod.metadata
        try:
            await self._client.delete(
                PODS,
                meta.name,
                namespace=meta.namespace,
                uid=meta.uid,
                resource_version=meta.resource_version,
            )
        except (Conflict, NotFound):
            return False
        self._events.warning(reference(pod), "PoolUnschedulable", why)
        return True

    async def evict(self, pod: Pod) -> None:
        """Ask for a pod to make way, as its PodDisruptionBudgets allow."""
        if not self._sure():
            raise Retry("another process may lead by now")
        refused = await evict(self._client, pod.metadata)
        if refused:
            why = f"an earlier pool has room for it, but it is not to go now: {refused.partition(': ')[2]}"
            self._events.normal(reference(pod), "RebalanceWaits", why)
        else:
            self._events.normal(reference(pod), "Rebalanced", "it makes way for one in an earlier pool")


def reference(pod: Pod) -> ObjectRef:
    """A pod, as what an Event is about."""
    meta = pod.metadata
    return ObjectRef(kind="Pod", name=meta.name, uid=meta.uid, namespace=meta.namespace)
