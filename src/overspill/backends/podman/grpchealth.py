"""One call of grpc.health.v1.Health/Check: the few frames of HTTP/2 that it takes.

In: a port of a pod and a service's name. Out: an `Outcome`. Invariant: the
answer's message decides; headers and trailers are skipped, so nothing of HPACK
has to be decoded, and an error is told without its code.
Sources: RFC 9113, RFC 7541, https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md,
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
import struct

from overspill.backends.podman.place import Outcome, Place, connected, dial_error, host_port

__all__ = ["check_health"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
LONGEST_FRAME = 1 << 14  # what a peer may send as long as nobody allows it more
LONGEST_ANSWER = 4 << 20  # of a message, as gRPC's clients have it
STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class _Broken(Exception):
    """The server ended the call without a message."""


async def check_health(port: int, service: str, place: Place, seconds: float) -> Outcome:
    """Whether the server says SERVING."""
    target = host_port(place.address, port)
    try:
        async with asyncio.timeout(seconds):
            try:
                made = await connected(place, "", port)
            except OSError as error:
                why = dial_error(target, error)
                return _unhealthy(f'error: failed to connect service at "{target}": {why}')
            reader, writer = await asyncio.open_connection(sock=made)
            try:
                writer.write(PREFACE + _frame(SETTINGS) + _request(target, service))
                message = await _answer(reader, writer)
            finally:
                writer.transport.abort()  # one that reads nothing takes no end either
    except TimeoutError:
        return _unhealthy(f"timeout: health rpc did not complete within {seconds:g}s")
    except (_Broken, OSError, asyncio.IncompleteReadError):
        return _unhealthy("error: health rpc probe failed")
    status = _status(message)
    if status == "SERVING":
        return Outcome(healthy=True, output="service healthy")
    return _unhealthy(f'service unhealthy (responded with "{status}")')


def _unhealthy(output: str) -> Outcome:
    return Outcome(healthy=False, output=output)


def _frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _request(target: str, service: str) -> bytes:
    """Headers as literals, or from HPACK's static table: POST is 3, http is 6, a path's name 4 and so on."""
    headers = b"".join(
        (
            b"\x83\x86\x04",
            _text("/grpc.health.v1.Health/Check"),
            b"\x01",
            _text(target),
            b"\x0f\x10",
            _text("application/grpc"),
            b"\x00",
            _text("te"),
            _text("trailers"),
            b"\x0f\x2b",
            _text("kube-probe/1.37"),
        )
    )
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    body = struct.pack(">BI", 0, len(message)) + message
    return _frame(HEADERS, headers, flags=END_HEADERS, stream=1) + _frame(
        DATA, body, flags=END_STREAM, stream=1
    )


def _text(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The message that comes back on stream 1, without its prefix of five bytes."""
    body = bytearray()
    while True:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if length > LONGEST_FRAME:
            raise _Broken
        payload = await reader.readexactly(length)
        if kind in {SETTINGS, PING} and not flags & ACK:
            writer.write(_frame(kind, payload if kind == PING else b"", flags=ACK))
            await writer.drain()  # else a server that reads nothing would have all its frames kept here
        elif kind == DATA:
            body += payload[1 : len(payload) - payload[0]] if flags & 0x8 and payload else payload
            if len(body) > LONGEST_ANSWER:
                raise _Broken
            if len(body) >= 5 and len(body) >= 5 + int.from_bytes(body[1:5], "big"):
                return bytes(body[5:])
        if kind in {RST_STREAM, GOAWAY} or (kind in {DATA, HEADERS} and flags & END_STREAM):
            raise _Broken


def _status(message: bytes) -> str:
    """Field 1 of HealthCheckResponse, a varint; a message that leaves it out means 0."""
    if message[:1] == b"\x08" and len(message) > 1:
        return STATUSES.get(message[1], str(message[1]))
    return STATUSES[0]
