"""A list that keeps itself up to date.

In: the apiserver's list and watch. Out: batches of changes. Invariant: between two batches with
`replace` nothing is missed: whenever the stream ends, it goes on from the last resourceVersion it
saw, and only an `Expired` one (410) is a reason to list again.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Generic, Literal, TypeVar

import aiohttp
import msgspec
import structlog
from msgspec import Raw, Struct

from overspill import metrics
from overspill.errors import Expired, Misconfigured, OverspillError, Rejected, Retry, Throttled
from overspill.kube.client import Client, selectors
from overspill.kube.replies import Status, status_error
from overspill.kube.resources import Resource

__all__ = ["Batch", "Change", "Watch"]

log = structlog.get_logger(__name__)

# The apiserver sends a bookmark about once a minute, so silence of twice that is a dead connection.
IDLE_LIMIT = 130.0
SERVER_TIMEOUT = (300, 600)
READ_SIZE = 1 << 20


T = TypeVar("T")


class Change(Struct, Generic[T], gc=False):
    """One change of one object."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: T


class Batch(Struct, Generic[T]):
    """Changes that arrived together.

    Attributes:
        replace: the changes are the whole state; what is not among them does not exist.
    """

    replace: bool
    changes: list[Change[T]]


class _Frame(Struct, gc=False):
    type: str
    object: Raw


class _MarkMeta(Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Mark(Struct):
    metadata: _MarkMeta


CHANGES = frozenset(("ADDED", "MODIFIED", "DELETED"))
INITIAL_END = "k8s.io/initial-events-end"
frames = msgspec.json.Decoder(_Frame)
marks = msgspec.json.Decoder(_Mark)


class Watch(Generic[T]):
    """One resource, optionally narrowed by selectors."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        kind: type[T],
        keep: Callable[[T], T] | None = None,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        tick: float = 0.025,
    ) -> None:
        """`keep` makes a decoded object fit to be kept; `tick` seconds pass between two reads."""
        self._client = client
        self._resource = resource
        self._decode = msgspec.json.Decoder(kind).decode
        self._kind = kind
        self._keep = keep or (lambda item: item)
        self._path = resource.path(namespace=namespace)
        self._namespace = namespace
        self._fields, self._labels = field_selector, label_selector
        self._tick = tick
        self._version = ""
        self._streams_lists = True
        self._heard = time.monotonic()
        metrics.WATCH_AGE.labels(resource.plural).set_function(lambda: self.age)

    @property
    def age(self) -> float:
        """Seconds since the apiserver was last heard."""
        return time.monotonic() - self._heard

    async def batches(self) -> AsyncIterator[Batch[T]]:
        """Batches for ever; trouble on the way is waited out here.

        Raises:
            Misconfigured: this account may not list or watch the resource.
        """
        failures = 0
        while True:
            try:
                async for batch in self._once():
                    failures = 0
                    yield batch
                failures = 0  # the stream ended in order, as it does under load: go on at once
            except Expired:
                log.info("watch expired; listing again", resource=self._resource.plural)
                self._version = ""
                metrics.WATCH_RELISTS.labels(self._resource.plural).inc()
            except Misconfigured:
                raise
            except OverspillError as error:
                failures += 1
                log.warning(
                    "watch interrupted", resource=self._resource.plural, error=str(error), failures=failures
                )
                await asyncio.sleep(_pause(error, failures))

    async def _once(self) -> AsyncIterator[Batch[T]]:
        """One stream, from the state that is known."""
        if not self._version:
            if not self._streams_lists:
                yield await self._list()
        try:
            async for batch in self._stream():
                yield batch
        except Rejected:
            if self._version or not self._streams_lists:
                raise
            self._streams_lists = False  # a server without WatchList
            log.info("server does not stream lists; listing in pages", resource=self._resource.plural)

    async def _list(self) -> Batch[T]:
        items, version = await self._client.list_at(
            self._resource,
            namespace=self._namespace,
            field_selector=self._fields,
            label_selector=self._labels,
            kind=self._kind,
        )
        self._version = version
        self._heard = time.monotonic()
        return Batch(replace=True, changes=[Change("ADDED", self._keep(item)) for item in items])

    async def _stream(self) -> AsyncIterator[Batch[T]]:
        initial: list[Change[T]] | None = None if self._version else []
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*SERVER_TIMEOUT)),  # noqa: S311 - so that watches do not end together
            **selectors(self._fields, self._labels),
        }
        if self._version:
            query["resourceVersion"] = self._version
        else:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        try:
            async with self._client.stream(self._path, query=query) as reader:
                self._heard = time.monotonic()
                async for lines in self._lines(reader):
                    changes, listed = self._parse(lines)
                    if initial is None:
                        if changes:
                            yield Batch(replace=False, changes=changes)
                        continue
                    initial += changes
                    if listed:
                        yield Batch(replace=True, changes=initial)
                        initial = None
        finally:
            if initial is not None:
                self._version = ""  # half a list is no state to go on from

    async def _lines(self, reader: aiohttp.StreamReader) -> AsyncIterator[list[bytes]]:
        """Whole lines, as many as have arrived since the last tick."""
        rest = b""
        while True:
            try:
                async with asyncio.timeout(IDLE_LIMIT):
                    chunk = await reader.readany()
            except TimeoutError as error:
                raise Retry(f"watch {self._path}: nothing heard for {IDLE_LIMIT:.0f} s") from error
            if not chunk:
                return
            self._heard = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                yield lines
            if self._tick:
                await asyncio.sleep(self._tick)

    def _parse(self, lines: list[bytes]) -> tuple[list[Change[T]], bool]:
        """The changes in these lines, and whether the initial list is complete."""
        changes: list[Change[T]] = []
        listed = False
        for line in lines:
            if not line.strip():
                continue
            try:
                frame = frames.decode(line)
                if frame.type in CHANGES:
                    item = self._decode(frame.object)
                    self._version = item.metadata.resource_version  # type: ignore[attr-defined]  # every kind has metadata
                    changes.append(Change(frame.type, self._keep(item)))  # type: ignore[arg-type]  # one of CHANGES
                elif frame.type == "BOOKMARK":
                    mark = marks.decode(frame.object)
                    self._version = mark.metadata.resource_version or self._version
                    listed = listed or mark.metadata.annotations.get(INITIAL_END) == "true"
                elif frame.type == "ERROR":
                    raise status_error(
                        msgspec.json.decode(frame.object, type=Status), what=f"watch {self._path}"
                    )
            except msgspec.DecodeError as error:
                log.exception(
                    "watch event cannot be read",
                    resource=self._resource.plural,
                    error=str(error),
                    begins=line[:120],
                )
        return changes, listed


def _pause(error: OverspillError, failures: int) -> float:
    if isinstance(error, Throttled) and error.retry_after:
        return error.retry_after
    return min(0.1 * 2.0 ** min(failures - 1, 8), 10.0) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
