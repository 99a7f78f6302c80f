"""Which requests are upgraded, and to what."""

import pytest

from overspill.serve.request import Request
from overspill.serve.streams.upgrade import Refusal, refuse, upgrade

SPDY = ("v4.channel.k8s.io", "channel.k8s.io")
WEBSOCKET = ("", "v4.channel.k8s.io")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(method="POST", **headers):
    named = {
        name.replace("_", "-"): [value] if isinstance(value, str) else value
        for name, value in headers.items()
    }
    return Request(method, "/exec/ns/web/main", {}, named)


def spdy(**headers):
    return request(**{"connection": "Upgrade", "upgrade": "SPDY/3.1", **headers})


def websocket(method="GET", **headers):
    usual = {
        "connection": "keep-alive, Upgrade",
        "upgrade": "WebSocket",
        "sec_websocket_key": KEY,
        "sec_websocket_version": "13",
    }
    return request(method, **{**usual, **headers})


def answer_to(asked):
    return upgrade(asked, spdy=SPDY, websocket=WEBSOCKET)


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ("v4.channel.k8s.io", "v4.channel.k8s.io"),
        (["v5.channel.k8s.io", "channel.k8s.io", "v4.channel.k8s.io"], "channel.k8s.io"),
        (["v5.channel.k8s.io,v4.channel.k8s.io ,channel.k8s.io"], "v4.channel.k8s.io"),
    ],
)
def test_spdy(offered, taken):
    agreed = answer_to(spdy(x_stream_protocol_version=offered))
    assert agreed.protocol == taken
    assert agreed.answer == (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        b"X-Stream-Protocol-Version: " + taken.encode() + b"\r\n\r\n"
    )


def test_websocket_with_the_rfcs_own_key():
    agreed = answer_to(websocket(sec_websocket_protocol="v9.channel.k8s.io, v4.channel.k8s.io"))
    assert agreed.protocol == "v4.channel.k8s.io"
    lines = agreed.answer.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert "Sec-WebSocket-Protocol: v4.channel.k8s.io" in lines


def test_websocket_without_a_protocol():
    agreed = answer_to(websocket())
    assert agreed.protocol == ""
    assert b"Sec-WebSocket-Protocol" not in agreed.answer


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        (request(), 400, "Upgrade request required"),
        (request(upgrade="SPDY/3.1"), 400, "Upgrade request required"),
        (request(connection="Upgrade", upgrade="h2c"), 400, "neither websocket nor SPDY/3.1"),
        (spdy(), 400, "header X-Stream-Protocol-Version does not exist"),
        (spdy(x_stream_protocol_version=" , "), 400, "header X-Stream-Protocol-Version"),
        (
            spdy(x_stream_protocol_version="a,b"),
            403,
            "client supports [a b], server accepts [v4.channel.k8s.io channel.k8s.io]",
        ),
        (websocket("POST"), 405, "GET"),
        (websocket(sec_websocket_key=[]), 400, "Sec-WebSocket-Key"),
        (websocket(sec_websocket_version="8"), 400, "WebSocket Version"),
        (
            websocket(sec_websocket_protocol="v5.channel.k8s.io"),
            403,
            "requested protocol(s) are not supported: [v5.channel.k8s.io]; supports [ v4.channel.k8s.io]",
        ),
    ],
)
def test_refusals_say_why(asked, status, text):
    with pytest.raises(Refusal) as refused:
        answer_to(asked)
    assert refused.value.status == status
    head, _, body = refuse(refused.value).decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert f"Content-Length: {len(body)}" in head
    assert text in body


def test_a_refusal_repeats_no_token():
    with pytest.raises(Refusal) as refused:
        answer_to(request(connection="Upgrade", upgrade="h2c", authorization="Bearer secret"))
    assert b"secret" not in refuse(refused.value)


def test_accepted_protocols_stand_one_a_line():
    with pytest.raises(Refusal) as refused:
        answer_to(spdy(x_stream_protocol_version="a"))
    assert refuse(refused.value).count(b"X-Accepted-Stream-Protocol-Versions: ") == 2
