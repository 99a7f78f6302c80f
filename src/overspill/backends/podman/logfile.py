"""The file that Podman's conmon writes a container's output to, in the k8s-file format.

In: a file with lines of `time stream F|P text`, what a reader asked for. Out: the text in pieces. Invariant:
what is followed ends only after the container has ended and its last line has been read. The file is read here
and not asked of Podman, whose own reader polls and knows neither limits nor previous runs.
Source: kubelet's kuberuntime/logs; conmon's ctr_logging.c.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from overspill.backends.base import LogOptions
from overspill.backends.podman.inspect import instant

__all__ = ["read_log", "read_streams"]

BLOCK = 64 << 10
FOLLOW = 0.1  # seconds between looks at a file that somebody follows


async def read_log(path: Path, options: LogOptions, *, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The output of one run; `ended` tells whether more can come."""
    left = options.limit_bytes
    async for piece in _formatted(path, options, ended):
        if left is None:
            yield piece
            continue
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return


def read_streams(path: Path, *, ended: Callable[[], bool]) -> AsyncIterator[tuple[int, bytes]]:
    """What one run writes from the call on: (1, bytes) of stdout and (2, bytes) of stderr, until it ends."""
    try:
        begin = path.stat().st_size
    except FileNotFoundError:
        begin = 0
    return _streams(path, begin, ended)


async def _streams(path: Path, begin: int, ended: Callable[[], bool]) -> AsyncIterator[tuple[int, bytes]]:
    formatter = Formatter(LogOptions())
    async for lines in _lines(path, lambda _: begin, ended, follow=True):
        for line in lines:
            if text := formatter.format(line):
                yield (2 if line.split(b" ", 2)[1] == b"stderr" else 1), text


async def _formatted(path: Path, options: LogOptions, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Pieces of about a block, so that a long log is neither one read nor a million."""
    formatter = Formatter(options)
    tail = options.tail_lines

    def begin(file: BinaryIO) -> int:
        return 0 if tail is None else _tail_offset(file, tail)

    async for lines in _lines(path, begin, ended, follow=options.follow):
        piece = b"".join(formatter.format(line) for line in lines)
        if piece:
            yield piece


class Formatter:
    """Turns lines of the file into what the reader asked for."""

    def __init__(self, options: LogOptions) -> None:
        self._timestamps = options.timestamps
        self._since = options.since_time
        self._stream = options.stream.lower().encode()
        self._at_line_start = True

    def format(self, line: bytes) -> bytes:
        """One line of the file; b"" if it is too old, of the other stream, or is none."""
        parts = line.rstrip(b"\n").split(b" ", 3)
        if len(parts) < 4:
            return b""
        time, stream, tag, text = parts
        if self._stream and stream != self._stream:
            return b""
        if self._since is not None:
            if instant(time.decode(errors="replace")) < self._since:
                return b""
            self._since = None  # times only grow
        prefix = _timestamp(time) + b" " if self._timestamps and self._at_line_start else b""
        self._at_line_start = not tag.startswith(b"P")
        return prefix + text + (b"\n" if self._at_line_start else b"")


def _timestamp(time: bytes) -> bytes:
    return time.removesuffix(b"+00:00") + b"Z" if time.endswith(b"+00:00") else time


async def _lines(
    path: Path, begin: Callable[[BinaryIO], int], ended: Callable[[], bool], *, follow: bool
) -> AsyncIterator[list[bytes]]:
    """Lists of whole lines; `begin` says where in the file that is there first."""
    first = True
    while True:
        last = ended() or not follow  # asked before reading: what is written until then is read
        try:
            file = path.open("rb")
        except FileNotFoundError:
            if last:
                return
            await asyncio.sleep(FOLLOW)
            continue
        with file:
            if first:
                file.seek(begin(file))
                first = False
            async for lines in _until_replaced(file, path, ended, follow=follow):
                yield lines
        if not follow or ended():
            return


async def _until_replaced(
    file: BinaryIO, path: Path, ended: Callable[[], bool], *, follow: bool
) -> AsyncIterator[list[bytes]]:
    """Whole lines of one file, until its end or until another takes its place (conmon cut it)."""
    rest = b""
    while True:
        last = ended() or not follow
        replaced = _replaced(file, path)
        for block in _blocks(file):
            *lines, rest = (rest + block).split(b"\n")
            yield lines
            await asyncio.sleep(0)
        if last or replaced:
            return
        await asyncio.sleep(FOLLOW)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _replaced(file: BinaryIO, path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _tail_offset(file: BinaryIO, lines: int) -> int:
    """Where the last so many lines begin. One that conmon has written in parts is one, however many records it takes."""
    end = file.seek(0, os.SEEK_END)
    if lines == 0:
        return end
    found, begins = 0, end
    for offset, record in _backwards(file, end):
        if begins != end and _ends_line(record):
            found += 1
            if found == lines:
                return begins
        begins = offset
    return 0


def _ends_line(record: bytes) -> bool:
    return record.split(b" ", 3)[2:3] != [b"P"]


def _backwards(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """The records of a file from its last to its first: where each begins, and what is in it."""
    position, rest = end, b""
    while position > 0:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size) + rest
        rest, *records = block.split(b"\n")
        offset = position + len(block)
        for record in reversed(records):
            offset -= len(record)
            if record:  # there is none behind the last line's end
                yield offset, record
            offset -= 1
    yield 0, rest
