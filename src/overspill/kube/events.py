"""Events about pods and the node.

In: what happened. Out: Event objects, written in the background. Invariant: telling never blocks or
fails the teller; the same thing told again becomes a longer series of one Event, not another Event.
Source: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/.
"""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import Struct

from overspill import names
from overspill.errors import OverspillError
from overspill.kube.client import MERGE, Client
from overspill.kube.resources import EVENTS

__all__ = ["Events", "ObjectRef"]

log = structlog.get_logger(__name__)

# A burst of 10,000 pods must not write 20,000 objects: normal Events pass a bucket, warnings never wait in it.
NORMAL_BURST, NORMAL_PER_SECOND = 50, 5.0
SERIES_WITHIN = 600.0
REMEMBERED = 2000
QUEUED = 5000


class ObjectRef(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an Event is about."""

    kind: str
    name: str
    uid: str
    api_version: str = "v1"
    namespace: str = ""
    field_path: str = ""


class _Happening(Struct, frozen=True):
    regarding: ObjectRef
    type: str
    reason: str
    note: str


class _Series(Struct):
    name: str
    last: float
    count: int = 1


class Events:
    """Writes Events of one component."""

    def __init__(self, client: Client, *, instance: str, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._instance = instance
        self._clock = clock
        self._queue: asyncio.Queue[_Happening] = asyncio.Queue(QUEUED)
        self._series: OrderedDict[_Happening, _Series] = OrderedDict()
        self._tokens, self._refilled = float(NORMAL_BURST), clock()
        self.dropped = 0

    def warning(self, regarding: ObjectRef, reason: str, message: str) -> None:
        """Tell of trouble."""
        self._put(_Happening(regarding, "Warning", reason, message[:1024]))

    def normal(self, regarding: ObjectRef, reason: str, message: str) -> None:
        """Tell of ordinary progress; left out when too much happens at once."""
        if self._take():
            self._put(_Happening(regarding, "Normal", reason, message[:1024]))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            happening = await self._queue.get()
            try:
                await self._write(happening)
            except OverspillError as error:
                self.dropped += 1
                log.warning("event not written", reason=happening.reason, error=str(error))

    def _put(self, happening: _Happening) -> None:
        try:
            self._queue.put_nowait(happening)
        except asyncio.QueueFull:
            self.dropped += 1
            log.warning("event dropped, too many wait", reason=happening.reason, dropped=self.dropped)

    def _take(self) -> bool:
        now = self._clock()
        self._tokens = min(NORMAL_BURST, self._tokens + (now - self._refilled) * NORMAL_PER_SECOND)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def _write(self, happening: _Happening) -> None:
        now = self._clock()
        series = self._series.get(happening)
        namespace = happening.regarding.namespace or "default"
        if series is not None and now - series.last < SERIES_WITHIN:
            series.count, series.last = series.count + 1, now
            patch = {"series": {"count": series.count, "lastObservedTime": _micro(now)}}
            await self._client.patch(EVENTS, series.name, patch, namespace=namespace, content_type=MERGE)
            return
        name = f"{happening.regarding.name[:200]}.{uuid.uuid4().hex[:16]}"
        await self._client.create(
            EVENTS, self._body(happening, name, namespace, now), namespace=namespace, kind=dict[str, Any]
        )
        self._series[happening] = _Series(name, now)
        self._series.move_to_end(happening)
        if len(self._series) > REMEMBERED:
            self._series.popitem(last=False)

    def _body(self, happening: _Happening, name: str, namespace: str, now: float) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _micro(now),
            "type": happening.type,
            "reason": happening.reason,
            "note": happening.note,
            "action": happening.reason,
            "regarding": happening.regarding,
            "reportingController": f"{names.DOMAIN}/{names.COMPONENT}",
            "reportingInstance": self._instance,
        }


def _micro(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
