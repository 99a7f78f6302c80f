"""SPDY/3.1 frames to bytes and back.

In: bytes in pieces of any size. Out: frames, or `Malformed`; and the other way round. Invariants: no
I/O; what is held between two pieces is at most one control frame; a data frame is handed on in the
pieces in which it arrives, whatever length it claims. One `Decoder` and one `Encoder` per connection,
because header blocks of one direction are a single zlib stream.
Source: https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from overspill.errors import Rejected
from overspill.serve.streams.dictionary import DICTIONARY

__all__ = [
    "CANCEL",
    "FIN",
    "PROTOCOL_ERROR",
    "REFUSED_STREAM",
    "Data",
    "Decoder",
    "Encoder",
    "Frame",
    "GoAway",
    "Headers",
    "Malformed",
    "Ping",
    "RstStream",
    "Settings",
    "SynReply",
    "SynStream",
    "WindowUpdate",
    "data_head",
]

VERSION = 3
FIN = 0x01
UNIDIRECTIONAL = 0x02
# Reasons of RST_STREAM.
PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 1, 3, 5

CONTROL = 0x80000000
ID_BITS = 0x7FFFFFFF
HEAD = struct.Struct(">II")
WORD = struct.Struct(">I")
PAIR = struct.Struct(">II")
SYN = struct.Struct(">IIBB")
# Kubernetes sends a handful of short headers; these leave room and bound what a client can make us hold.
LONGEST_CONTROL = 16 << 10
LONGEST_HEADERS = 64 << 10
MOST_HEADERS = 64


class Malformed(Rejected):
    """The bytes are no SPDY/3.1, or exceed what is taken: the connection cannot go on."""


class Data(Struct, frozen=True):
    """Bytes of a stream; `fin` stands at the last piece only."""

    stream: int
    payload: bytes
    fin: bool = False


class SynStream(Struct, frozen=True):
    """A stream begins. Header names are lower case, several values of one name are joined by NUL."""

    stream: int
    headers: Mapping[str, str] = {}
    associated: int = 0
    priority: int = 0
    slot: int = 0
    flags: int = 0


class SynReply(Struct, frozen=True):
    """A stream is accepted."""

    stream: int
    headers: Mapping[str, str] = {}
    flags: int = 0


class Headers(Struct, frozen=True):
    """More headers of a stream."""

    stream: int
    headers: Mapping[str, str] = {}
    flags: int = 0


class RstStream(Struct, frozen=True):
    """Both directions of a stream end at once."""

    stream: int
    status: int


class Settings(Struct, frozen=True):
    """(id, flags, value) each; Kubernetes' clients and servers ignore them."""

    entries: Sequence[tuple[int, int, int]] = ()


class Ping(Struct, frozen=True):
    """To be sent back as it is; odd ids are the client's."""

    id: int


class GoAway(Struct, frozen=True):
    """The other side begins no more streams and takes none above `last_stream`."""

    last_stream: int
    status: int = 0


class WindowUpdate(Struct, frozen=True):
    """Room for more; Kubernetes' clients and servers neither send nor heed it."""

    stream: int
    delta: int


Frame = Data | SynStream | SynReply | Headers | RstStream | Settings | Ping | GoAway | WindowUpdate


class Decoder:
    """Bytes of one direction to frames."""

    def __init__(self) -> None:
        self._held = b""
        self._stream = 0
        self._left = 0  # bytes of the current data frame that have not come yet
        self._fin = False
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with `chunk`; to be exhausted before the next call.

        Raises:
            Malformed: and nothing more can be had from this decoder.
        """
        data = self._held + chunk if self._held else chunk
        self._held = b""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                yield Data(self._stream, piece, self._fin and not self._left)
                continue
            if end - at < HEAD.size:
                break
            first, second = HEAD.unpack_from(data, at)
            if first & CONTROL:
                length = self._control_length(second)
                if end - at < HEAD.size + length:
                    break
                at += HEAD.size
                yield self._control(first, second >> 24, data[at : at + length])
                at += length
            else:
                at += HEAD.size
                yield from self._begin_data(first, second)
        self._held = data[at:]

    def _begin_data(self, stream: int, word: int) -> Iterator[Frame]:
        if not stream:
            raise Malformed("a data frame of stream 0")
        self._stream, self._left, self._fin = stream, word & 0xFFFFFF, bool(word >> 24 & FIN)
        if not self._left:
            yield Data(stream, b"", self._fin)

    def _control_length(self, word: int) -> int:
        length = word & 0xFFFFFF
        if length > LONGEST_CONTROL:
            raise Malformed(
                f"a control frame of {length} bytes, more than the {LONGEST_CONTROL} that are taken"
            )
        return length

    def _control(self, first: int, flags: int, body: bytes) -> Frame:
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise Malformed(f"SPDY version {version}, only {VERSION} is spoken")
        read = READERS.get(kind)
        if read is None:
            raise Malformed(f"a control frame of the unknown type {kind}")
        try:
            return read(flags, body, self._headers)
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise Malformed(f"a broken control frame of type {kind}: {error}") from error

    def _headers(self, block: bytes) -> dict[str, str]:
        """Read one header block; duplicates and capitals are errors as in the draft (2.6.10)."""
        text = self._inflate.decompress(block, LONGEST_HEADERS)
        if self._inflate.unconsumed_tail or self._inflate.eof:
            raise Malformed(
                f"a header block of more than {LONGEST_HEADERS} bytes, or one that ends the stream"
            )
        (count,) = WORD.unpack_from(text)
        if count > MOST_HEADERS:
            raise Malformed(f"{count} headers, more than the {MOST_HEADERS} that are taken")
        headers: dict[str, str] = {}
        at = WORD.size
        for _ in range(count):
            name, at = _string(text, at)
            value, at = _string(text, at)
            if not name or name != name.lower() or name in headers:
                raise Malformed(f"the header name {name!r} is empty, repeated or not lower case")
            headers[name] = value
        if at != len(text):
            raise Malformed("a header block that goes on after its last header")
        return headers


ReadBlock = Callable[[bytes], dict[str, str]]


def _read_syn_stream(flags: int, body: bytes, block: ReadBlock) -> Frame:
    stream, associated, priority, slot = SYN.unpack_from(body)
    return SynStream(
        _stream_id(stream),
        block(body[SYN.size :]),
        associated & ID_BITS,
        priority >> 5,
        slot,
        flags & (FIN | UNIDIRECTIONAL),
    )


def _read_syn_reply(flags: int, body: bytes, block: ReadBlock) -> Frame:
    (stream,) = WORD.unpack_from(body)
    return SynReply(_stream_id(stream), block(body[WORD.size :]), flags & FIN)


def _read_more_headers(flags: int, body: bytes, block: ReadBlock) -> Frame:
    (stream,) = WORD.unpack_from(body)
    return Headers(_stream_id(stream), block(body[WORD.size :]), flags & FIN)


def _read_rst_stream(_flags: int, body: bytes, _block: ReadBlock) -> Frame:
    stream, status = PAIR.unpack(body)
    if not status:
        raise Malformed("a RST_STREAM with status 0")
    return RstStream(_stream_id(stream), status)


def _read_settings(_flags: int, body: bytes, _block: ReadBlock) -> Frame:
    (count,) = WORD.unpack_from(body)
    if len(body) != WORD.size + count * PAIR.size:
        raise Malformed(f"a SETTINGS frame of {len(body)} bytes that claims {count} entries")
    pairs = PAIR.iter_unpack(body[WORD.size :])
    return Settings(tuple((word & 0xFFFFFF, word >> 24, value) for word, value in pairs))


def _read_ping(flags: int, body: bytes, _block: ReadBlock) -> Frame:
    (number,) = WORD.unpack(body)
    if not number or flags:
        raise Malformed(f"a PING with id {number} and flags {flags}")
    return Ping(number)


def _read_go_away(flags: int, body: bytes, _block: ReadBlock) -> Frame:
    last, status = PAIR.unpack(body)
    if flags:
        raise Malformed(f"a GOAWAY with flags {flags}")
    return GoAway(last & ID_BITS, status)


def _read_window_update(flags: int, body: bytes, _block: ReadBlock) -> Frame:
    stream, delta = PAIR.unpack(body)
    if flags:
        raise Malformed(f"a WINDOW_UPDATE with flags {flags}")
    return WindowUpdate(stream & ID_BITS, delta & ID_BITS)


READERS: Mapping[int, Callable[[int, bytes, ReadBlock], Frame]] = {
    1: _read_syn_stream,
    2: _read_syn_reply,
    3: _read_rst_stream,
    4: _read_settings,
    6: _read_ping,
    7: _read_go_away,
    8: _read_more_headers,
    9: _read_window_update,
}


def _stream_id(word: int) -> int:
    stream = word & ID_BITS
    if not stream:
        raise Malformed("a control frame of stream 0")
    return stream


def _string(text: bytes, at: int) -> tuple[str, int]:
    (length,) = WORD.unpack_from(text, at)
    at += WORD.size
    if at + length > len(text):
        raise Malformed(f"a header of {length} bytes where {len(text) - at} are left")
    return text[at : at + length].decode(), at + length


class Encoder:
    """Frames to the bytes of one direction."""

    def __init__(self) -> None:
        # Our replies have no headers worth a window: zlib's smallest, 10 KiB a connection in place of 260.
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, 9, 1, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)

    def encode(self, frame: Frame) -> bytes:
        """The bytes of one frame. Frames with headers must go out in the order in which they were encoded."""
        if isinstance(frame, Data):
            return data_head(frame.stream, len(frame.payload), fin=frame.fin) + frame.payload
        kind, flags, body = self._parts(frame)
        return HEAD.pack(CONTROL | VERSION << 16 | kind, flags << 24 | len(body)) + body

    def _parts(self, frame: Frame) -> tuple[int, int, bytes]:
        """A control frame's type, flags and body."""
        match frame:
            case SynStream():
                head = SYN.pack(frame.stream, frame.associated, frame.priority << 5, frame.slot)
                return 1, frame.flags, head + self._block(frame.headers)
            case SynReply():
                return 2, frame.flags, WORD.pack(frame.stream) + self._block(frame.headers)
            case Headers():
                return 8, frame.flags, WORD.pack(frame.stream) + self._block(frame.headers)
            case Settings():
                pairs = (PAIR.pack(flags << 24 | number, value) for number, flags, value in frame.entries)
                return 4, 0, WORD.pack(len(frame.entries)) + b"".join(pairs)
        return _plain_parts(frame)

    def _block(self, headers: Mapping[str, str]) -> bytes:
        parts = [WORD.pack(len(headers))]
        for text in (text for item in headers.items() for text in item):
            raw = text.encode()
            parts += [WORD.pack(len(raw)), raw]
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _plain_parts(frame: Frame) -> tuple[int, int, bytes]:
    match frame:
        case RstStream():
            return 3, 0, PAIR.pack(frame.stream, frame.status)
        case Ping():
            return 6, 0, WORD.pack(frame.id)
        case GoAway():
            return 7, 0, PAIR.pack(frame.last_stream, frame.status)
        case WindowUpdate():
            return 9, 0, PAIR.pack(frame.stream, frame.delta)
    raise TypeError(frame)


def data_head(stream: int, length: int, *, fin: bool = False) -> bytes:
    """What stands before the bytes of a data frame."""
    return HEAD.pack(stream, (FIN if fin else 0) << 24 | length)
