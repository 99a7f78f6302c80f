"""Heads of requests to the kubelet API, and answers on the wire."""

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.serve.http import (
    HEAD_LIMIT,
    Answer,
    Refused,
    answer_bytes,
    chunk,
    discard_body,
    keeps_alive,
    parse_head,
    read_head,
    streamed_head,
)


def head(*lines):
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def reader_of(data, *, limit=1 << 16):
    reader = asyncio.StreamReader(limit=limit)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


def test_a_head_becomes_a_request():
    request, modern = parse_head(
        head(
            "POST /exec/default/web/my%20c?command=sh&command=-c&command=a%26b&input=1&tty= HTTP/1.1",
            "Host: node:10250",
            "X-Stream-Protocol-Version: v4.channel.k8s.io",
            "X-Stream-Protocol-Version:  channel.k8s.io  ",
            "Authorization: Bearer abc",
        )
    )
    assert modern
    assert (request.method, request.path) == ("POST", "/exec/default/web/my c")
    assert request.query == {"command": ["sh", "-c", "a&b"], "input": ["1"], "tty": [""]}
    assert request.header("x-stream-protocol-version") == "v4.channel.k8s.io, channel.k8s.io"
    assert request.header("host") == "node:10250"


def test_a_command_may_have_as_many_words_as_fit_into_a_head():
    words = [""] * ((HEAD_LIMIT - 100) // len("&command="))
    request, _ = parse_head(head(f"POST /exec/default/web/c?command={'&command='.join(words)} HTTP/1.1"))
    assert request.query == {"command": words}


@pytest.mark.parametrize("target", ["http://node/pods?x=1", "/pods?x=1", "/%70ods?x=1"])
def test_a_target_is_a_path_or_a_whole_url(target):
    request, _ = parse_head(head(f"GET {target} HTTP/1.0"))
    assert (request.path, request.query) == ("/pods", {"x": ["1"]})


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /pods",),
        ("GET /pods HTTP/2.0",),
        ("GET  /pods HTTP/1.1",),
        ("GET pods HTTP/1.1",),
        ("OPTIONS * HTTP/1.1",),
        ("GET /po\0ds HTTP/1.1",),
        ("GET /po%00ds HTTP/1.1",),
        ("GET //exec/a/b/c HTTP/1.1",),
        ("GET http://node//exec/a/b/c HTTP/1.1",),
        ("GET /pods HTTP/1.1", "Long: " + " " * 500_000 + "\x01"),
        ("GET /pods HTTP/1.1", "Host : node"),
        ("GET /pods HTTP/1.1", "Host: node", " folded: yes"),
        ("GET /pods HTTP/1.1", "NoColon"),
        ("GET /pods HTTP/1.1", "Name: a\nb: c"),
        ("GET /pods?" + "&".join("a" for _ in range(HEAD_LIMIT // 4)) + " HTTP/1.1",),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines):
    with pytest.raises(Refused) as refused:
        parse_head(head(*lines))
    assert refused.value.status == 400


def test_nothing_is_kept_of_what_strangers_ask_for():
    heads = [head(f"GET /{number}?{'a' * 900_000} HTTP/1.1") for number in range(10)]
    tracemalloc.start()
    try:
        for each in heads:
            parse_head(each)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 900_000


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data):
    try:
        request, _ = parse_head(data)
    except Refused:
        return
    assert request.path.startswith("/")


async def test_what_follows_a_head_stays_in_the_reader():
    reader = await reader_of(head("GET /pods HTTP/1.1") + b"\x80\x03spdy")
    assert (await read_head(reader)).startswith(b"GET /pods")
    assert await reader.read() == b"\x80\x03spdy"


@pytest.mark.parametrize("size", [100, 4095, 4096, 4097, 100_000, 900_000])
async def test_a_head_may_be_longer_than_the_readers_buffer(size):
    whole = head("GET /pods HTTP/1.1", f"X: {'x' * size}")
    reader = await reader_of(whole + b"rest", limit=4096)
    assert await read_head(reader) == whole
    assert await reader.read() == b"rest"


async def test_a_head_is_no_longer_than_a_megabyte():
    with pytest.raises(Refused) as refused:
        await read_head(await reader_of(b"GET /" + b"x" * (2 << 20)))
    assert refused.value.status == 431


async def test_the_end_of_a_connection_is_no_request():
    assert await read_head(await reader_of(b"")) is None
    with pytest.raises(Refused):
        await read_head(await reader_of(b"GET /pods HT"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Transfer-Encoding: chunked",), 411),
        (("Content-Length: 3", "Content-Length: 4"), 400),
        (("Content-Length: -1",), 400),
        (("Content-Length: +3",), 400),
        (("Content-Length: 70000",), 413),
        (("Content-Length: 3", "Connection: Upgrade"), 400),
    ],
)
async def test_bodies_that_are_not_read_are_refused(headers, status):
    request, _ = parse_head(head("POST /run/n/p/c HTTP/1.1", *headers))
    with pytest.raises(Refused) as refused:
        await discard_body(request, await reader_of(b"abcd"))
    assert refused.value.status == status


async def test_a_small_body_is_read_past():
    request, _ = parse_head(head("POST /run/n/p/c HTTP/1.1", "Content-Length: 3"))
    reader = await reader_of(b"abcGET")
    await discard_body(request, reader)
    assert await reader.read() == b"GET"


@pytest.mark.parametrize(
    ("line", "connection", "kept"),
    [
        ("GET / HTTP/1.1", "", True),
        ("GET / HTTP/1.1", "close", False),
        ("GET / HTTP/1.1", "Keep-Alive, Close", False),
        ("GET / HTTP/1.0", "", False),
        ("GET / HTTP/1.0", "keep-alive", True),
    ],
)
def test_which_connections_are_kept(line, connection, kept):
    request, modern = parse_head(head(line, f"Connection: {connection}"))
    assert keeps_alive(request, modern=modern) is kept


def test_answers_on_the_wire():
    text = answer_bytes(Answer(404, b"no"), keep_alive=False).decode()
    assert text.startswith("HTTP/1.1 404 Not Found\r\n")
    assert "\r\nContent-Length: 2\r\n" in text
    assert "\r\nConnection: close\r\n" in text
    assert text.endswith("\r\n\r\nno")
    assert b"Connection: close" not in answer_bytes(Answer(200), keep_alive=True)


def test_chunks_on_the_wire():
    assert b"Transfer-Encoding: chunked" in streamed_head("text/plain", chunked=True, keep_alive=True)
    plain = streamed_head("text/plain", chunked=False, keep_alive=True)
    assert b"chunked" not in plain
    assert b"Connection: close" in plain
    assert chunk(b"x" * 17) == b"11\r\n" + b"x" * 17 + b"\r\n"
    assert chunk(b"") == b""
