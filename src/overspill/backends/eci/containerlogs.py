"""Reads a container's output from ECI, which has no stream: by asking again.

In: a group, a container, options. Out: pieces of output. Invariant: a line is yielded once, in
order; lines that ECI no longer has when it is asked are told to be missing, not passed over.
ECI gives at most 2,000 lines and 1 MiB at a time; all followers of an account share one budget.
"""

import asyncio
import io
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from overspill.backends.base import LogOptions
from overspill.backends.eci.answers import LogAnswer
from overspill.backends.eci.client import Client
from overspill.errors import NotFound, Rejected, Unsupported
from overspill.model.observation import ContainerObservation, Waiting

__all__ = ["Logs", "require_log"]

MOST_LINES = 2000
MOST_BYTES = 1 << 20
SHORTEST_PAUSE = 2.0
# What followers may take of the budget; the rest is for those who read once.
FOLLOWERS_PART = 0.8
MISSING = b"[ECI gives 2000 lines, or 1 MiB, at a time; lines are missing here]\n"
OLDER = b"[ECI gives the last 2000 lines, or 1 MiB; older ones may be missing]\n"
STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* ")

# What kubectl shows for these reasons, in the kubelet's words.
WAITS = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


def require_log(seen: ContainerObservation, *, pod: str, previous: bool) -> None:
    """Make sure that a container has the output that is asked for.

    Raises:
        NotFound: it has not run before.
        Rejected: it has not started.
    """
    if previous and not seen.restarts:
        raise NotFound(f'previous terminated container "{seen.name}" in pod "{pod}" not found')
    if isinstance(seen.state, Waiting) and seen.last_state is None:
        why = WAITS.get(seen.state.reason, seen.state.reason)
        raise Rejected(f'container "{seen.name}" in pod "{pod}" is waiting to start: {why}')


class Logs:
    """Reads logs; knows how many are being followed."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._followers = 0

    async def read(
        self, group_id: str, container: str, options: LogOptions, *, ended: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """The output so far; with `follow` goes on until `ended` says that no more will come.

        Raises:
            Unsupported: of one stream alone.
        """
        if options.stream:
            raise Unsupported(
                f"ECI keeps both streams of a container in one log; {options.stream} alone is not to be had"
            )
        if options.tail_lines == 0 and not options.follow:
            return
        if not options.follow:
            content = await self._ask(group_id, container, _parameters(options))
            yield _cut(_before(content, options) + content, options.limit_bytes)
            return
        self._followers += 1
        try:
            async for piece in _limited(
                self._follow(group_id, container, options, ended), options.limit_bytes
            ):
                yield piece
        finally:
            self._followers -= 1

    @property
    def pause(self) -> float:
        """Seconds between two looks at a followed log, so that all followers keep within the budget."""
        return max(SHORTEST_PAUSE, self._followers / (self._client.rates["logs"].rate * FOLLOWERS_PART))

    async def _follow(
        self, group_id: str, container: str, options: LogOptions, ended: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        asked = _parameters(options) | {"Timestamps": True}
        if options.tail_lines == 0:
            asked |= {"Tail": MOST_LINES, "StartTime": _moment(self._clock())}
        tail = _Tail(stamps=options.timestamps)
        first = True
        while True:
            last = ended()
            content = await self._ask(group_id, container, asked)
            if piece := tail.new_lines(content, gap=_before(content, options) if first else MISSING):
                yield piece
            if last:
                return
            first = False
            asked |= {"StartTime": tail.since or asked["StartTime"], "Tail": MOST_LINES}
            await asyncio.sleep(self.pause)

    async def _ask(self, group_id: str, container: str, parameters: dict[str, Any]) -> bytes:
        asked = {"ContainerGroupId": group_id, "ContainerName": container, **parameters}
        answer = await self._client.call("DescribeContainerLog", asked, LogAnswer)
        return answer.content.encode()


class _Tail:
    """What of an answer is new. Lines begin with their time, to the nanosecond, and end with a line feed alone."""

    def __init__(self, *, stamps: bool) -> None:
        self._stamps = stamps
        self._seen: set[bytes] = set()
        self.since = ""

    def new_lines(self, content: bytes, *, gap: bytes) -> bytes:
        """The new lines; `gap` comes before them where ECI may have left out what came before."""
        lines = list(io.BytesIO(content))
        full = len(content) >= MOST_BYTES
        if full and not STAMP.match(lines[0]):
            del lines[0]  # the end of one
        # Of the last second there may be more than was asked for at first; what is older than the known is not new.
        del lines[: next((at for at, line in enumerate(lines) if line in self._seen), 0)]
        fresh = [line for line in lines if line not in self._seen]
        lost = (full or len(lines) >= MOST_LINES) and bool(fresh) and fresh[0] == lines[0]
        if fresh:
            self.since = _second(fresh[-1])
            from_there = self.since[:19].encode()
            kept = {line for line in self._seen if line[:19] >= from_there}
            self._seen = kept | {line for line in lines if line[:19] >= from_there}
        text = fresh if self._stamps else [line.partition(b" ")[2] for line in fresh]
        return b"".join([gap, *text] if lost else text)


def _second(line: bytes) -> str:
    """The time of a line in whole seconds, as StartTime takes it."""
    return line[:19].decode(errors="replace") + "Z"


def _parameters(options: LogOptions) -> dict[str, Any]:
    wanted = MOST_LINES if options.tail_lines is None else options.tail_lines
    # No LimitBytes: nothing says which end it keeps, nor would it show that lines are missing. The reader cuts.
    return {
        "Tail": max(min(wanted, MOST_LINES), 1),
        "LastTime": options.previous or None,
        "StartTime": None if options.since_time is None else _moment(options.since_time),
        "Timestamps": options.timestamps or None,
    }


def _before(content: bytes, options: LogOptions) -> bytes:
    """What stands for older lines, where ECI has given as much as it can to a reader who wanted more."""
    enough = options.tail_lines is not None and options.tail_lines <= MOST_LINES
    cut = len(content) >= MOST_BYTES or (content.count(b"\n") >= MOST_LINES and not enough)
    return OLDER if cut else b""


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cut(content: bytes, limit: int | None) -> bytes:
    return content if limit is None else content[:limit]


async def _limited(pieces: AsyncIterator[bytes], limit: int | None) -> AsyncIterator[bytes]:
    left = limit
    async for piece in pieces:
        yield _cut(piece, left)
        if left is not None:
            left -= len(piece)
            if left <= 0:
                return
