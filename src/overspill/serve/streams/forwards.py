"""Forwarded connections, whatever carries them.

`Forwards` is what `portforward` works on; `SpdyForwards` is its SPDY form: a pair of an error and a
data stream each. Source: k8s.io/cri-streaming/pkg/streaming/portforward (httpstream.go)
"""

import asyncio
from typing import Protocol

from overspill.serve.streams.connection import Connection, Sink, Stream
from overspill.serve.streams.inbox import Inbox
from overspill.serve.streams.wire import Conversation, Wire

__all__ = ["Forward", "Forwards", "SpdyForwards", "port_number"]

PATIENCE = 30.0  # seconds that a pod which reads nothing from one connection may hold up the others


class Forward(Protocol):
    """One connection to one port."""

    port: int
    inbox: Inbox

    async def write(self, data: bytes) -> None:
        """Send what the pod said, waiting while the client is slow."""

    async def finish(self, error: str) -> None:
        """The pod's side has closed, or failed with `error`."""


class Forwards(Conversation, Protocol):
    """Connections as the client asks for them."""

    async def next(self) -> Forward | None:
        """The next connection; None when there will be no more."""


def port_number(text: str) -> int:
    """A port from text; 0 if it is none."""
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return port if port <= 0xFFFF else 0


class _Pair:
    """A data stream and the error stream that belongs to it."""

    __slots__ = ("data", "error", "timer")

    def __init__(self) -> None:
        self.data: Stream | None = None
        self.error: Stream | None = None
        self.timer: asyncio.TimerHandle | None = None

    def add(self, stream: Stream) -> bool:
        """Take a stream in; False if there is one of its type."""
        kind = stream.headers["streamtype"]
        if getattr(self, kind) is not None:
            return False
        setattr(self, kind, stream)
        return True


class _SpdyForward:
    """A complete pair."""

    __slots__ = ("_data", "_error", "inbox", "port")

    def __init__(self, data: Stream, error: Stream) -> None:
        self._data = data
        self._error = error
        self.inbox = data.inbox
        self.port = port_number(data.headers["port"])

    async def write(self, data: bytes) -> None:
        await self._data.write(data)

    async def finish(self, error: str) -> None:
        self.inbox.discard()
        if error:
            await self._error.write(error.encode())
            self._data.reset()
            self._error.reset()
        else:
            self._data.finish()
            self._error.finish()


class SpdyForwards:
    """Port-forwarding over SPDY."""

    def __init__(self, wire: Wire, *, sink: Sink | None = None, creation: float) -> None:
        self.wire = wire
        self._connection = Connection(sink or wire, accept=self._accept, patience=PATIENCE)
        self._creation = creation
        self._pairs: dict[str, _Pair] = {}
        self._complete: asyncio.Queue[Forward] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    async def receive(self, data: bytes) -> bool:
        """Take in bytes of the wire."""
        return await self._connection.receive(data)

    async def next(self) -> Forward:
        """The next pair that is complete."""
        return await self._complete.get()

    def conclude(self) -> None:
        """A client that forwards ports is never done on our side."""

    def abandon(self, reason: str) -> None:
        """Let go of pairs that are not complete; reset everything if the client is still there."""
        for pair in self._pairs.values():
            if pair.timer:
                pair.timer.cancel()
        if reason:
            self._connection.abandon()

    def _accept(self, stream: Stream) -> str:
        kind, port = stream.headers.get("streamtype", ""), stream.headers.get("port", "")
        if not port_number(port):
            return f"unable to parse {port!r} as a port"
        if kind not in {"error", "data"}:
            return f"invalid stream type {kind!r}"
        request = _request_id(stream, kind)
        pair = self._pairs.get(request) or self._begin(request)
        if not pair.add(stream):
            return f"{kind} stream already assigned to request {request}"
        if kind == "error":
            stream.inbox.discard()
        if pair.data and pair.error:
            self._forget(request)
            self._complete.put_nowait(_SpdyForward(pair.data, pair.error))
        return ""

    def _begin(self, request: str) -> _Pair:
        pair = self._pairs[request] = _Pair()
        pair.timer = self._loop.call_later(self._creation, self._expire, request)
        return pair

    def _forget(self, request: str) -> _Pair:
        pair = self._pairs.pop(request)
        if pair.timer:
            pair.timer.cancel()
        return pair

    def _expire(self, request: str) -> None:
        pair = self._forget(request)
        if pair.error:
            pair.error.send_now(f"request {request}: timed out waiting for streams".encode())
            pair.error.finish()
        if pair.data:
            pair.data.reset()


def _request_id(stream: Stream, kind: str) -> str:
    """What the two streams of a pair have in common. Old clients begin error and data right after one another."""
    return stream.headers.get("requestid") or str(stream.id if kind == "error" else stream.id - 2)
