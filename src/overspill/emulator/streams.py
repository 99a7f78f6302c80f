"""Logs and commands of containers.

In: requests of DescribeContainerLog and ExecContainerCommand, WebSockets. Out: text, or framed streams.
Invariant: a WebSocket URL works once, within 30 seconds.

The framing of the service's WebSocket is not documented. Clients in use read binary messages whose first
byte is a channel, as Kubernetes frames them (1 stdout, 2 stderr), without a subprotocol negotiated; the
emulator does that, with stdin on 0, the end as a Kubernetes Status on 3, and terminal sizes on 4.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import WSMsgType, web
from msgspec import Struct

from overspill.backends.base import Backend, LogOptions, Process
from overspill.emulator.refusals import Refused
from overspill.errors import NotFound, OverspillError, Rejected, Retry
from overspill.model.work import Identity

__all__ = ["MOST_LOG_BYTES", "Execs", "Pending", "run_sync", "tail_log"]

URL_SECONDS = 30.0
SYNC_SECONDS = 60.0
MOST_LOG_BYTES = 1 << 20
MOST_SYNC_BYTES = 1 << 20
STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io")


class Pending(Struct, frozen=True):
    """A command that waits for its WebSocket."""

    identity: Identity
    container: str
    command: tuple[str, ...]
    stdin: bool
    tty: bool
    expires: float


class Execs:
    """The commands whose URL was given out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: dict[str, Pending] = {}

    def offer(
        self, identity: Identity, container: str, command: tuple[str, ...], *, stdin: bool, tty: bool
    ) -> str:
        """A token for the URL of a command."""
        now = self._clock()
        for token in [token for token, kept in self._pending.items() if kept.expires < now]:
            del self._pending[token]
        token = secrets.token_urlsafe(24)
        self._pending[token] = Pending(identity, container, command, stdin, tty, now + URL_SECONDS)
        return token

    def claim(self, token: str) -> Pending | None:
        """The command of a token, once."""
        pending = self._pending.pop(token, None)
        return pending if pending and pending.expires >= self._clock() else None

    async def serve(self, request: web.Request, backend: Backend) -> web.StreamResponse:
        """Run the command of a URL over its WebSocket."""
        pending = self.claim(request.query.get("s", ""))
        if pending is None:
            raise web.HTTPForbidden(
                text="This URL was used, is more than 30 seconds old, or was never given out."
            )
        try:
            process = await backend.exec(
                pending.identity,
                pending.container,
                pending.command,
                stdin=pending.stdin,
                tty=pending.tty,
            )
        except OverspillError as error:
            raise web.HTTPNotFound(text=str(error)) from error
        socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=30)
        await socket.prepare(request)
        try:
            await _join(socket, process, stdin=pending.stdin)
        finally:
            await process.close()
        await socket.close()
        return socket


async def _join(socket: web.WebSocketResponse, process: Process, *, stdin: bool) -> None:
    """Until the command has ended or the client has gone; whichever is first ends the other."""
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(_read(socket, process, stdin=stdin))
        writing = tasks.create_task(_write(socket, process))
        reading.add_done_callback(lambda _: writing.cancel())
        writing.add_done_callback(lambda _: reading.cancel())


async def _read(socket: web.WebSocketResponse, process: Process, *, stdin: bool) -> None:
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            data = bytes([STDIN]) + message.data.encode()
        elif message.type is WSMsgType.BINARY:
            data = message.data
        else:
            continue
        if data:
            await _take(process, data[0], data[1:], stdin=stdin)


async def _take(process: Process, channel: int, data: bytes, *, stdin: bool) -> None:
    if channel == STDIN and stdin:
        await process.write(data)
    elif channel == CLOSE and data[:1] == bytes([STDIN]):
        await process.close_stdin()
    elif channel == RESIZE:
        try:
            size = msgspec.json.decode(data, type=dict[str, int])
        except msgspec.DecodeError:
            return  # a size that cannot be read changes nothing
        await process.resize(width=size.get("Width", 80), height=size.get("Height", 24))


async def _write(socket: web.WebSocketResponse, process: Process) -> None:
    with contextlib.suppress(ConnectionError):  # the client has gone
        async with aclosing(process.output()) as output:  # type: ignore[type-var]  # the iterators are generators
            async for channel, data in output:
                await socket.send_bytes(bytes([channel]) + data)
        await socket.send_bytes(bytes([STATUS]) + msgspec.json.encode(_end(await process.wait())))


def _end(code: int) -> dict[str, Any]:
    """A Kubernetes Status, as `v4.channel.k8s.io` ends."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def run_sync(backend: Backend, identity: Identity, container: str, command: tuple[str, ...]) -> str:
    """The whole output of a command, stdout and stderr as they come; an exit code has no place in it.

    Raises:
        Refused: the container does not run, or the command takes too long.
    """
    try:
        async with asyncio.timeout(SYNC_SECONDS):
            return await _collect(await backend.exec(identity, container, command, stdin=False, tty=False))
    except TimeoutError as error:
        raise Refused(
            "InvalidParameter", f"The command has not ended within {SYNC_SECONDS:.0f} s."
        ) from error
    except (NotFound, Rejected) as error:
        raise Refused("IncorrectStatus", f"The command cannot be run: {error}") from error


async def _collect(process: Process) -> str:
    pieces: list[bytes] = []
    try:
        async with aclosing(process.output()) as output:  # type: ignore[type-var]  # the iterators are generators
            async for _, data in output:
                pieces.append(data)
                if sum(map(len, pieces)) > MOST_SYNC_BYTES:
                    break
        return b"".join(pieces)[:MOST_SYNC_BYTES].decode(errors="replace")
    finally:
        await process.close()


async def tail_log(backend: Backend, identity: Identity, container: str, options: LogOptions) -> str:
    """A container's output; of a long one the end.

    Raises:
        Refused: there is none yet, or the engine cannot tell now.
    """
    kept = bytearray()
    try:
        async with aclosing(backend.logs(identity, container, options)) as output:  # type: ignore[type-var]  # as above
            async for piece in output:
                kept += piece
                del kept[:-MOST_LOG_BYTES]
    except (NotFound, Rejected) as error:
        raise Refused("IncorrectStatus", f"The log cannot be read: {error}") from error
    except Retry as error:
        raise Refused("ServiceUnavailable", "The log cannot be read now.") from error
    return kept.decode(errors="replace")
