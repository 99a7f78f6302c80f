"""Events about pods and the node.

In: what happened. Out: Event objects, written in the background. Invariant: telling never blocks or
fails the teller; the same thing told again becomes a longer series of one Event, written at most once
a minute.
Source: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ and client-go,
tools/events/event_broadcaster.go.
"""

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import Struct

from overspill import names
from overspill.errors import Conflict, NotFound, OverspillError, Retry
from overspill.kube.client import MERGE, Client
from overspill.kube.resources import EVENTS

__all__ = ["Events", "ObjectRef"]

log = structlog.get_logger(__name__)

# A burst of 10,000 pods must not write 20,000 objects: normal Events pass a bucket, warnings go beside it.
NORMAL_BURST, NORMAL_PER_SECOND = 50, 5.0
# A series grows on the apiserver at most this often, and ends when nothing was added for so long.
SERIES_EVERY, SERIES_ENDS = 60.0, 360.0
SWEEP_EVERY = 10.0
REMEMBERED = 2000
QUEUED = 1000
TRIES, TRY_AGAIN_AFTER = 5, 5.0
# Limits of the Event API.
NOTE_LENGTH, REASON_LENGTH = 1024, 128


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

    @property
    def namespace(self) -> str:
        """Where its Event lives: cluster-wide objects have theirs in `default`."""
        return self.regarding.namespace or "default"


class _Series(Struct):
    """One Event, and how often its happening was told.

    Attributes:
        written: of `count`, as many as the apiserver knows.
        queued: waits to be written.
    """

    name: str
    first: float
    last: float
    count: int = 1
    written: int = 0
    written_at: float = 0.0
    queued: bool = True


class Events:
    """Writes Events of one component."""

    def __init__(
        self,
        client: Client,
        *,
        instance: str,
        component: str = f"{names.DOMAIN}/{names.COMPONENT}",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`instance` and `component` are told as who reports; `clock` tells Unix time."""
        self._client = client
        self._instance = instance
        self._component = component
        self._clock = clock
        self._queue: asyncio.Queue[_Happening] = asyncio.Queue(QUEUED)
        self._series: OrderedDict[_Happening, _Series] = OrderedDict()
        self._tokens, self._refilled = float(NORMAL_BURST), clock()

    def warning(self, regarding: ObjectRef, reason: str, message: str) -> None:
        """Tell of trouble."""
        self._tell(_Happening(regarding, "Warning", reason[:REASON_LENGTH], _note(message)))

    def normal(self, regarding: ObjectRef, reason: str, message: str) -> None:
        """Tell of ordinary progress; left out when too much happens at once."""
        if self._take():
            self._tell(_Happening(regarding, "Normal", reason[:REASON_LENGTH], _note(message)))

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_all(), name="event writer")
            tasks.create_task(self._sweep_often(), name="event series")

    # --- telling ---

    def _tell(self, happening: _Happening) -> None:
        now = self._clock()
        series = self._series.get(happening)
        if series is not None and now - series.last < SERIES_ENDS:
            series.count, series.last = series.count + 1, now
            if now - series.written_at >= SERIES_EVERY:
                self._enqueue(happening, series)
            return
        name = f"{happening.regarding.name[:200]}.{uuid.uuid4().hex[:16]}"
        series = self._series[happening] = _Series(name, now, now, queued=False)
        self._series.move_to_end(happening)
        if len(self._series) > REMEMBERED:
            oldest, left = self._series.popitem(last=False)
            if not left.written:
                _left_out(oldest, "too many wait")
        self._enqueue(happening, series)

    def _enqueue(self, happening: _Happening, series: _Series) -> None:
        if not series.queued and not self._queue.full():  # what finds no room is found by the next sweep
            self._queue.put_nowait(happening)
            series.queued = True

    def _take(self) -> bool:
        now = self._clock()
        refill = max(now - self._refilled, 0.0) * NORMAL_PER_SECOND
        self._tokens, self._refilled = min(NORMAL_BURST, self._tokens + refill), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def flush(self) -> None:
        """Return when all that was told until now is written, or given up."""
        await self._queue.join()

    # --- writing ---

    async def _write_all(self) -> None:
        while True:
            happening = await self._queue.get()
            series = self._series.get(happening)
            if series is not None:
                await self._write_patiently(happening, series)
            self._queue.task_done()

    async def _write_patiently(self, happening: _Happening, series: _Series) -> None:
        series.written_at = self._clock()
        for _ in range(TRIES):
            try:
                await self._write(happening, series)
                break
            except Retry:
                await asyncio.sleep(TRY_AGAIN_AFTER)
            except OverspillError as error:  # as in a namespace that is being deleted
                _left_out(happening, str(error))
                self._series.pop(happening, None)
                break
        series.queued = False

    async def _write(self, happening: _Happening, series: _Series) -> None:
        count, last = series.count, series.last
        if series.written:
            try:
                await self._patch(happening, series.name, count, last)
            except NotFound:  # the apiserver keeps Events for an hour
                series.written = 0
        if not series.written:
            body = self._body(happening, series, count, last)
            with contextlib.suppress(Conflict):  # it was created, and the reply lost
                await self._client.create(EVENTS, body, namespace=happening.namespace, kind=_Created)
        series.written = count

    async def _patch(self, happening: _Happening, name: str, count: int, last: float) -> None:
        patch = {"series": _series(count, last)}
        await self._client.patch(EVENTS, name, patch, namespace=happening.namespace, content_type=MERGE)

    def _body(self, happening: _Happening, series: _Series, count: int, last: float) -> dict[str, Any]:
        body: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": happening.namespace},
            "eventTime": _micro(series.first),
            "type": happening.type,
            "reason": happening.reason,
            "note": happening.note,
            "action": happening.reason,
            "regarding": happening.regarding,
            "reportingController": self._component,
            "reportingInstance": self._instance[:128],
        }
        return body | {"series": _series(count, last)} if count > 1 else body

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self._sweep(self._clock())

    def _sweep(self, now: float) -> None:
        """Queue what has grown since it was written; forget what has ended."""
        for happening, series in list(self._series.items()):
            if series.written < series.count and now - series.written_at >= SERIES_EVERY:
                self._enqueue(happening, series)
            elif now - series.last >= SERIES_ENDS and not series.queued:
                del self._series[happening]


class _Created(Struct):
    """The apiserver's answer to a new Event, of which nothing is needed."""


def _left_out(happening: _Happening, why: str) -> None:
    log.warning(
        "event not written",
        object=f"{happening.namespace}/{happening.regarding.name}",
        reason=happening.reason,
        note=happening.note,
        error=why,
    )


def _series(count: int, last: float) -> dict[str, Any]:
    return {"count": count, "lastObservedTime": _micro(last)}


def _note(message: str) -> str:
    return message.encode()[:NOTE_LENGTH].decode(errors="ignore")


def _micro(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
