"""The agreement on a protocol, in the words of Kubernetes' own servers.

In: a request's head and the protocols that are spoken. Out: an `Upgrade` with the 101 answer, or a
`Refusal` with another. Invariant: pure; of the client's protocols the first that is spoken is taken; no
header's value but the protocols' is ever repeated to the client, for there is a token among them.
Source: k8s.io/streaming/pkg/httpstream, golang.org/x/net/websocket, RFC 6455 (4.2)
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from overspill.errors import Rejected
from overspill.serve.request import Request

__all__ = ["Refusal", "Upgrade", "is_websocket", "offered", "refuse", "upgrade"]

SPDY = "SPDY/3.1"
WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
REASONS = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed"}


class Refusal(Rejected):
    """No upgrade: the answer's status and headers; the text is the message."""

    def __init__(self, text: str, *, status: int = 400, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = tuple(headers)


class Upgrade(Struct, frozen=True):
    """What was agreed on; `answer` is the 101 to send."""

    protocol: str
    answer: bytes


def is_websocket(request: Request) -> bool:
    """Whether a WebSocket is asked for."""
    return _asks_for_upgrade(request) and request.header("upgrade").lower() == "websocket"


def upgrade(request: Request, *, spdy: Sequence[str], websocket: Sequence[str]) -> Upgrade:
    """Agree on one of the `spdy` or `websocket` subprotocols, best first; "" is WebSocket without one.

    Raises:
        Refusal: the request asks for neither, or for nothing that is spoken.
    """
    if is_websocket(request):
        return _websocket(request, websocket)
    if not _asks_for_upgrade(request):
        raise Refusal("Upgrade request required")
    if SPDY.lower() not in request.header("upgrade").lower():
        raise Refusal(f"unable to upgrade: neither websocket nor {SPDY} is asked for")
    return _spdy(request, spdy)


def refuse(refusal: Refusal) -> bytes:
    """The answer to a request that was refused."""
    text = f"{refusal}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("X-Content-Type-Options", "nosniff"),
        *refusal.headers,
        ("Content-Length", str(len(text))),
        ("Connection", "close"),
    ]
    return _head(f"{refusal.status} {REASONS[refusal.status]}", headers) + text


def offered(request: Request, header: str) -> list[str]:
    """The protocols of a header that may be repeated and may hold several."""
    return [name for part in request.header(header).split(",") if (name := part.strip())]


def _spdy(request: Request, spoken: Sequence[str]) -> Upgrade:
    asked = offered(request, "x-stream-protocol-version")
    if not asked:
        raise Refusal("unable to upgrade: header X-Stream-Protocol-Version does not exist in request")
    protocol = _first(asked, spoken)
    if protocol is None:
        raise Refusal(
            "unable to upgrade: unable to negotiate protocol: "
            f"client supports {_list(asked)}, server accepts {_list(spoken)}",
            status=403,
            headers=[("X-Accepted-Stream-Protocol-Versions", name) for name in spoken],
        )
    return Upgrade(protocol, _switch(SPDY, {"X-Stream-Protocol-Version": protocol}))


def _websocket(request: Request, spoken: Sequence[str]) -> Upgrade:
    if request.method != "GET":
        raise Refusal("a WebSocket begins with GET", status=405)
    key = request.header("sec-websocket-key")
    if not key:
        raise Refusal("challenge response error: Sec-WebSocket-Key is missing")
    if request.header("sec-websocket-version") != "13":
        raise Refusal("missing or bad WebSocket Version", headers=[("Sec-WebSocket-Version", "13")])
    asked = offered(request, "sec-websocket-protocol")
    protocol = _first(asked or [""], spoken)
    if protocol is None:
        raise Refusal(
            f"requested protocol(s) are not supported: {_list(asked)}; supports {_list(spoken)}", status=403
        )
    # RFC 6455 asks for SHA-1, as a proof of having read the request and no more.
    proof = hashlib.sha1(f"{key}{WEBSOCKET_GUID}".encode(), usedforsecurity=False).digest()
    chosen = {"Sec-WebSocket-Protocol": protocol} if protocol else {}
    accept = {"Sec-WebSocket-Accept": base64.b64encode(proof).decode()}
    return Upgrade(protocol, _switch("websocket", accept | chosen))


def _asks_for_upgrade(request: Request) -> bool:
    return "upgrade" in request.header("connection").lower()


def _first(asked: Iterable[str], spoken: Sequence[str]) -> str | None:
    return next((name for name in asked if name in spoken), None)


def _switch(kind: str, headers: Mapping[str, str]) -> bytes:
    return _head("101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", kind), *headers.items()])


def _head(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = (f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode()


def _list(names: Iterable[str]) -> str:
    """Names as Go prints a list of strings."""
    return f"[{' '.join(names)}]"
