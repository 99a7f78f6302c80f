"""What simulated containers write: every line follows from the run and the time.

In: a container, a run's beginning and end. Out: the bytes that PodLogOptions ask for. Invariant: no
line is kept anywhere, so a pod's output costs nothing until somebody reads it.
"""

import asyncio
import math
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime

from msgspec import Struct, structs

from overspill.backends.base import LogOptions
from overspill.backends.simulated.life import ContainerLife, PodLife
from overspill.backends.simulated.streams import listening
from overspill.errors import NotFound, Rejected
from overspill.model.observation import Running, Terminated, Waiting

__all__ = ["Run", "pod_logs", "run_of"]

PULLING = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}
ROUNDING = 1e-6  # of a line; times are sums of floats
SHORTEST = 0.001  # seconds to wait for a line that is due by rounding


class Run(Struct, frozen=True):
    """One run's lines: those of its script at its start, then one every `every` seconds."""

    first: tuple[str, ...]
    name: str
    every: float
    started_at: float
    finished_at: float

    def count(self, now: float) -> int:
        """How many lines there are by now."""
        age = min(now, self.finished_at) - self.started_at
        return len(self.first) + (int(age / self.every + ROUNDING) if self.every else 0)

    def time(self, index: int) -> float:
        """When a line was written; infinite if it never will be."""
        later = index + 1 - len(self.first)
        if later <= 0:
            return self.started_at
        at = self.started_at + later * self.every if self.every else math.inf
        return at if at <= self.finished_at else math.inf

    def line(self, index: int) -> str:
        """One line, without its end."""
        if index < len(self.first):
            return self.first[index]
        return f"{self.name}: line {index + 1 - len(self.first)}"


def run_of(pod: PodLife, container: str, *, previous: bool = False) -> Run:
    """The lines of a container's latest run, or of the one before.

    Raises:
        NotFound: no such container, or no previous run of it.
        Rejected: it has not started yet.
    """
    life = pod.find(container)
    who = pod.identity.name
    if life is None:
        raise NotFound(f'container "{container}" in pod "{who}" is not found')
    between = isinstance(life.state, Waiting) and life.last_state is not None
    if previous and life.last_state is None:
        raise NotFound(f'previous terminated container "{container}" in pod "{who}" not found')
    if isinstance(life.state, Waiting) and not between:
        why = PULLING.get(life.state.reason, life.state.reason)
        raise Rejected(f'container "{container}" in pod "{who}" is waiting to start: {why}')
    run = life.last_state if previous or between else life.state
    assert isinstance(run, Running | Terminated)
    return _run(pod, life, run)


def _run(pod: PodLife, life: ContainerLife, run: Running | Terminated) -> Run:
    return Run(
        first=tuple(life.behaviour.output.splitlines()),
        name=f"{pod.identity.namespace}/{pod.identity.name} {life.spec.name}",
        every=life.behaviour.log_seconds,
        started_at=run.started_at,
        finished_at=run.finished_at if isinstance(run, Terminated) else math.inf,
    )


async def pod_logs(
    pod: PodLife, container: str, options: LogOptions, *, clock: Callable[[], float]
) -> AsyncIterator[bytes]:
    """A container's output.

    Raises:
        NotFound: as `run_of`.
        Rejected: as `run_of`.
    """
    run = run_of(pod, container, previous=options.previous)
    count = run.count(clock())
    index = bisect_left(range(count), options.since_time or 0.0, key=run.time)
    if options.tail_lines is not None:
        index = max(index, count - options.tail_lines)
    left = math.inf if options.limit_bytes is None else options.limit_bytes
    async for number in _indices(pod, container, run, index, follow=options.follow, clock=clock):
        if options.stream == "Stderr":
            continue  # all is written to stdout
        piece = _written(run, number, timestamps=options.timestamps)
        if len(piece) >= left:
            yield piece[: int(left)]
            return
        left -= len(piece)
        yield piece


async def _indices(
    pod: PodLife, container: str, run: Run, index: int, *, follow: bool, clock: Callable[[], float]
) -> AsyncIterator[int]:
    """Numbers of the lines from `index` on, with `follow` as they come until the run ends."""
    with listening(pod) as changed:
        while True:
            changed.clear()
            run = _as_it_stands(pod, container, run, clock())
            count = run.count(clock())
            for number in range(index, count):
                yield number
            index = max(index, count)
            if not follow or run.finished_at < math.inf:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _delay(run.time(index) - clock()))


def _as_it_stands(pod: PodLife, container: str, run: Run, now: float) -> Run:
    """The run with its end, once it has ended."""
    life = pod.find(container)
    assert life
    for state in (life.state, life.last_state):
        if isinstance(state, Running | Terminated) and state.started_at == run.started_at:
            return _run(pod, life, state)
    return structs.replace(run, finished_at=min(run.finished_at, now))


def _delay(seconds: float) -> float | None:
    return None if seconds == math.inf else max(seconds, SHORTEST)


def _written(run: Run, number: int, *, timestamps: bool) -> bytes:
    line = run.line(number)
    if timestamps:
        at = datetime.fromtimestamp(run.time(number), UTC)
        line = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}000Z {line}"
    return line.encode() + b"\n"
