"""Connections against a server that speaks HTTP/1.1 byte by byte: what is used again, what is closed."""

import asyncio
import contextlib

import pytest

from overspill.kube.http1 import READ_BUFFER, Pool, Unreachable

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Gives the n-th answer to the n-th request of each connection; an answer is bytes, or pieces of them."""

    def __init__(self, *answers):
        self.answers = answers
        self.connections = 0
        self.requests = 0
        self.most_at_once = 0
        self.now = 0

    async def __call__(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            for answer in self.answers:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                self.now += 1
                self.most_at_once = max(self.most_at_once, self.now)
                await self.give(answer, writer)
                self.now -= 1
            writer.close()
            await writer.wait_closed()

    async def give(self, answer, writer):
        if answer is None:
            await asyncio.Event().wait()
        for piece in [answer] if isinstance(answer, bytes) else answer:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def pool_of(server, *, limit=4):
    serving = set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        try:
            await server(reader, writer)
        finally:
            writer.transport.abort()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = Pool(*listening.sockets[0].getsockname(), tls=None, server_name="", limit=limit)
    try:
        yield pool
    finally:
        pool.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        listening.close()
        await listening.wait_closed()


async def test_a_connection_is_kept_for_the_next_request():
    server = Server(OK, OK, OK)
    async with pool_of(server) as pool:
        for _ in range(3):
            reply, body = await pool.fetch(REQUEST, timeout=5)
            assert (reply.status, body) == (200, b"ok")
    assert server.connections == 1


async def test_no_more_connections_than_allowed():
    server = Server(*[OK] * 20)
    async with pool_of(server, limit=3) as pool:
        await asyncio.gather(*(pool.fetch(REQUEST, timeout=5) for _ in range(20)))
    assert server.requests == 20
    assert server.connections <= 3
    assert server.most_at_once <= 3


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: t\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_chunks_split_anywhere(size):
    pieces = [CHUNKED[at : at + size] for at in range(0, len(CHUNKED), size)]
    server = Server(pieces, OK)
    async with pool_of(server) as pool:
        _, body = await pool.fetch(REQUEST, timeout=5)
        assert body == b"hello world"
        assert (await pool.fetch(REQUEST, timeout=5))[1] == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, b"to the end"),
    ],
    ids=["close", "1.0", "no length"],
)
async def test_a_connection_that_ends_with_its_reply_is_not_used_again(answer, status, body):
    server = Server(answer)
    async with pool_of(server) as pool:
        for _ in range(2):
            reply, content = await pool.fetch(REQUEST, timeout=5)
            assert (reply.status, content) == (status, body)
    assert server.connections == 2


async def test_what_announces_a_reply_is_not_the_reply():
    server = Server(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, OK)
    async with pool_of(server) as pool:
        for _ in range(2):
            reply, body = await pool.fetch(REQUEST, timeout=5)
            assert (reply.status, body) == (200, b"ok")
    assert server.connections == 1


async def test_no_content_is_whole_at_once():
    server = Server(b"HTTP/1.1 204 No Content\r\n\r\n", OK)
    async with pool_of(server) as pool:
        reply, body = await pool.fetch(REQUEST, timeout=5)
        assert (reply.status, body) == (204, b"")
        assert (await pool.fetch(REQUEST, timeout=5))[1] == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"220 mail.example ESMTP\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "not HTTP"],
)
async def test_a_reply_cut_short_is_an_error_and_never_a_body(answer):
    async with pool_of(Server(answer)) as pool:
        with pytest.raises(ConnectionError):
            await pool.fetch(REQUEST, timeout=5)


async def test_what_is_given_up_leaves_no_connection_for_others():
    server = Server(None)
    async with pool_of(server, limit=1) as pool:
        with pytest.raises(TimeoutError):
            await pool.fetch(REQUEST, timeout=0.05)
        server.answers = (OK,)
        assert (await pool.fetch(REQUEST, timeout=5))[1] == b"ok"
    assert server.connections == 2


async def test_a_word_that_nobody_asked_for_ends_the_connection():
    """Some servers answer 408 on an idle connection; the next request must not take it for its reply."""
    server = Server([OK, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"], OK)
    async with pool_of(server) as pool:
        assert (await pool.fetch(REQUEST, timeout=5))[0].status == 200
        async with asyncio.timeout(5):
            while any(idle.usable for idle in pool._idle):  # noqa: ASYNC110 - nobody but the connection knows
                await asyncio.sleep(0)
        assert (await pool.fetch(REQUEST, timeout=5))[0].status == 200
    assert server.connections == 2


async def test_an_open_reply_gives_what_has_come():
    more = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await reader.read()

    async with pool_of(serve) as pool, pool.open(REQUEST) as reply:
        await reply.head()
        assert (reply.status, await reply.piece()) == (200, b"one")
        more.set()
        assert [await reply.piece(), await reply.piece()] == [b"two", b""]


async def test_a_reader_that_rests_lets_the_server_wait():
    piece = b"x" * 65536
    sent = 0

    async def serve(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * 1000))
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(piece)
                await writer.drain()
                sent += len(piece)

    async with pool_of(serve) as pool, pool.open(REQUEST) as reply:
        await reply.head()
        before = -1
        while sent != before:  # until it stands still
            before = sent
            await asyncio.sleep(0.05)
        assert READ_BUFFER < sent < len(piece) * 900
        received = 0
        while data := await reply.piece():
            received += len(data)
        assert received == len(piece) * 1000


async def test_closing_ends_what_is_on_its_way():
    async with pool_of(Server(None)) as pool:
        waiting = asyncio.ensure_future(pool.fetch(REQUEST, timeout=5))
        async with asyncio.timeout(5):
            while not pool._open:  # noqa: ASYNC110 - nobody but the pool knows
                await asyncio.sleep(0)
        pool.close()
        with pytest.raises(ConnectionError, match="closed"):
            await waiting


async def test_nobody_there_is_unreachable():
    async with pool_of(Server()) as pool:
        pool._port = 1
        with pytest.raises(Unreachable):
            await pool.fetch(REQUEST, timeout=5)
