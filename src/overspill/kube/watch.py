"""A list that keeps itself up to date.

In: the apiserver's list and watch. Out: batches of changes. Invariant: between two batches with
`replace` nothing is missed: whenever the stream ends it goes on from the last resourceVersion, and
only 410 is a reason to list again.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Generic, TypeVar

import structlog

from overspill import metrics
from overspill.backoff import backoff
from overspill.errors import Expired, Misconfigured, OverspillError, Rejected, Retry, Throttled
from overspill.kube.client import Client, selectors
from overspill.kube.frames import Batch, Change, Frames, Versioned
from overspill.kube.refusals import Refusals
from overspill.kube.resources import Resource
from overspill.kube.transport import Stream

__all__ = ["Batch", "Change", "Watch", "silence"]

log = structlog.get_logger(__name__)

# The apiserver sends a bookmark about each minute. Half a minute more than that without a byte is a
# dead connection, and if it was not, the new one costs a single request.
IDLE_LIMIT = 90.0
# Longer than it takes to notice a dead connection and to make another.
SILENCE_LIMIT = 150.0
# The server ends a watch after this many seconds, so that watches move to apiservers that came later.
SERVER_TIMEOUT = (300, 600)
PAUSE_FIRST, PAUSE_CAP = 0.05, 2.0

T = TypeVar("T", bound=Versioned)


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
        self._kind = kind
        self._keep = keep
        self._path = resource.path(namespace=namespace)
        self._selectors = selectors(field_selector, label_selector)
        self._tick = tick
        self._frames = Frames(kind, keep=keep, what=f"watch {self._path}")
        self._streams_list = True
        self._known = False
        self._refusals = Refusals()
        self._fruitless = 0  # connections in a row that brought nothing
        self._heard = time.monotonic()
        self._relists = metrics.WATCH_RELISTS.labels(resource.plural)
        metrics.WATCH_AGE.labels(resource.plural).set_function(lambda: self.age)

    @property
    def age(self) -> float:
        """Seconds since the apiserver was last heard: an event, a bookmark, a connection made."""
        return time.monotonic() - self._heard

    async def batches(self) -> AsyncIterator[Batch[T]]:
        """Batches for ever; trouble on the way is waited out here.

        Raises:
            Misconfigured: this account may not list or watch the resource, or not any longer.
        """
        while True:
            self._fruitless += 1
            trouble: OverspillError | None = None
            try:
                async for batch in self._once():
                    self._known = True
                    yield batch
            except OverspillError as error:
                trouble = error
            await self._prepare_next(trouble)

    async def follow(self, changed: Callable[[Batch[T]], None]) -> None:
        """Hand over every batch, for ever.

        Raises:
            Misconfigured: this account may not list or watch the resource, or not any longer.
        """
        async for batch in self.batches():
            changed(batch)

    async def _once(self) -> AsyncIterator[Batch[T]]:
        """One connection, from the state that is known."""
        if not self._frames.version and not self._streams_list:
            yield await self._listed()
        self._frames.restart()
        async with self._client.stream(self._path, query=self._query()) as stream:
            self._heard = time.monotonic()
            self._refusals.allow()
            while data := await self._read(stream):
                for batch in self._frames.feed(data):
                    yield batch
                if self._frames.version:
                    self._fruitless = 0
                await asyncio.sleep(self._tick)  # what arrives meanwhile is one batch

    async def _listed(self) -> Batch[T]:
        items, version = await self._client.list_at(self._path, query=self._selectors, kind=self._kind)
        self._heard = time.monotonic()
        self._frames.version = version
        keep = self._keep
        return Batch(replace=True, changes=[Change("ADDED", keep(item) if keep else item) for item in items])

    def _query(self) -> dict[str, str]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*SERVER_TIMEOUT)),  # noqa: S311 - lets watches end at different times
            **self._selectors,
        }
        if self._frames.version:
            return query | {"resourceVersion": self._frames.version}
        return query | {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}

    async def _read(self, stream: Stream) -> bytes:
        try:
            async with asyncio.timeout(IDLE_LIMIT):
                data = await stream.read()
        except TimeoutError as error:
            text = f"watch {self._path}: nothing heard for {IDLE_LIMIT:.0f} s"
            if self._fruitless:
                # Not even a first bookmark: this version may be of the future, because etcd was restored.
                raise Expired(text) from error
            raise Retry(text) from error
        self._heard = time.monotonic()
        return data

    async def _prepare_next(self, trouble: OverspillError | None) -> None:
        """Decide from where the next connection goes on, and when: at once, unless several in a row failed."""
        if isinstance(trouble, Expired):
            log.info("watch expired; listing again", watch=self._path, error=str(trouble))
            self._frames.version = ""
            self._relists.inc(self._known)
        elif isinstance(trouble, Rejected) and self._streams_list and not self._frames.version:
            log.info("server does not stream lists; listing in pages", watch=self._path, error=str(trouble))
            self._streams_list = False
        elif isinstance(trouble, Misconfigured) and self._refusals.believe(time.monotonic()):
            raise trouble
        elif trouble is not None and self._fruitless.bit_count() < 2:  # 0, 1, 2, 4, 8, …
            log.warning("watch interrupted", watch=self._path, error=str(trouble), failures=self._fruitless)
        pause = _pause(self._fruitless)
        if isinstance(trouble, Throttled):
            pause = max(pause, trouble.retry_after)
        await asyncio.sleep(pause)


def silence(watches: Iterable[Watch[Any]]) -> str | None:
    """Why some watches are not to be believed: one has heard nothing for too long."""
    age = max((watch.age for watch in watches), default=0.0)
    return f"nothing heard from a watch for {age:.0f} s" if age > SILENCE_LIMIT else None


def _pause(fruitless: int) -> float:
    """Seconds before the next connection: none after one that brought something, nor after the first that did not."""
    if fruitless < 2:
        return 0.0
    return backoff(fruitless - 1, first=PAUSE_FIRST, cap=PAUSE_CAP) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
