"""What no client should send ends its own connection, once, and nothing else."""

import asyncio
import random

import pytest
from stream_client import V4, Exec, SpdyClient, connection, exec_target, let_go, run
from stream_node import Node
from structlog.testing import capture_logs

from overspill.serve.streams.spdy import Encoder, Ping, SynStream

HEAD = (
    f"POST {exec_target('cat', stdin=True)} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\n"
    f"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {V4}\r\n\r\n"
).encode()


@pytest.fixture
async def node():
    async with Node() as made:
        yield made


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01", id="SPDY/2"),
        pytest.param(b"\x80\x03\x00\x05\x00\x00\x00\x00", id="NOOP"),
        pytest.param(b"\x80\x03\x00\x01\x00\xff\xff\xff", id="16 MiB of headers"),
        pytest.param(b"\x80\x03\x00\x01\x00\x00\x00\x10" + b"x" * 16, id="no header block"),
        pytest.param(b"\x00\x00\x00\x00\x00\x00\x00\x01x", id="stream 0"),
    ],
)
async def test_no_spdy(node, wire):
    reader, writer = await connection(node)
    with capture_logs() as logs:
        writer.write(HEAD + wire)
        answer = await reader.read()
        assert await node.end() is None
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert [log["path"] for log in logs] == ["/exec/ns/web/main"]
    assert not node.processes
    await let_go(writer)
    assert (await run(node, "echo", "x"))[0] == b"x\n"


async def test_a_broken_frame_ends_the_process_and_tells_why(node):
    session = await Exec.begin(node, "cat", stdin=True)
    await session.stdin.write(b"x")
    await session.stdout.read()
    session.client._send_bytes(b"\x80\x03\x00\x05\x00\x00\x00\x00")
    text = (await session.error.read_all()).decode()
    assert "unknown type 5" in text
    assert await node.end() is None
    assert node.processes[0].closed
    await session.client.kill()


@pytest.mark.parametrize("seed", range(20))
async def test_noise_after_a_good_beginning(node, seed):
    noise = random.Random(seed)
    session = await Exec.begin(node, "cat", stdin=True)
    session.client._send_bytes(noise.randbytes(noise.randint(1, 3000)))
    await session.client.kill()
    assert await node.end() is None
    assert all(process.closed for process in node.processes)


async def test_bytes_behind_the_head_are_not_lost(node):
    encoder = Encoder()
    frames = encoder.encode(SynStream(1, {"streamtype": "error"})) + encoder.encode(Ping(1))
    reader, writer = await connection(node)
    writer.write(HEAD + frames)
    await reader.readuntil(b"\r\n\r\n")
    reply = await reader.readexactly(4)
    assert reply == b"\x80\x03\x00\x02"
    await let_go(writer)
    assert await node.end() is None


@pytest.mark.parametrize("number", [2, 1])
async def test_stream_ids_are_odd_and_rise(node, number):
    client = await SpdyClient.connect(node, exec_target("true"), V4)
    await client.begin(streamtype="error")
    client._next = number
    with pytest.raises(ConnectionResetError):
        await client.begin(streamtype="stdout")
    await client.close()


async def test_frames_that_nobody_needs_are_passed_over(node):
    session = await Exec.begin(node, "cat", stdin=True)
    for frame in (
        "80030004000000040000000000"[:24],  # SETTINGS
        "80030009000000080000000100010000",  # WINDOW_UPDATE
        "000000630000000178",  # data of a stream that is not there
        "80030003000000080000006300000005",  # RST of it
        "800300060000000400000002",  # an answer to no ping of ours
    ):
        session.client._send_bytes(bytes.fromhex(frame))
    await session.client.ping()
    await session.stdin.write(b"typed")
    await session.stdin.close()
    assert (await session.result())[0] == b"typed"


async def test_pings_that_are_not_read_do_not_pile_up(node):
    """A client that asks without reading is not read from, rather than answered into memory."""
    session = await Exec.begin(node, "cat", stdin=True, buffers=64 << 10)
    session.client.reading.clear()
    ping = Encoder().encode(Ping(1))
    session.client._pings[1] = asyncio.Event()
    flood = asyncio.ensure_future(send_for_ever(session.client, ping * 4096))
    await asyncio.wait([flood], timeout=1.5)
    assert not flood.done()
    assert session.client.sent < 64 << 20
    flood.cancel()
    await session.client.kill()
    assert await node.end() is None


async def send_for_ever(client, data):
    while True:
        client._send_bytes(data)
        client.sent += len(data)
        await client.drain()
