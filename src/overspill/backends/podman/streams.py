"""Processes and terminals: the byte streams that Podman hands over after an HTTP upgrade.

In: a request that Podman answers by giving up its connection. Out: a `Process`.
Invariant: ending stdin half-closes the connection, so that output that comes
after it is not lost.
Source: the attach format of https://docs.docker.com/reference/api/engine/version/v1.41/
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from overspill.backends.connections import let_go
from overspill.backends.podman.api import Podman
from overspill.backends.podman.client import API, PodmanError
from overspill.errors import NotFound, OverspillError, Retry

__all__ = ["Hijacked", "attach_container", "exec_in_container"]

BLOCK = 64 << 10
FRAME = struct.Struct(">BxxxL")
# Seconds within which a container whose output has ended is known to have ended itself.
END_IS_NEAR = 2.0
KILL = ("kill", "-KILL")


class Hijacked:
    """A `Process` over one hijacked connection.

    `finish` gives the exit code once output has ended, `leave` says what to do
    when the caller lets go earlier, `resizer` sets the terminal's size.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        tty: bool,
        ends_stdin: bool,
        finish: Callable[[], Awaitable[int]],
        leave: Callable[[], Awaitable[None]],
        resizer: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._tty = tty
        self._ends_stdin = ends_stdin
        self._finish = finish
        self._leave = leave
        self._resizer = resizer
        self._ended = False

    async def write(self, data: bytes) -> None:
        """Write to stdin; what a process that has ended no longer reads is dropped."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def close_stdin(self) -> None:
        """End stdin, if that is what the container wants of it."""
        if self._ends_stdin and self._writer.can_write_eof():
            with suppress(OSError):
                self._writer.write_eof()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (stream, bytes) until the end."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while piece := await self._read():
                yield piece
        self._ended = True

    async def _read(self) -> tuple[int, bytes] | None:
        if self._tty:
            data = await self._reader.read(BLOCK)
            return (1, data) if data else None
        stream, length = FRAME.unpack(await self._reader.readexactly(FRAME.size))
        return (2 if stream == 2 else 1), await self._reader.readexactly(length)

    async def resize(self, *, width: int, height: int) -> None:
        """Set the size of the terminal."""
        if self._tty:
            with suppress(OverspillError):  # the process may have ended
                await self._resizer(width, height)

    async def wait(self) -> int:
        """The exit code."""
        return await self._finish()

    async def close(self) -> None:
        """Let go; first of the process, which may be why nothing of its input is taken."""
        try:
            if not self._ended:
                with suppress(OverspillError):
                    await self._leave()
        finally:
            await let_go(self._writer)


async def exec_in_container(
    podman: Podman, container: str, command: Sequence[str], *, stdin: bool, tty: bool
) -> Hijacked:
    """Start a process in a running container.

    Raises:
        NotFound: the container is gone or does not run.
    """
    body = {
        "Cmd": list(command),
        "AttachStdin": stdin,
        "AttachStdout": True,
        "AttachStderr": not tty,
        "Tty": tty,
    }
    try:
        session = await podman.create_exec(container, body)
    except PodmanError as error:
        raise NotFound(f"container does not run: {error}") from error
    reader, writer = await _hijack(podman, f"/exec/{session}/start", {"Detach": False, "Tty": tty})

    async def finish() -> int:
        return (await podman.inspect_exec(session)).exit_code

    async def leave() -> None:
        await _kill_exec(podman, container, session)

    async def resizer(width: int, height: int) -> None:
        await podman.resize(f"exec/{session}", width=width, height=height)

    return Hijacked(reader, writer, tty=tty, ends_stdin=True, finish=finish, leave=leave, resizer=resizer)


async def attach_container(
    podman: Podman, container: str, *, stdin: bool, tty: bool, ends_stdin: bool
) -> Hijacked:
    """Attach to a container's main process. `ends_stdin`: it wants to see the end of what is typed."""
    switch = "true" if stdin else "false"
    query = f"stream=true&stdout=true&stderr=true&stdin={switch}"
    reader, writer = await _hijack(podman, f"/containers/{container}/attach?{query}", None)

    async def finish() -> int:
        return await podman.wait(container, seconds=END_IS_NEAR) or 0

    async def leave() -> None:
        return

    async def resizer(width: int, height: int) -> None:
        await podman.resize(f"containers/{container}", width=width, height=height)

    return Hijacked(
        reader, writer, tty=tty, ends_stdin=ends_stdin, finish=finish, leave=leave, resizer=resizer
    )


async def _kill_exec(podman: Podman, container: str, session: str) -> None:
    """Kill a process that was started in a container.

    Podman's API has no call for it; so the container's own `kill` has to do it.
    """
    found = await podman.inspect_exec(session)
    if not found.running:
        return
    inner = (await podman.host_pids(container)).get(found.pid)
    if inner is not None:
        killer = await podman.create_exec(container, {"Cmd": [*KILL, str(inner)]})
        await podman.run_exec(killer)


async def _hijack(podman: Podman, path: str, body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Make a request whose connection becomes the stream.

    Raises:
        Retry: the service is away.
        NotFound, PodmanError: it refused.
    """
    content = b"" if body is None else msgspec.json.encode(body)
    head = (
        f"POST {API}{path} HTTP/1.1\r\nHost: podman\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_unix_connection(podman.client.socket)
    except OSError as error:
        raise Retry(f"Podman at {podman.client.socket} does not answer: {error}") from error
    try:
        writer.write(head.encode() + content)
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        if status not in {101, 200}:
            await _refuse(reader, answer, path, status)
    except BaseException as error:
        writer.close()
        if isinstance(error, (asyncio.IncompleteReadError, ConnectionError)):
            raise Retry(f"Podman at {podman.client.socket} broke off {path}") from error
        raise
    return reader, writer


async def _refuse(reader: asyncio.StreamReader, answer: bytes, path: str, status: int) -> None:
    length = next(
        (
            int(line.split(b":")[1])
            for line in answer.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ),
        0,
    )
    text = (await reader.readexactly(length)).decode(errors="replace")
    raise (NotFound if status in {404, 409} else PodmanError)(f"{path}: {text}")
