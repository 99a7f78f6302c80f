"""Commands in containers over ECI's WebSocket, and connections to their ports.

In: the address that ExecContainerCommand answers; a pod's address. Out: a `Process`. Invariant:
the exit code is what the stream says; where it ends without one, that is told as an error and not
as success.
The framing is that of Kubernetes' remote command: the first byte of a message is its channel
(0 stdin, 1 stdout, 2 stderr, 3 the end, 4 terminal size). Alibaba publishes no description of it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from overspill.backends.connections import let_go
from overspill.backends.eci.answers import ExecAnswer
from overspill.backends.eci.client import LOOPBACK, Client
from overspill.backends.eci.faults import ApiConflict
from overspill.errors import Misconfigured, NotFound, Retry, Unsupported

__all__ = ["Command", "Connection", "connect", "run"]

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
MOST_WORDS, LONGEST_WORD = 20, 256
PIECE = 1 << 16
CONNECT_SECONDS = 10.0


class _Cause(Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Details(Struct, frozen=True):
    causes: tuple[_Cause, ...] = ()


class _End(Struct, frozen=True):
    """A Kubernetes Status."""

    status: str = ""
    message: str = ""
    details: _Details = _Details()

    def code(self) -> int:
        if self.status == "Success":
            return 0
        codes = [cause.message for cause in self.details.causes if cause.reason == "ExitCode"]
        if not codes or not codes[0].lstrip("-").isdigit():
            raise Retry(f"ECI ended the command without an exit code: {self.message or 'no reason given'}")
        return int(codes[0])


async def run(
    client: Client, group_id: str, container: str, command: Sequence[str], *, stdin: bool, tty: bool
) -> "Command":
    """Start a command.

    Raises:
        Unsupported: the command line is longer than ECI takes.
        NotFound: the container does not run.
    """
    if len(command) > MOST_WORDS or max(map(len, command), default=0) > LONGEST_WORD:
        why = f"ECI takes commands of at most {MOST_WORDS} words of {LONGEST_WORD} characters"
        raise Unsupported(why, fields=("exec",))
    asked = {
        "ContainerGroupId": group_id,
        "ContainerName": container,
        "Command": msgspec.json.encode(list(command)).decode(),
        "TTY": tty,
        "Stdin": stdin,
    }
    try:
        answer = await client.call("ExecContainerCommand", asked, ExecAnswer, safe=False)
    except ApiConflict as error:
        raise NotFound(f"container {container} is not running: {error}") from error
    try:
        socket = await client.streams.ws_connect(_trusted(answer.web_socket_uri), max_msg_size=0)
    except (aiohttp.ClientError, TimeoutError) as error:
        # Neither the error's text nor its cause is shown: both hold the address, which is a key while it lasts.
        raise Retry(f"ECI's command stream cannot be opened: {type(error).__name__}") from None
    return Command(socket)


def _trusted(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme == "wss" or (parts.scheme == "ws" and parts.hostname in LOOPBACK):
        return uri
    raise Misconfigured(
        f"ECI's command stream at {parts.hostname or 'no host'} is not encrypted; it is not used"
    )


class Command:
    """A command that runs in a container."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._end: _End | None = None

    async def write(self, data: bytes) -> None:
        """Write to stdin."""
        await self._send(STDIN, data)

    async def close_stdin(self) -> None:
        """End stdin."""
        await self._send(CLOSE, bytes([STDIN]))

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """What it writes, until it ends."""
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                yield STDOUT, message.data.encode()
            elif message.type is aiohttp.WSMsgType.BINARY and message.data:
                channel, data = message.data[0], message.data[1:]
                if channel in (STDOUT, STDERR) and data:
                    yield channel, data
                elif channel == STATUS:
                    self._end = _read_end(data)
                    return

    async def resize(self, *, width: int, height: int) -> None:
        """Set the terminal's size."""
        await self._send(RESIZE, msgspec.json.encode({"Width": width, "Height": height}))

    async def wait(self) -> int:
        """The exit code.

        Raises:
            Retry: the stream ended without one.
        """
        if self._end is None:
            raise Retry("ECI's command stream ended without an exit code")
        return self._end.code()

    async def close(self) -> None:
        """Let go."""
        await self._socket.close()

    async def _send(self, channel: int, data: bytes) -> None:
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):  # the command has ended
            await self._socket.send_bytes(bytes([channel]) + data)


def _read_end(data: bytes) -> _End:
    text = data.decode(errors="replace")
    try:
        return msgspec.json.decode(text, type=_End)
    except msgspec.MsgspecError:
        return _End(message=text[:200])


async def connect(address: str, port: int) -> "Connection":
    """A connection to a port of a pod, over its own address.

    Raises:
        NotFound: nothing listens there.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError) as error:
        raise NotFound(f"nothing answers at {address}:{port}: {str(error) or 'no answer'}") from error
    return Connection(reader, writer)


class Connection:
    """A port of a pod, seen as a process with one stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        """Send."""
        self._writer.write(data)
        await self._writer.drain()

    async def close_stdin(self) -> None:
        """Send no more."""
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """What comes back."""
        while piece := await self._reader.read(PIECE):
            yield STDOUT, piece

    async def resize(self, *, width: int, height: int) -> None:
        """A port has no terminal."""

    async def wait(self) -> int:
        """A connection has no exit code but 0."""
        return 0

    async def close(self) -> None:
        """Let go."""
        await let_go(self._writer)
