"""Processes that a user talks to: exec, attach and port-forward of simulated containers.

In: a pod, bytes. Out: `Process`es of `backends/base.py`. Invariant: a process has no task of its own;
it runs in whoever reads its output, and ends when its container does.
"""

import asyncio
import posixpath
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress

from overspill.backends.simulated.life import ContainerLife, PodLife
from overspill.backends.simulated.shell import Box, Command, Result, builtin, commands_of
from overspill.errors import NotFound
from overspill.model.observation import Running, Terminated

__all__ = ["EchoProcess", "ShellProcess", "listening", "running_container"]

ROOM = 64  # pieces of stdin that wait
LONGEST_LINE = 64 << 10  # characters that a shell waits for the end of
KILLED = 137
OUT, ERR = 1, 2
SHELLS = {"sh", "ash", "bash"}

Piece = tuple[int, bytes]


@contextmanager
def listening(pod: PodLife) -> Iterator[asyncio.Event]:
    """An event that is set at each change of a pod."""
    changed = asyncio.Event()
    if pod.listeners is None:
        pod.listeners = set()
    pod.listeners.add(changed.set)
    try:
        yield changed
    finally:
        pod.listeners.discard(changed.set)


def running_container(pod: PodLife, container: str) -> ContainerLife:
    """A container that runs.

    Raises:
        NotFound: there is none of this name, or it does not run.
    """
    life = pod.find(container)
    if life is None or not isinstance(life.state, Running):
        trouble = "is not found" if life is None else "is not running"
        raise NotFound(f'container "{container}" in pod "{pod.identity.name}" {trouble}')
    return life


class EchoProcess:
    """Writes what it reads: a container's main process that a user attaches to, or a server on a port."""

    def __init__(self, pod: PodLife, container: ContainerLife, *, stdin: bool) -> None:
        self._pod = pod
        self._container = container
        self._run = container.state
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue(ROOM)
        self._stopped = asyncio.Event()
        self._over = asyncio.Event()
        self._no_more = not stdin
        self._code = 0
        if pod.listeners is None:
            pod.listeners = set()
        pod.listeners.add(self._look)

    async def write(self, data: bytes) -> None:
        """Write to stdin; returns when there is room for more."""
        if not self._stopped.is_set():
            await self._input.put(data)

    async def close_stdin(self) -> None:
        """End stdin."""
        if not self._stopped.is_set():
            await self._input.put(None)

    async def resize(self, *, width: int, height: int) -> None:
        """There is no terminal to resize."""

    async def wait(self) -> int:
        """The exit code, once the output has ended."""
        await self._over.wait()
        return self._code

    async def close(self) -> None:
        """Let go."""
        self._stop()

    async def output(self) -> AsyncIterator[Piece]:
        """What the process writes, until it ends or its container does."""
        try:
            if not self._stopped.is_set():
                async for piece in self._pieces():
                    yield piece
                    if self._stopped.is_set():
                        return
        finally:
            self._stop()
            self._over.set()

    async def _pieces(self) -> AsyncIterator[Piece]:
        """What it reads; an attached container stays attached to when there is no more to read."""
        async for data in self._stdin():
            yield OUT, data
        await self._stopped.wait()

    async def _stdin(self) -> AsyncIterator[bytes]:
        while not self._no_more and not self._stopped.is_set():
            data = await self._input.get()
            self._no_more |= data is None
            if data:
                yield data

    def _look(self) -> None:
        """The pod changed: does the container still run?"""
        state = self._container.state
        if state is self._run:
            return
        ended = state if isinstance(state, Terminated) else self._container.last_state
        self._code = self._exit_code(ended.exit_code if ended else KILLED)
        self._stop()

    def _exit_code(self, of_container: int) -> int:
        """What it ends with, when its container ends."""
        return of_container

    def _stop(self) -> None:
        self._stopped.set()
        if self._pod.listeners:
            self._pod.listeners.discard(self._look)
        with suppress(asyncio.QueueEmpty):  # whoever waits to write may go on
            while True:
                self._input.get_nowait()
        self._input.put_nowait(None)


class ShellProcess(EchoProcess):
    """A command in a container, played by `shell`."""

    def __init__(
        self, pod: PodLife, container: ContainerLife, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> None:
        super().__init__(pod, container, stdin=stdin)
        self._box = Box(pod, container)
        self._command = command
        self._tty = tty

    def _exit_code(self, _of_container: int) -> int:
        return KILLED

    async def _pieces(self) -> AsyncIterator[Piece]:
        async for stream, data in self._execute(self._command):
            yield (OUT if self._tty else stream), data

    async def _execute(self, words: Sequence[str]) -> AsyncIterator[Piece]:
        name = posixpath.basename(words[0])
        if name in SHELLS:
            async for piece in self._shell(words[1:]):
                yield piece
        elif name == "cat" and len(words) == 1:
            async for data in self._stdin():
                yield OUT, data
            self._code = 0
        elif name == "sleep":
            self._code = 0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), float(words[1]))
        else:
            for piece in self._take(builtin(self._box, words)):
                yield piece

    async def _shell(self, words: Sequence[str]) -> AsyncIterator[Piece]:
        if words[:1] and words[0] == "-c":
            async for piece in self._script(words[1]):
                yield piece
            return
        rest = ""
        async for data in self._stdin():
            *lines, rest = (rest + data.decode(errors="replace")).split("\n")
            if len(rest) > LONGEST_LINE:
                self._code = 2
                yield ERR, b"sh: line too long\n"
                return
            for line in lines:
                async for piece in self._script(line):
                    yield piece
                if line.strip().startswith("exit"):
                    return

    async def _script(self, text: str) -> AsyncIterator[Piece]:
        try:
            commands = commands_of(text, self._box.env())
        except ValueError as error:
            self._code = 2
            yield ERR, f"sh: syntax error: {error}\n".encode()
            return
        for command in commands:
            if command.only_after_success and self._code:
                continue
            async for piece in self._one(command):
                yield piece
            if command.words[0] == "exit" or self._stopped.is_set():
                return

    async def _one(self, command: Command) -> AsyncIterator[Piece]:
        if not command.target:
            async for piece in self._execute(command.words):
                yield piece
            return
        result = builtin(self._box, command.words)
        if command.target in {"1", "2"}:
            redirected = Result(result.code, *((b"", result.out) if command.target == "2" else (result.out,)))
        else:
            trouble = self._box.write(command.target, result.out)
            message = f"sh: can't create {command.target}: {trouble}\n".encode() if trouble else b""
            redirected = Result(1 if trouble else result.code, b"", result.err + message)
        for piece in self._take(redirected):
            yield piece

    def _take(self, result: Result) -> Iterator[Piece]:
        self._code = result.code
        if result.out:
            yield OUT, result.out
        if result.err:
            yield ERR, result.err
