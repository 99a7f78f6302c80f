"""WebSocket messages, in the parts in which they arrive.

In: bytes of the wire. Out: pieces of messages; pings answered, a close noted. Invariant: a message is
never held as a whole. Text and binary are the same to us, as they are to the kubelet's library.
Source: RFC 6455
"""

from collections.abc import Callable, Iterator

from msgspec import Struct
from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed

from overspill.errors import Rejected

__all__ = ["CloseReason", "Piece", "WebSocket"]


class Piece(Struct, frozen=True):
    """Part of a message; an empty message is one empty piece."""

    data: bytes
    first: bool
    last: bool


class WebSocket:
    """The server's side of one WebSocket after its handshake; `push` sends at once."""

    def __init__(self, push: Callable[[bytes], None]) -> None:
        self._push = push
        self._frames = FrameProtocol(client=False, extensions=[])
        self._within = False
        self._said_goodbye = False
        self.closed = False  # by the client

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield what came with `data`.

        Raises:
            Rejected: it is no WebSocket; the client has been told.
        """
        self._frames.receive_bytes(data)
        try:
            for frame in self._frames.received_frames():
                if frame.opcode.iscontrol():
                    self._answer(frame)
                else:
                    yield self._piece(frame)
        except ParseFailed as error:
            self.close(error.code, str(error))
            raise Rejected(f"no WebSocket frame: {error}") from error

    def message(self, data: bytes | str) -> bytes:
        """The bytes of one message, binary or text."""
        return bytes(self._frames.send_data(data, fin=True))

    def close(self, code: CloseReason = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Say goodbye, once."""
        if not self._said_goodbye:
            self._said_goodbye = True
            self._push(bytes(self._frames.close(code, reason)))

    def _piece(self, frame: Frame) -> Piece:
        first = not self._within
        self._within = not frame.message_finished
        payload = frame.payload
        data = payload.encode() if isinstance(payload, str) else payload
        assert isinstance(data, bytes | bytearray)
        return Piece(bytes(data), first, frame.message_finished)

    def _answer(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            assert isinstance(frame.payload, bytes | bytearray)
            self._push(bytes(self._frames.pong(bytes(frame.payload))))
        elif frame.opcode is Opcode.CLOSE:
            self.closed = True
            self.close()
