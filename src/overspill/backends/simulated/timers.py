"""When each pod changes by itself: one heap, one timer of the event loop.

In: pods and their `due` times. Out: calls of `fire` with each pod that is due. Invariant: however many
pods wait, the loop has one handle; pods due in the same tick share one wake-up.
"""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable

from overspill.backends.simulated.life import PodLife

__all__ = ["Timers"]

TICK = 0.01  # seconds that a pod may be late, so that a burst costs one wake-up
FEW = 64  # outdated entries that are not worth a clean-up


class Timers:
    """The due times of all pods. An entry is outdated when its pod has come to another due time."""

    def __init__(self, fire: Callable[[list[PodLife]], None], *, clock: Callable[[], float]) -> None:
        self._fire = fire
        self._clock = clock
        self._heap: list[tuple[float, int, PodLife]] = []
        self._waiting: dict[PodLife, float] = {}
        self._numbers = itertools.count()
        self._handle: asyncio.TimerHandle | None = None
        self._armed = math.inf

    def set(self, pod: PodLife) -> None:
        """Take note of a pod's due time."""
        if pod.due == math.inf:
            self._waiting.pop(pod, None)
        elif self._waiting.get(pod) != pod.due:
            self._waiting[pod] = pod.due
            heapq.heappush(self._heap, (pod.due, next(self._numbers), pod))
            self._arm(pod.due)
        if len(self._heap) > 2 * len(self._waiting) + FEW:
            self._heap = [entry for entry in self._heap if self._waiting.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def _arm(self, due: float) -> None:
        if due >= self._armed:
            return
        if self._handle:
            self._handle.cancel()
        self._armed = due
        loop = asyncio.get_running_loop()
        delay = math.ceil((due - self._clock()) / TICK) * TICK
        self._handle = loop.call_later(max(0.0, delay), self._ring)

    def _ring(self) -> None:
        self._armed, self._handle = math.inf, None
        now, due = self._clock(), []
        while self._heap and self._heap[0][0] <= now:
            at, _, pod = heapq.heappop(self._heap)
            if self._waiting.get(pod) == at:
                del self._waiting[pod]
                due.append(pod)
        self._fire(due)
        if self._heap:
            self._arm(self._heap[0][0])
