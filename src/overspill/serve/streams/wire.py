"""One upgraded connection: bytes both ways, bounded in memory and in time.

In: the connection's reader and writer. Out: the same, with an idle limit, with writers that wait for
a slow client, and with an end that loses nothing. Invariant: at most `PUSHED_BOUND` bytes and one
piece wait to be sent, whoever writes.
"""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from overspill.backends.connections import let_go
from overspill.errors import Rejected

__all__ = ["PIECE", "Conversation", "Wire", "converse"]

log = structlog.get_logger(__name__)

PIECE = 64 << 10  # bytes in one frame or message that we send
CHUNK = 256 << 10  # bytes read at once
PUSHED_BOUND = 1 << 20  # of answers to a client that asks without reading
LINGER = 60.0  # seconds that a client has to leave after everything was sent
STOPPING = "the node's agent is stopping"


class Wire:
    """Bytes of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, idle: float) -> None:
        self._reader = reader
        self._writer = writer
        self._limit = idle
        self._loop = asyncio.get_running_loop()
        self._active = self._loop.time()
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._end = asyncio.timeout(None)
        self._lingers = False

    async def each(self, receive: Callable[[bytes], Awaitable[bool]]) -> str:
        """Hand on what comes until `receive` says no or the client is gone.

        Returns: why *we* ended it, or "".
        """
        try:
            async with self._end:
                self._watch()
                while (data := await self._read()) and await receive(data):
                    await self._settle()
        except TimeoutError:
            return f"nothing was sent or received for {self._limit:g} seconds"
        finally:
            if self._timer:
                self._timer.cancel()
            self._timer = None
        return ""

    def push(self, data: bytes) -> None:
        """Send at once: answers, and what ends a stream."""
        if not self._writer.is_closing():
            self._writer.write(data)
            self._touch()

    async def send(self, data: bytes) -> None:
        """Send in turn, and wait while the client is slow."""
        async with self._turn:
            self.push(data)
            await self._drain()

    def linger(self) -> None:
        """From now on wait for no more than the client's leaving: `LINGER` after it has got everything."""
        self._lingers = True
        self._limit = LINGER
        self._active = self._loop.time()
        if self._timer:  # else the client has left already
            self._timer.cancel()
            self._watch()

    async def close(self) -> None:
        """Close, and forget what cannot be sent in a few seconds."""
        await let_go(self._writer)

    async def _read(self) -> bytes:
        try:
            data = await self._reader.read(CHUNK)
        except OSError:
            return b""
        self._touch()
        return data

    def _touch(self) -> None:
        if not self._lingers:
            self._active = self._loop.time()

    async def _settle(self) -> None:
        """Do not read on while a client asks for answers that it does not read."""
        if self._writer.transport.get_write_buffer_size() > PUSHED_BOUND:
            await self._drain()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError:
            return  # the reading side sees the end, too

    def _watch(self) -> None:
        if self._lingers and self._unsent():
            self._active = self._loop.time()
        left = self._active + self._limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        else:
            self._end.reschedule(self._loop.time())

    def _unsent(self) -> int:
        """Bytes that the client's side has not acknowledged; closing would put them at risk."""
        waiting = self._writer.transport.get_write_buffer_size()
        connection = self._writer.get_extra_info("socket")
        try:
            answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (AttributeError, OSError, ValueError):
            return waiting  # not a socket, or closed
        queued: int = struct.unpack("i", answer)[0]
        return waiting + queued


class Conversation(Protocol):
    """A protocol spoken over a wire."""

    wire: Wire

    async def receive(self, data: bytes) -> bool:
        """Take in bytes; False when the client has said goodbye. Waits while there is no room for more."""

    def conclude(self) -> None:
        """Tell the client that all has been said."""

    def abandon(self, reason: str) -> None:
        """Let go of everything; tell a client that is still there why (`reason` is "" if it has left)."""


async def converse(conversation: Conversation, work: Callable[[], Awaitable[None]], *, about: str) -> None:
    """Let `work` use a conversation for as long as the client is there, then close the connection.

    The client that leaves cancels the work. When the work is done, the client has a while to leave: a
    connection that is closed under unread bytes can lose the end of what was sent.
    """
    reason = STOPPING
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_work(conversation, work))
            reason = await _listen(conversation, about)
            task.cancel()
    finally:
        conversation.abandon(reason)
        await conversation.wire.close()


async def _work(conversation: Conversation, work: Callable[[], Awaitable[None]]) -> None:
    await work()
    conversation.conclude()
    conversation.wire.linger()


async def _listen(conversation: Conversation, about: str) -> str:
    try:
        return await conversation.wire.each(conversation.receive)
    except Rejected as error:
        log.warning("connection ended because of what the client sent", path=about, error=str(error))
        return str(error)
