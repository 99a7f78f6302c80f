"""A queue of keys: each at most once in it, and in one worker's hands at a time.

In: keys. Out: calls of `reconcile`. Invariant: a key added while it is worked on is worked on once
more afterwards; a key that fails backs off alone.
"""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from overspill import metrics
from overspill.backoff import backoff
from overspill.errors import OverspillError, Throttled

__all__ = ["Queue"]

log = structlog.get_logger(__name__)
K = TypeVar("K", bound=Hashable)
# What waited for an apiserver or a backend goes on this soon after it is back, however long it was away.
LONGEST_BACK_OFF = 30.0
# Keys that are due within this many seconds of each other are one wake-up; no clock is finer than that.
RESOLUTION = 0.001


class Queue(Generic[K]):
    """Work items by key, run by a bounded number of workers."""

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[float | None]],
        *,
        name: str,
        workers: int = 16,
        base: float = 0.5,
        cap: float = LONGEST_BACK_OFF,
    ) -> None:
        """`reconcile` returns the seconds after which the key is due again, or None; `name` is for the metrics."""
        self._reconcile = reconcile
        self._workers = workers
        self._base, self._cap = base, cap
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()  # in _ready
        self._running: set[K] = set()
        self._again: set[K] = set()  # added while running
        self._due: dict[K, float] = {}  # the earliest time asked for; the heap may hold stale ones
        self._timers: list[tuple[float, int, K]] = []
        self._failures: dict[K, int] = {}
        self._timer_set = asyncio.Event()
        self._count = 0
        self._adds = metrics.QUEUE_ADDS.labels(name)
        self._retries = metrics.QUEUE_RETRIES.labels(name)
        metrics.QUEUE_DEPTH.labels(name).set_function(self._ready.qsize)

    def add(self, key: K, *, after: float = 0.0) -> None:
        """Have a key worked on, at once or in `after` seconds; the earliest of several wins."""
        self._adds.inc()
        if after > 0:
            self._add_later(key, after)
        elif key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_timers(), name="queue timers")
            for number in range(self._workers):
                tasks.create_task(self._work(), name=f"queue worker {number}")

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._running.add(key)
            try:
                await self._run_one(key)
            finally:
                self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _run_one(self, key: K) -> None:
        try:
            after = await self._reconcile(key)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, this key backs off and the others go on
            self._retries.inc()
            self._add_later(key, self._back_off(key, error))
        else:
            self._failures.pop(key, None)
            if after is not None:
                self._add_later(key, max(after, 0.001))

    def _back_off(self, key: K, error: Exception) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = backoff(failures, first=self._base, cap=self._cap) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        if isinstance(error, Throttled):
            delay = max(delay, error.retry_after)
        log.warning(
            "reconcile failed",
            key=key,
            error=str(error),
            kind=type(error).__name__,
            failures=failures,
            retry_in=round(delay, 1),
            exc_info=None if isinstance(error, OverspillError) else error,  # only a bug needs its trace
        )
        return delay

    def _add_later(self, key: K, after: float) -> None:
        due = asyncio.get_running_loop().time() + after
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._timers, (due, self._count, key))
        if self._timers[0][0] == due:
            self._timer_set.set()

    async def _run_timers(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._timer_set.clear()
            soon = loop.time() + RESOLUTION
            while self._timers and self._timers[0][0] <= soon:
                due, _, key = heapq.heappop(self._timers)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            pause = self._timers[0][0] - loop.time() if self._timers else None
            try:
                async with asyncio.timeout(pause):
                    await self._timer_set.wait()
            except TimeoutError:
                continue
