"""Attaching to containers whose stdin outlives its clients (`stdin` without `stdinOnce`, no terminal).

In: a run of such a container. Out: a `Process`. Invariant: no client's leaving ends the container's stdin.
conmon ends it when any connection to its socket does, of spectators too. So nobody gets a connection of his
own: what the container writes is read from its log, and what clients type goes through one connection that
is kept until the container ends, or this process does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from overspill.backends.podman.api import Podman
from overspill.backends.podman.logfile import read_streams
from overspill.backends.podman.streams import END_IS_NEAR, Hijacked, attach_container
from overspill.errors import Retry

__all__ = ["Joined", "Stdins"]


class Joined:
    """A `Process`: one of the clients of a container. `stdin` is None for one that only looks on."""

    def __init__(
        self, podman: Podman, run: str, *, stdin: Hijacked | None, log: Path, ended: Callable[[], bool]
    ) -> None:
        self._podman = podman
        self._run = run
        self._stdin = stdin
        self._output = read_streams(log, ended=ended)

    async def write(self, data: bytes) -> None:
        """Write to stdin, which all clients share."""
        if self._stdin:
            await self._stdin.write(data)

    async def close_stdin(self) -> None:
        """Stdin stays open for others."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (stream, bytes) until the container ends."""
        return self._output

    async def resize(self, *, width: int, height: int) -> None:
        """There is no terminal."""

    async def wait(self) -> int:
        """The exit code."""
        return await self._podman.wait(self._run, seconds=END_IS_NEAR) or 0

    async def close(self) -> None:
        """Let go; the container and its other clients do not notice."""


class Stdins:
    """The connections that are typed through: one pod's, by run."""

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        self._kept: dict[str, Hijacked] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self.group: asyncio.TaskGroup | None = None

    async def of(self, run: str) -> Hijacked:
        """The connection to a run's stdin.

        Raises:
            Retry: the pod is not looked after yet.
            NotFound: the container is gone.
        """
        async with self._lock:
            if run not in self._kept:
                if self.group is None:
                    raise Retry("the pod has only just been found again")
                self._kept[run] = await attach_container(
                    self._podman, run, stdin=True, tty=False, ends_stdin=False
                )
                self._tasks[run] = self.group.create_task(self._keep(run, self._kept[run]))
            return self._kept[run]

    def leave(self) -> None:
        """Let go of all."""
        for task in self._tasks.values():
            task.cancel()

    async def _keep(self, run: str, connection: Hijacked) -> None:
        """Read what nobody needs, so that the container can go on writing, until it ends."""
        try:
            async for _ in connection.output():
                pass
        finally:
            del self._kept[run], self._tasks[run]
            await connection.close()
