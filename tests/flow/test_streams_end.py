"""How connections end: late enough to lose nothing, early enough to keep nothing."""

import asyncio
import json

import aiohttp
import pytest
from stream_client import V4, Exec, exec_target
from stream_node import Node, until

from overspill.backends import connections
from overspill.serve.streams import wire
from overspill.serve.streams.inbox import PIECE_COST, STREAM_BOUND, Inbox, Pool, Reset
from overspill.serve.streams.wire import Wire


@pytest.fixture
async def node():
    async with Node() as made:
        yield made


async def test_a_client_that_stays_after_the_end_is_left(node, monkeypatch):
    monkeypatch.setattr(wire, "LINGER", 0.2)
    session = await Exec.begin(node, "true")
    assert json.loads(await session.error.read_all())["status"] == "Success"
    pings = asyncio.ensure_future(keep_pinging(session.client))
    assert await node.end() is None
    await session.client.gone.wait()
    assert session.client.goaway is not None
    pings.cancel()
    await session.client.kill()


async def keep_pinging(client):
    while not client.gone.is_set():
        await client.ping()


async def test_a_websocket_client_that_stays_after_the_end_is_left(node, monkeypatch):
    monkeypatch.setattr(wire, "LINGER", 0.2)
    url = f"http://127.0.0.1:{node.port}{exec_target('true')}"
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(url, protocols=[V4], autoclose=False) as socket,
    ):
        while (await socket.receive()).type is not aiohttp.WSMsgType.CLOSE:
            pass
        assert await node.end() is None


async def test_a_connection_with_unread_output_is_not_closed(monkeypatch):
    monkeypatch.setattr(wire, "LINGER", 0.05)
    served = asyncio.Queue()

    async def serve(reader, writer):
        ours = Wire(reader, writer, idle=60)
        waiting = asyncio.ensure_future(ours.each(passed_over))
        await asyncio.sleep(0)
        await ours.send(b"x" * 60_000)
        ours.linger()
        served.put_nowait((ours, waiting))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1000)
        ours, waiting = await served.get()
        ours._writer.write(b"x" * 8_000_000)
        lingering_since = ours._active
        await until(lambda: ours._active > lingering_since + 0.1)  # put off twice at least
        assert ours._unsent() > 0
        assert not waiting.done()
        assert len(await reader.readexactly(8_060_000)) == 8_060_000
        await waiting
        assert ours._unsent() == 0
        await ours.close()
        writer.close()
        await writer.wait_closed()


async def passed_over(_data):
    return True


async def test_a_closing_wire_waits_no_longer_than_it_must(monkeypatch):
    monkeypatch.setattr(connections, "FLUSH", 0.05)
    served = asyncio.Queue()

    async def serve(reader, writer):
        ours = Wire(reader, writer, idle=60)
        ours.push(b"x" * 32_000_000)
        await ours.close()
        served.put_nowait(writer.transport)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1000)
        transport = await served.get()
        await until(lambda: transport.get_write_buffer_size() == 0)
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_an_inbox_gives_what_is_there():
    pool = Pool()
    inbox = Inbox(pool)
    taking = asyncio.ensure_future(inbox.take())
    await asyncio.sleep(0)
    inbox.put(b"a")
    inbox.put(b"")
    inbox.put(b"b")
    assert await taking == b"ab"
    assert (inbox.held, pool.held) == (0, 0)
    inbox.put(b"c")
    inbox.end()
    inbox.put(b"d")
    assert [await inbox.take(), await inbox.take()] == [b"c", b""]


async def test_an_inbox_is_full_by_bytes_or_by_pieces():
    by_bytes, by_pieces = Inbox(Pool()), Inbox(Pool())
    by_bytes.put(b"x" * STREAM_BOUND)
    for _ in range(STREAM_BOUND // PIECE_COST):
        by_pieces.put(b"x")
    assert by_bytes.full
    assert by_pieces.full
    by_bytes.discard()
    assert not by_bytes.full
    by_bytes.put(b"x" * STREAM_BOUND * 2)
    assert not by_bytes.full


async def test_a_reset_drops_what_was_not_taken():
    pool = Pool()
    inbox = Inbox(pool)
    watching = asyncio.ensure_future(inbox.watch())
    await asyncio.sleep(0)
    inbox.put(b"x")
    inbox.end(reset=True)
    assert pool.held == 0
    for taker in (watching, inbox.take(), inbox.watch()):
        with pytest.raises(Reset):
            await taker
