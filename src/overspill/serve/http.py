"""HTTP/1.1 heads read and answers written, on asyncio's streams.

In: a connection. Out: `Request`s; the bytes of `Answer`s. Invariant: what follows a head stays in the
reader, untouched, so that a connection can be handed on to SPDY or WebSocket; a request that could be
read in two ways is refused.
Sources: RFC 9112; the limits are those of the kubelet (pkg/kubelet/server/server.go).
"""

import re
import time
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

from msgspec import Struct

from overspill.errors import Rejected
from overspill.serve.request import Request

__all__ = [
    "JSON",
    "LAST_CHUNK",
    "PLAIN",
    "Answer",
    "Refused",
    "Reply",
    "Streamed",
    "Upgraded",
    "answer_bytes",
    "chunk",
    "discard_body",
    "keeps_alive",
    "parse_head",
    "read_body",
    "read_head",
    "streamed_head",
]

PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"
HEAD_LIMIT = 1 << 20
# No fewer than the words of a command that fit into a head; many more would take seconds to read, of anybody.
FIELD_LIMIT = HEAD_LIMIT // len("&command=")
# A body that no route has a use for is read past, if it is small, so that the connection can be used again.
BODY_LIMIT = 1 << 16
LAST_CHUNK = b"0\r\n\r\n"
DATE = "%a, %d %b %Y %H:%M:%S GMT"  # names of days are English, for nobody here sets a locale

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])")
# No two parts of it may match the same blanks: anybody could have them tried in all ways.
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")
ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class Answer(Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes = b""
    content_type: str = PLAIN
    headers: Mapping[str, str] = {}


class Streamed(Struct, frozen=True):
    """An answer of unknown length, each piece of which is sent at once."""

    pieces: AsyncIterator[bytes]
    content_type: str = PLAIN


class Upgraded(Struct, frozen=True):
    """From here on the connection speaks something else, which answers for itself; it is closed afterwards."""

    run: Callable[[Any, Any], Awaitable[None]]


Reply = Answer | Streamed | Upgraded


class Refused(Rejected):
    """An answer other than 200, as an error: the status, and the text that the client sees."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    def answer(self) -> Answer:
        """It as an answer."""
        return Answer(self.status, str(self).encode())


async def read_head(reader: StreamReader) -> bytes | None:
    """The next head, with its empty line; None when the client has closed the connection.

    Raises:
        Refused: it is longer than 1 MiB.
    """
    head = b""
    while True:
        try:
            return head + await reader.readuntil(b"\r\n\r\n")
        except LimitOverrunError as error:  # of the reader's buffer, which is smaller than a head may be
            head += await reader.readexactly(error.consumed)
            if len(head) > HEAD_LIMIT:
                raise Refused(431, f"the head is longer than {HEAD_LIMIT} bytes") from None
        except IncompleteReadError as error:
            if head or error.partial.strip():
                raise Refused(400, "the head ends early") from None
            return None


def parse_head(head: bytes) -> tuple[Request, bool]:
    """The request, and whether it is of HTTP/1.1.

    Raises:
        Refused: it is malformed.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").lstrip(b"\r\n").split(b"\r\n")
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Refused(400, "malformed request line")
    method, target, minor = (part.decode("ascii") for part in line.groups())
    # Not urlsplit: it remembers what anybody has sent.
    path, _, query_text = ABSOLUTE.sub("", target, count=1).partition("#")[0].partition("?")
    try:
        query = parse_qs(query_text, keep_blank_values=True, max_num_fields=FIELD_LIMIT)
    except ValueError as error:
        raise Refused(400, "malformed request target") from error
    path = unquote(path)
    if not path.startswith("/") or path.startswith("//") or "\0" in path:
        raise Refused(400, "malformed request target")
    request = Request(method=method, path=path, query=query, headers=_headers(lines))
    return request, minor == "1"


def _headers(lines: list[bytes]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for line in lines:
        found = HEADER.fullmatch(line)
        if found is None:
            raise Refused(400, "malformed header")
        name, value = found[1].decode("ascii").lower(), found[2].decode("latin-1").strip(" \t")
        headers.setdefault(name, []).append(value)
    return headers


async def discard_body(request: Request, reader: StreamReader) -> None:
    """Read past the body of a request that needs none.

    Raises:
        Refused: it is long, of unknown length, or stands before an upgrade.
    """
    length = _length(request)
    if length and upgrade_wanted(request):
        raise Refused(400, "an upgrade request has no body")
    await _body(reader, length, limit=BODY_LIMIT)


async def read_body(request: Request, reader: StreamReader, *, limit: int) -> bytes:
    """The body, of at most `limit` bytes.

    Raises:
        Refused: it is longer, or of unknown length.
    """
    return await _body(reader, _length(request), limit=limit)


def _length(request: Request) -> int:
    lengths = request.headers.get("content-length", ["0"])
    if "transfer-encoding" in request.headers:
        raise Refused(411, "a body needs a Content-Length")
    if len(set(lengths)) > 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
        raise Refused(400, "malformed Content-Length")
    return int(lengths[0])


async def _body(reader: StreamReader, length: int, *, limit: int) -> bytes:
    if length > limit:
        raise Refused(413, f"the body is longer than {limit} bytes")
    return await reader.readexactly(length)


def upgrade_wanted(request: Request) -> bool:
    """Whether the client asks to speak another protocol."""
    return "upgrade" in _words(request.header("connection"))


def keeps_alive(request: Request, *, modern: bool) -> bool:
    """Whether the client may send another request over the connection; `modern`: it speaks HTTP/1.1."""
    words = _words(request.header("connection"))
    return "close" not in words and (modern or "keep-alive" in words)


def _words(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(",")}


def answer_bytes(answer: Answer, *, keep_alive: bool) -> bytes:
    """A whole answer on the wire."""
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}
    return _head(answer.status, answer.content_type, headers, keep_alive=keep_alive) + answer.body


def streamed_head(content_type: str, *, chunked: bool, keep_alive: bool) -> bytes:
    """The head of an answer in chunks; without them, for HTTP/1.0, it ends with the connection."""
    headers = {"Transfer-Encoding": "chunked"} if chunked else {}
    return _head(200, content_type, headers, keep_alive=keep_alive and chunked)


def chunk(piece: bytes) -> bytes:
    """One chunk; an empty piece is none, because it would end the answer."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def _head(status: int, content_type: str, headers: Mapping[str, str], *, keep_alive: bool) -> bytes:
    lines = {
        "Content-Type": content_type,
        "Date": time.strftime(DATE, time.gmtime()),
        "X-Content-Type-Options": "nosniff",
        **headers,
        **({} if keep_alive else {"Connection": "close"}),
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{text}\r\n".encode("latin-1")
