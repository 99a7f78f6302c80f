"""A container's output, read from the file that Podman's conmon writes.

In: a file in the k8s-file format (`time stream F|P text`), `LogOptions`. Out:
the text in pieces. Invariant: what is followed ends only after the container
has ended and its last line has been read. The file is read here and not asked
of Podman, whose own reader polls and knows neither limits nor previous runs.
Source: kubelet's kuberuntime/logs; conmon's ctr_logging.c.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from overspill.backends.base import LogOptions
from overspill.backends.podman.inspect import instant
from overspill.backends.podman.seen import Run
from overspill.backends.podman.supervisor import Supervisor
from overspill.errors import NotFound, Rejected
from overspill.model.observation import Waiting

__all__ = ["pod_logs", "read_log"]

BLOCK = 64 << 10
# What the kubelet's log endpoint says instead of a container's reason for waiting.
WAITING_WORDS = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}
FOLLOW = 0.1  # seconds between looks at a file that somebody follows


def pod_logs(supervisor: Supervisor, container: str, options: LogOptions) -> AsyncIterator[bytes]:
    """The output of a pod's container.

    Raises:
        NotFound: no such container, or no previous run of it.
        Rejected: it has not started.
    """
    run = _chosen_run(supervisor, container, previous=options.previous)
    pod = supervisor.pod

    def ended() -> bool:
        now = pod.runs.get(run.id)
        return now is None or now.state == "exited"

    return read_log(pod.folder.log(container, run.number), options, ended=ended)


def _chosen_run(supervisor: Supervisor, container: str, *, previous: bool) -> Run:
    """The run whose output is meant, and the kubelet's words where there is none."""
    pod, observation = supervisor.pod, supervisor.observation()
    every = (*observation.init_containers, *observation.containers, *observation.ephemeral_containers)
    shown = {c.name: c for c in every}.get(container)
    name = pod.identity.name
    if shown is None:
        raise NotFound(f"container {container} is not valid for pod {name}")
    started = [run for run in pod.seen.runs_of(container) if run.state != "created"]
    waiting = shown.state.reason if isinstance(shown.state, Waiting) else ""
    ended = started if waiting else started[1:]
    if previous:
        if not ended:
            raise NotFound(f'previous terminated container "{container}" in pod "{name}" not found')
        return ended[0]
    if not started:
        words = WAITING_WORDS.get(waiting, waiting)
        raise Rejected(f'container "{container}" in pod "{name}" is waiting to start: {words}')
    return started[0]


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


async def _formatted(path: Path, options: LogOptions, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Pieces of about a block, so that a long log is neither one read nor a million."""
    formatter = Formatter(options)
    async for lines in _lines(path, options, ended):
        piece = b"".join(formatter.format(line) for line in lines)
        if piece:
            yield piece


class Formatter:
    """Turns lines of the file into what the reader asked for."""

    def __init__(self, options: LogOptions) -> None:
        self._timestamps = options.timestamps
        self._since = options.since_time
        self._at_line_start = True

    def format(self, line: bytes) -> bytes:
        """One line of the file; b"" if it is too old, or is none."""
        parts = line.rstrip(b"\n").split(b" ", 3)
        if len(parts) < 4:
            return b""
        time, _, tag, text = parts
        if self._since is not None:
            if instant(time.decode(errors="replace")) < self._since:
                return b""
            self._since = None  # times only grow
        prefix = _timestamp(time) + b" " if self._timestamps and self._at_line_start else b""
        self._at_line_start = not tag.startswith(b"P")
        return prefix + text + (b"\n" if self._at_line_start else b"")


def _timestamp(time: bytes) -> bytes:
    return time.removesuffix(b"+00:00") + b"Z" if time.endswith(b"+00:00") else time


async def _lines(path: Path, options: LogOptions, ended: Callable[[], bool]) -> AsyncIterator[list[bytes]]:
    """Lists of whole lines, from where the options want to begin."""
    start = options.tail_lines
    while True:
        last = ended() or not options.follow  # asked before reading: what is written until then is read
        try:
            file = path.open("rb")
        except FileNotFoundError:
            if last:
                return
            await asyncio.sleep(FOLLOW)
            continue
        with file:
            if start is not None:
                file.seek(_tail_offset(file, start))
                start = None
            async for lines in _until_replaced(file, path, options, ended):
                yield lines
        if not options.follow or ended():
            return


async def _until_replaced(
    file: BinaryIO, path: Path, options: LogOptions, ended: Callable[[], bool]
) -> AsyncIterator[list[bytes]]:
    """Whole lines of one file, until its end or until another takes its place (conmon cut it)."""
    rest = b""
    while True:
        last = ended() or not options.follow
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
    """Where the last so many lines begin."""
    position = end = file.seek(0, os.SEEK_END)
    found = 0
    while position > 0:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        for index in range(len(block) - 1, -1, -1):
            if block[index] != 0x0A or position + index == end - 1:
                continue
            found += 1
            if found == lines:
                return position + index + 1
    return end if lines == 0 else 0
