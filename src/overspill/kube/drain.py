"""Emptying one node for good, step by step: cordon, evictions, a condition that tells how far it is.

In: the Node as it was seen, pods to evict, a reason. Out: writes to the apiserver, Events about the node. Invariants:
each step may be repeated; who cordoned stands on the Node, so that whoever undoes it knows.
Used by the node's agent, and by the controller when there is no agent any more.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import structlog
from msgspec import structs

from overspill.kube.client import MERGE, Client
from overspill.kube.events import Events, ObjectRef
from overspill.kube.eviction import evict
from overspill.kube.resources import NODES
from overspill.model.node import NodeObject
from overspill.model.pods import Pod
from overspill.model.scalein import (
    Leave,
    Progress,
    Todo,
    condition_patch,
    cordon_patch,
)
from overspill.names import DECOMMISSIONING

__all__ = ["Drain", "reference"]

log = structlog.get_logger(__name__)

# What `kubectl drain` waits after a refused eviction.
EVICT_AGAIN_AFTER = 5.0
EVICTIONS_AT_ONCE = 8
# A scheduler binds what it had in hand when the node was cordoned; its own watch is late by less than this.
SETTLED_AFTER = 3.0
NAMED = 5


class Drain:
    """One node's way out; any call may raise what the client raises."""

    def __init__(
        self,
        client: Client,
        events: Events,
        node: NodeObject,
        why: Leave,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._events = events
        self._name = node.metadata.name
        self._reference = reference(node)
        self._since = clock()
        self._clock = clock
        self._told: Leave | None = None
        self._cordoned_at = math.inf
        self._asked_at: dict[str, float] = {}  # uid -> when it was last to be evicted
        self._refused: dict[str, str] = {}  # uid -> why it was not
        self.why = why
        log.info("node is decommissioned", node=self._name, reason=why.reason, why=why.message)
        events.normal(self._reference, DECOMMISSIONING, why.message)

    @property
    def settled(self) -> bool:
        """Whether the node was seen cordoned for so long that nobody binds a pod to it any more."""
        return time.monotonic() - self._cordoned_at >= SETTLED_AFTER

    async def step(self, node: NodeObject, todo: Todo) -> None:
        """Cordon the node, unless that is done, and evict what is to be evicted and due.

        Raises:
            Conflict: the node changed meanwhile, and nobody was evicted.
            NotFound: it is gone.
        """
        patch = cordon_patch(node)
        if patch is None:
            self._cordoned_at = min(self._cordoned_at, time.monotonic())
        else:
            self._cordoned_at = math.inf
            await self._client.patch(NODES, self._name, patch, content_type=MERGE)
        await self._evict(todo.evict)

    async def tell(self, todo: Todo, *, groups: int | None, note: str = "") -> None:
        """Have the Node's condition say how far it is."""
        held = [pod for pod in todo.evict if self._refused.get(pod.metadata.uid)]
        if held:
            why = self._refused[held[0].metadata.uid].partition(": ")[2]
            self._events.warning(self._reference, "EvictionRefused", f"{why} Tried again: {_some(held)}")
        if todo.bare:
            text = f"nobody would make these pods again: {_some(todo.bare)}; delete them, or set barePods to evict"
            self._events.warning(self._reference, "BarePods", text)
        progress = Progress(todo.pods, len(held), len(todo.bare), groups)
        told = structs.replace(self.why, message=f"{self.why.message}: {progress}{note}")
        if told != self._told:
            patch = condition_patch(told, since=self._since, now=self._clock())
            await self._client.patch(NODES, self._name, patch, subresource="status")
            self._told = told

    def done(self) -> None:
        """Tell that nothing is left."""
        log.info("node is empty", node=self._name)
        self._events.normal(self._reference, "Decommissioned", "no pod and no container group is left")

    async def _evict(self, pods: Sequence[Pod]) -> None:
        now = time.monotonic()
        self._refused = {pod.metadata.uid: self._refused.get(pod.metadata.uid, "") for pod in pods}
        due = [
            pod for pod in pods if now - self._asked_at.get(pod.metadata.uid, -math.inf) >= EVICT_AGAIN_AFTER
        ]
        for start in range(0, len(due), EVICTIONS_AT_ONCE):
            some = due[start : start + EVICTIONS_AT_ONCE]
            await asyncio.gather(*(self._evict_one(pod) for pod in some))

    async def _evict_one(self, pod: Pod) -> None:
        meta = pod.metadata
        self._asked_at[meta.uid] = time.monotonic()
        self._refused[meta.uid] = await evict(self._client, meta)


def _some(pods: Sequence[Pod]) -> str:
    """A few names, the same ones each time: what is told again is one Event."""
    names = sorted(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in pods)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def reference(node: NodeObject) -> ObjectRef:
    """A node, as what an Event is about."""
    return ObjectRef(kind="Node", name=node.metadata.name, uid=node.metadata.uid)
