"""What this node uses, sampled when somebody asks.

In: `Backend.usage`. Out: `NodeUsage`, and from it the texts of /metrics/resource and /stats/summary.
Invariants: nobody asks, nothing is sampled, so that idle pods cost nothing; whoever asks within
`FRESH_SECONDS` of a sample, or while one is taken, gets that one with its time.
"""

import asyncio
import time
from collections.abc import Callable

import structlog
from msgspec import structs

from overspill.backends.base import Backend
from overspill.errors import Misconfigured, Retry
from overspill.metrics import BackendCall
from overspill.serve.nodeusage import NodeUsage, next_usage
from overspill.serve.resourcemetrics import resource_metrics
from overspill.serve.summary import summary

__all__ = ["Usage"]

log = structlog.get_logger(__name__)

# Below the shortest resolution of metrics-server (10 s), which wants a newer sample each time.
FRESH_SECONDS = 8.0


class Usage:
    """The newest sample of one node."""

    def __init__(
        self, backend: Backend, *, node_name: str, memory_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        """`memory_bytes` is the node's capacity."""
        self._backend = backend
        self._node_name = node_name
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._node = NodeUsage(started_at=clock(), sampled_at=clock())
        self._asked_at = 0.0
        self._lock = asyncio.Lock()

    async def resource_metrics(self) -> bytes:
        """The text of /metrics/resource."""
        return resource_metrics(await self.latest())

    async def summary(self) -> bytes:
        """The JSON of /stats/summary."""
        return summary(await self.latest(), node_name=self._node_name, memory_bytes=self._memory_bytes)

    async def latest(self) -> NodeUsage:
        """A sample that is fresh; an older one, `failed`, when the backend cannot tell."""
        async with self._lock:
            if self._clock() - self._asked_at >= FRESH_SECONDS:
                self._node = await self._sample()
                self._asked_at = self._clock()
            return self._node

    async def _sample(self) -> NodeUsage:
        try:
            with BackendCall(self._backend.name, "usage"):
                samples = await self._backend.usage()
        except (Retry, Misconfigured) as error:
            log.warning("no figures of pods from the backend", backend=self._backend.name, error=str(error))
            return structs.replace(self._node, failed=True)
        return next_usage(self._node, samples, now=self._clock())
