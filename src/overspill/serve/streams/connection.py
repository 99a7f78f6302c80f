"""One SPDY connection, the server's side.

In: bytes of the wire. Out: streams that the client begins, each with an inbox and a way to answer.
Invariants: a stream is answered before any of its data is sent; memory is bounded by the inboxes; a
broken frame raises and ends this connection alone.

SPDY's windows are not used: the clients' library neither sends WINDOW_UPDATE nor heeds it, so that
"wait" can only be said by not reading the connection. See moby/spdystream, which all of them use.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from overspill.serve.streams.inbox import Inbox, Pool
from overspill.serve.streams.spdy import (
    CANCEL,
    FIN,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    UNIDIRECTIONAL,
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Ping,
    RstStream,
    SynReply,
    SynStream,
    data_head,
)
from overspill.serve.streams.wire import PIECE

__all__ = ["Connection", "Sink", "Stream"]

log = structlog.get_logger(__name__)

MOST_STREAMS = 4096


class Sink(Protocol):
    """Where frames go: a wire, or a tunnel through one."""

    def push(self, data: bytes) -> None:
        """Send at once."""

    async def send(self, data: bytes) -> None:
        """Send in turn, waiting while the client is slow."""


class Stream:
    """One stream that the client has begun."""

    __slots__ = ("_connection", "headers", "id", "inbox", "writable")

    def __init__(self, connection: "Connection", frame: SynStream, pool: Pool) -> None:
        self._connection = connection
        self.id = frame.stream
        self.headers: Mapping[str, str] = frame.headers
        self.inbox = Inbox(pool)
        self.writable = not frame.flags & UNIDIRECTIONAL
        if frame.flags & FIN:
            self.inbox.end()

    async def write(self, data: bytes) -> None:
        """Send data, waiting while the client is slow; dropped once either side has ended the stream."""
        view = memoryview(data)
        for at in range(0, len(data), PIECE):
            if not self.writable:
                return
            piece = view[at : at + PIECE]
            await self._connection.sink.send(b"".join((data_head(self.id, len(piece)), piece)))

    def send_now(self, data: bytes) -> None:
        """Send a little, without waiting: last words."""
        if self.writable:
            self._connection.sink.push(data_head(self.id, len(data)) + data)

    def finish(self) -> None:
        """End our direction: nothing follows."""
        if self.writable:
            self._connection.sink.push(data_head(self.id, 0, fin=True))
            self.writable = False
            self._connection.settle(self)

    def reset(self, status: int = CANCEL) -> None:
        """End both directions at once."""
        self._connection.push(RstStream(self.id, status))
        self.drop()

    def drop(self) -> None:
        """Both directions have ended."""
        self.writable = False
        self.inbox.end(reset=True)
        self._connection.settle(self)


class Connection:
    """Streams over one connection.

    `accept` decides about a stream that the client begins: it returns "" or why not. `patience` is
    how long, in seconds, a stream whose taker takes nothing may hold up the others before it is reset;
    None: for ever, as is right where the streams belong together.
    """

    def __init__(self, sink: Sink, *, accept: Callable[[Stream], str], patience: float | None = None) -> None:
        self.sink = sink
        self._accept = accept
        self._patience = patience
        self._pool = Pool()
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._streams: dict[int, Stream] = {}
        self._last = 0

    async def receive(self, data: bytes) -> bool:
        """Take in bytes; False when the client goes away.

        Raises:
            Malformed: what came is no SPDY.
        """
        for frame in self._decoder.feed(data):
            if isinstance(frame, Data):
                await self._data(frame)
            elif isinstance(frame, GoAway):
                return False
            else:
                self._control(frame)
        return True

    def push(self, frame: Frame) -> None:
        """Send a control frame at once, whole: the clients' reader minds its being cut."""
        self.sink.push(self._encoder.encode(frame))

    def settle(self, stream: Stream) -> None:
        """Forget a stream that has ended in both directions."""
        if stream.inbox.ended and not stream.writable:
            self._streams.pop(stream.id, None)

    def abandon(self) -> None:
        """Reset what is open and say goodbye."""
        for stream in list(self._streams.values()):
            stream.reset()
        self.push(GoAway(self._last))

    async def _data(self, frame: Data) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            return
        inbox = stream.inbox
        inbox.put(frame.payload)
        if frame.fin:
            inbox.end()
            self.settle(stream)
        while inbox.full:
            await self._room(stream)

    async def _room(self, stream: Stream) -> None:
        """Wait for something to be taken; a stream that keeps others waiting for too long is reset."""
        held = stream.inbox.held
        try:
            async with asyncio.timeout(self._patience):
                await self._pool.changed()
        except TimeoutError:
            if stream.inbox.held == held and self._others_wait(stream):
                log.warning(
                    "stream reset: nobody takes its data and others wait", stream=stream.id, held=held
                )
                stream.reset()

    def _others_wait(self, stream: Stream) -> bool:
        """Whether more is to come for another; of the two of a forwarded port, that for errors is ended at once."""
        return any(other is not stream and not other.inbox.ended for other in self._streams.values())

    def _control(self, frame: Frame) -> None:
        match frame:
            case SynStream():
                self._begin(frame)
            case Ping(id=number) if number % 2:
                self.push(frame)
            case RstStream(stream=number) if number in self._streams:
                self._streams[number].drop()
            case _:
                pass  # SETTINGS, WINDOW_UPDATE, HEADERS, replies to nothing: nobody heeds them

    def _begin(self, frame: SynStream) -> None:
        if frame.stream <= self._last or not frame.stream % 2:
            self.push(RstStream(frame.stream, PROTOCOL_ERROR))
            return
        self._last = frame.stream
        stream = Stream(self, frame, self._pool)
        refused = "too many streams" if len(self._streams) >= MOST_STREAMS else self._accept(stream)
        if refused:
            log.debug("stream refused", stream=frame.stream, reason=refused)
            self.push(RstStream(frame.stream, REFUSED_STREAM))
            return
        self._streams[stream.id] = stream
        self.push(SynReply(stream.id))
        self.settle(stream)
