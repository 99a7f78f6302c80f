"""Numbered channels over one WebSocket: the protocols `channel.k8s.io` and its kin.

In: messages that begin with a channel's number. Out: inboxes; and the other way round. Invariant: one
place knows the two spellings, binary and base64.
Source: k8s.io/streaming/pkg/httpstream/wsstream (conn.go)
"""

import base64
import binascii

from overspill.errors import Rejected
from overspill.serve.streams.inbox import Inbox, Pool
from overspill.serve.streams.websocket import CloseReason, Piece, WebSocket
from overspill.serve.streams.wire import PIECE, Wire

__all__ = ["V5", "Channels"]

V5 = "v5.channel.k8s.io"
CLOSE_SIGNAL = 255
ZERO = ord("0")


class Channels:
    """Channels of one connection; `readable` are those whose data anybody wants."""

    def __init__(self, wire: Wire, *, protocol: str, readable: frozenset[int]) -> None:
        self._wire = wire
        self._socket = WebSocket(wire.push)
        self._base64 = "base64" in protocol
        self._closes = protocol == V5
        self._pool = Pool()
        self.inboxes = {number: Inbox(self._pool) for number in readable}
        self._current = 0  # the channel of the message that is being read
        self._signal = b""  # … and what came of it, if it is to close a channel
        self._rest = b""  # characters that are not a whole group of base64 yet

    async def receive(self, data: bytes) -> bool:
        """Take in bytes of the wire; False when the client has closed.

        Raises:
            Rejected: what came cannot be understood.
        """
        for piece in self._socket.feed(data):
            await self._take(piece)
        return not self._socket.closed

    async def write(self, channel: int, data: bytes) -> None:
        """Send data, waiting while the client is slow."""
        for at in range(0, len(data), PIECE):
            await self._wire.send(self._message(channel, data[at : at + PIECE]))

    def send_now(self, channel: int, data: bytes) -> None:
        """Send a little, without waiting. An empty message tells some clients that we are there."""
        self._wire.push(self._message(channel, data))

    def close(self, reason: str = "") -> None:
        """Close the WebSocket; `reason` is "" if all is well."""
        self._socket.close(CloseReason.GOING_AWAY if reason else CloseReason.NORMAL_CLOSURE, reason)

    def _message(self, channel: int, data: bytes) -> bytes:
        if self._base64:
            return self._socket.message(chr(ZERO + channel) + base64.b64encode(data).decode())
        return self._socket.message(bytes([channel]) + data)

    async def _take(self, piece: Piece) -> None:
        data = piece.data
        if piece.first:
            if not data:
                return
            self._current = data[0] - ZERO if self._base64 else data[0]
            self._signal = self._rest = b""
            data = data[1:]
        if self._closes and self._current == CLOSE_SIGNAL:
            self._close_channel(data, last=piece.last)
            return
        inbox = self.inboxes.get(self._current)
        if inbox is not None:
            inbox.put(self._decode(data, last=piece.last) if self._base64 else data)
            while inbox.full:
                await self._pool.changed()

    def _decode(self, data: bytes, *, last: bool) -> bytes:
        text = self._rest + data
        whole = len(text) if last else len(text) // 4 * 4
        self._rest = text[whole:]
        try:
            return base64.b64decode(text[:whole], validate=True)
        except binascii.Error as error:
            raise Rejected(f"channel {self._current}: no base64: {error}") from error

    def _close_channel(self, data: bytes, *, last: bool) -> None:
        self._signal += data
        if len(self._signal) > 1 or (last and not self._signal):
            raise Rejected("a single channel byte should follow the stream close signal")
        if last and self._signal[0] in self.inboxes:
            self.inboxes[self._signal[0]].end()
