"""Port-forward over SPDY, to servers of this machine."""

import asyncio
import hashlib
import random

import pytest
from stream_client import SpdyClient
from stream_node import Connected, Node, until

from overspill.errors import NotFound
from overspill.serve.streams import Limits, connection, forwards

MIB = 1 << 20
PROTOCOL = "portforward.k8s.io"
TARGET = "/portForward/ns/web"


@pytest.fixture
async def node():
    async with Node() as made:
        yield made


@pytest.fixture
async def echo():
    """A server that sends back what it gets, and then what it counted."""

    async def answer(reader, writer):
        total = 0
        try:
            while data := await reader.read(64 << 10):
                total += len(data)
                writer.write(data)
                await writer.drain()
            writer.write(b" %d bytes" % total)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def connect(node):
    client = await SpdyClient.connect(node, TARGET, PROTOCOL)
    assert f"X-Stream-Protocol-Version: {PROTOCOL}\r\n" in client.answer
    return client


async def forward(client, port, request=None):
    """Begin a forwarded connection as client-go does: the error stream first, half-closed at once."""
    headers = {"port": str(port)} | ({} if request is None else {"requestid": str(request)})
    error = await client.begin(streamtype="error", **headers)
    await error.close()
    return error, await client.begin(streamtype="data", **headers)


async def test_both_ways_and_half_closed(node, echo):
    client = await connect(node)
    error, data = await forward(client, echo, 0)
    await data.write(b"hello")
    assert await data.read() == b"hello"
    await data.close()
    assert await data.read_all() == b" 5 bytes"
    assert await error.read_all() == b""
    assert node.processes[0].closed
    await client.close()
    assert await node.end() is None


async def test_64_mib_both_ways(node, echo):
    client = await connect(node)
    _, data = await forward(client, echo, 0)
    sent = random.Random(7).randbytes(64 * MIB)

    async def upload():
        await data.write(sent)
        await data.close()

    uploading = asyncio.ensure_future(upload())
    got = await data.read_all()
    await uploading
    assert hashlib.sha256(got[: len(sent)]).digest() == hashlib.sha256(sent).digest()
    assert got[len(sent) :] == b" %d bytes" % len(sent)
    await client.close()


async def test_200_at_once_on_one_connection(node, echo):
    client = await connect(node)

    async def one(number):
        error, data = await forward(client, echo, number)
        await data.write(b"%d" % number)
        await data.close()
        assert await data.read_all() == b"%d %d bytes" % (number, len(str(number)))
        assert await error.read_all() == b""

    await asyncio.gather(*(one(number) for number in range(200)))
    assert len(node.processes) == 200
    assert all(process.closed for process in node.processes)
    await client.close()
    assert await node.end() is None


async def test_clients_without_request_ids(node, echo):
    client = await connect(node)
    for _ in range(2):
        _, data = await forward(client, echo)
        await data.write(b"x")
        assert await data.read() == b"x"
        await data.reset()
    await until(lambda: all(process.closed for process in node.processes))
    await client.close()


async def test_streams_may_come_in_any_order(node, echo):
    client = await connect(node)
    data = await client.begin(streamtype="data", port=str(echo), requestid="7")
    await data.write(b"early")
    await client.begin(streamtype="error", port=str(echo), requestid="7")
    assert await data.read() == b"early"
    await client.close()


async def test_a_port_where_nothing_listens(node):
    async def fails(port):
        raise NotFound(f"nothing listens on port {port} of the pod")

    node._connect = fails
    client = await connect(node)
    error, data = await forward(client, 81, 0)
    text = await error.read_all()
    assert text == (b"error forwarding port 81 to pod web, uid 1: nothing listens on port 81 of the pod")
    assert await data.read_all() == b""
    assert error.was_reset.is_set()
    assert data.was_reset.is_set()
    await client.ping()
    await client.close()


async def test_a_defect_ends_one_forward_only(node, echo):
    async def breaks(port):
        if port == 81:
            raise ZeroDivisionError
        return await Connected.start(port)

    node._connect = breaks
    client = await connect(node)
    error, _ = await forward(client, 81, 0)
    assert b"defect" in await error.read_all()
    _, data = await forward(client, echo, 1)
    await data.write(b"x")
    assert await data.read() == b"x"
    await client.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data", "port": "0"},
        {"streamtype": "data", "port": "65536"},
        {"streamtype": "data", "port": "http"},
        {"streamtype": "data", "port": "-1"},
        {"streamtype": "data", "port": "٨٠"},
        {"streamtype": "data"},
        {"streamtype": "stdin", "port": "80"},
        {"port": "80"},
    ],
)
async def test_bad_streams_are_reset_and_the_connection_lives(node, headers):
    client = await connect(node)
    with pytest.raises(ConnectionResetError):
        await client.begin(**headers)
    await client.ping()
    await client.close()
    assert await node.end() is None


async def test_a_second_stream_of_a_kind_is_reset(node):
    client = await connect(node)
    await client.begin(streamtype="error", port="80", requestid="1")
    with pytest.raises(ConnectionResetError):
        await client.begin(streamtype="error", port="80", requestid="1")
    await client.close()


async def test_a_pair_that_stays_incomplete(node):
    node.limits = Limits(creation=0.05)
    client = await connect(node)
    error = await client.begin(streamtype="error", port="80", requestid="1")
    assert await error.read_all() == b"request 1: timed out waiting for streams"
    data = await client.begin(streamtype="data", port="80", requestid="2")
    await data.was_reset.wait()
    await client.ping()
    await client.close()
    assert await node.end() is None


async def test_a_client_that_resets_lets_go_of_the_pod(node, echo):
    client = await connect(node)
    _, data = await forward(client, echo, 0)
    await data.write(b"x")
    await data.read()
    await data.reset()
    await until(lambda: node.processes[0].closed)
    await client.ping()
    await client.close()


async def test_everything_ends_with_the_client(node, echo):
    before = asyncio.all_tasks()
    client = await connect(node)
    for number in range(20):
        _, data = await forward(client, echo, number)
        await data.write(b"x")
        await data.read()
    await client.begin(streamtype="error", port="80", requestid="alone")
    await client.kill()
    assert await node.end() is None
    assert all(process.closed for process in node.processes)
    await until(lambda: len(asyncio.all_tasks() - before) <= 20)  # the echo server's own, at their end


async def test_a_stopping_agent_says_goodbye(node, echo):
    client = await connect(node)
    _, data = await forward(client, echo, 0)
    await data.write(b"x")
    await data.read()
    next(iter(node.handlers)).cancel()
    assert isinstance(await node.end(), asyncio.CancelledError)
    await client.gone.wait()
    assert data.was_reset.is_set()
    assert client.goaway.last_stream == data.id
    assert node.processes[0].closed
    await client.kill()


class Stuck:
    """A pod's server that reads nothing."""

    def __init__(self):
        self.closed = asyncio.Event()

    async def write(self, _data):
        await asyncio.Event().wait()

    async def close_stdin(self):
        raise AssertionError

    async def output(self):
        await self.closed.wait()
        yield 1, b""

    async def close(self):
        self.closed.set()


async def test_a_pod_that_does_not_read_holds_up_others_for_a_while_only(node, echo, monkeypatch):
    monkeypatch.setattr(forwards, "PATIENCE", 0.2)
    stuck = Stuck()

    async def connected(port):
        return stuck if port == 81 else await Connected.start(port)

    node._connect = connected
    client = await connect(node)
    _, blocked = await forward(client, 81, 0)
    _, free = await forward(client, echo, 1)
    await blocked.write(b"x" * (3 * MIB))
    await free.write(b"hello")
    assert await free.read() == b"hello"
    assert blocked.was_reset.is_set()
    await until(stuck.closed.is_set)
    await client.close()


async def test_a_pod_that_does_not_read_is_waited_for_while_nobody_else_waits(node, monkeypatch):
    monkeypatch.setattr(forwards, "PATIENCE", 0.05)
    looks = []
    waits = connection.Connection._others_wait
    monkeypatch.setattr(
        connection.Connection, "_others_wait", lambda *asked: looks.append(waits(*asked)) or looks[-1]
    )
    stuck = Stuck()

    async def connected(_port):
        return stuck

    node._connect = connected
    client = await connect(node)
    _, blocked = await forward(client, 81, 0)
    await blocked.write(b"x" * (3 * MIB))
    await until(lambda: len(looks) >= 3)
    assert not any(looks)
    assert not blocked.was_reset.is_set()
    await client.close()
