"""exec and port-forward over WebSocket, with aiohttp's client: another's framing."""

import asyncio
import base64
import contextlib
import json

import aiohttp
import pytest
from stream_client import V4, V5, SpdyClient, connection, exec_target, let_go
from stream_node import Node, until

from overspill.errors import NotFound
from overspill.serve.streams import Limits

MIB = 1 << 20
BINARY = ["", "channel.k8s.io", V4]
TEXT = ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"]
WITH_STATUS = {V4, "v4.base64.channel.k8s.io", V5}
NEWEST = Limits(websocket_v5=True)


@pytest.fixture
async def node():
    async with Node() as made:
        yield made


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


class Channels:
    """A client of channels, in either spelling."""

    def __init__(self, socket):
        self.socket = socket
        self.is_text = "base64" in (socket.protocol or "")

    async def send(self, channel, data):
        if self.is_text:
            await self.socket.send_str(f"{channel}{base64.b64encode(data).decode()}")
        else:
            await self.socket.send_bytes(bytes([channel]) + data)

    async def receive(self):
        """(channel, data), or None at the close."""
        message = await self.socket.receive(timeout=20)
        if message.type is aiohttp.WSMsgType.TEXT:
            assert self.is_text
            return int(message.data[0]), base64.b64decode(message.data[1:], validate=True)
        if message.type is aiohttp.WSMsgType.BINARY:
            assert not self.is_text
            return message.data[0], message.data[1:]
        return None

    async def until_close(self):
        got = {}
        while piece := await self.receive():
            got[piece[0]] = got.get(piece[0], b"") + piece[1]
        return got


@contextlib.asynccontextmanager
async def channels(http, node, target, *protocols):
    url = f"http://127.0.0.1:{node.port}{target}"
    async with http.ws_connect(url, protocols=[name for name in protocols if name], max_msg_size=0) as socket:
        yield Channels(socket)


@pytest.mark.parametrize("protocol", BINARY + TEXT)
async def test_output_exit_code_and_close(http, node, protocol):
    target = exec_target("sh", "-c", "echo out; echo err >&2; exit 7")
    async with channels(http, node, target, protocol) as client:
        assert (client.socket.protocol or "") == protocol
        assert await client.receive() == (1, b""), "the lowest channel says that we are there"
        got = await client.until_close()
        assert client.socket.close_code == 1000
    assert (got[1], got[2]) == (b"out\n", b"err\n")
    if protocol in WITH_STATUS:
        assert json.loads(got[3])["details"]["causes"][0]["message"] == "7"
    else:
        assert got[3] == b"command terminated with non-zero exit code: exit status 7"
    assert await node.end() is None


@pytest.mark.parametrize("protocol", BINARY + TEXT)
async def test_success(http, node, protocol):
    async with channels(http, node, exec_target("true"), protocol) as client:
        outcome = (await client.until_close()).get(3, b"")
    assert json.loads(outcome)["status"] == "Success" if protocol in WITH_STATUS else outcome == b""


@pytest.mark.parametrize("protocol", BINARY + TEXT)
async def test_stdin(http, node, protocol):
    target = exec_target("sh", "-c", "read line; echo got $line", stdin=True)
    async with channels(http, node, target, protocol) as client:
        await client.send(0, b"he")
        await client.send(0, b"")
        await client.send(0, b"llo\n")
        assert (await client.until_close())[1] == b"got hello\n"


async def test_stdin_in_text_messages_as_pythons_client_sends_it(http, node):
    target = exec_target("sh", "-c", "read line; echo got $line", stdin=True)
    async with channels(http, node, target, V4) as client:
        await client.socket.send_str("\0grüezi\n")
        assert (await client.until_close())[1] == "got grüezi\n".encode()


@pytest.mark.parametrize(
    ("asked", "channel"),
    [({}, 1), ({"stdout": False}, 2), ({"stdout": False, "stderr": False, "stdin": True}, 3)],
)
async def test_the_lowest_channel_that_is_written_says_that_we_are_there(http, node, asked, channel):
    async with channels(http, node, exec_target("true", **asked), V4) as client:
        assert await client.receive() == (channel, b"")
        await client.until_close()  # not in the middle of the process's beginning


async def test_terminal_sizes(http, node):
    async with channels(http, node, exec_target("cat", stdin=True, tty=True), V4) as client:
        await client.send(4, b'{"Height":24,"Width":80}')
        await until(lambda: node.processes and node.processes[0].resizes == [(80, 24)])


async def test_channels_that_nobody_reads_are_passed_over(http, node):
    async with channels(http, node, exec_target("sh", "-c", "sleep 0.2"), V4) as client:
        for channel in (0, 1, 3, 4, 9, 255):
            await client.send(channel, b"x" * 100)
        assert json.loads((await client.until_close())[3])["status"] == "Success"


@pytest.mark.parametrize("protocol", [V4, "v4.base64.channel.k8s.io"])
async def test_much_both_ways(http, node, protocol):
    size = 32 * MIB
    target = exec_target("sh", "-c", f"head -c {size}", stdin=True)
    async with channels(http, node, target, protocol) as client:

        async def type_in():
            for _ in range(size // MIB):
                await client.send(0, b"x" * MIB)

        typing = asyncio.ensure_future(type_in())
        got = await client.until_close()
        await typing
    assert got[1] == b"x" * size


async def test_the_process_goes_with_its_client(http, node):
    before = asyncio.all_tasks()
    async with channels(http, node, exec_target("cat", stdin=True), V4) as client:
        await client.send(0, b"x")
        assert await client.receive() == (1, b"")
        assert await client.receive() == (1, b"x")
    assert await node.end() is None
    assert node.processes[0].closed
    await until(lambda: asyncio.all_tasks() <= before)


async def test_ping_is_answered(http, node):
    async with channels(http, node, exec_target("cat", stdin=True), V4) as client:
        await client.socket.ping(b"are you there")
        await client.socket.pong()
        await client.send(0, b"x")
        assert (await client.receive(), await client.receive()) == ((1, b""), (1, b"x"))


async def test_a_stopping_agent_tells_its_clients(http, node):
    async with channels(http, node, exec_target("cat", stdin=True), V4) as client:
        await client.receive()
        next(iter(node.handlers)).cancel()
        outcome = json.loads((await client.until_close())[3])
        assert client.socket.close_code == 1001
    assert outcome["status"] == "Failure"
    assert "stopping" in outcome["message"]


async def test_no_base64_ends_the_connection(http, node):
    async with channels(http, node, exec_target("cat", stdin=True), TEXT[1]) as client:
        await client.receive()
        await client.socket.send_str("0====")
        assert "no base64" in json.loads((await client.until_close())[3])["message"]
    assert await node.end() is None


async def test_version_5_is_not_spoken_unless_switched_on(http, node):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with channels(http, node, exec_target("true"), V5):
            pass
    assert refused.value.status == 403


async def test_version_5_ends_stdin(http, node):
    node.limits = NEWEST
    async with channels(http, node, exec_target("wc", "-c", stdin=True), V5, V4) as client:
        assert client.socket.protocol == V5
        await client.send(0, b"12345")
        await client.socket.send_bytes(b"\xff\x00")
        got = await client.until_close()
    assert got[1].strip() == b"5"
    assert json.loads(got[3])["status"] == "Success"


@pytest.mark.parametrize("signal", [b"\xff", b"\xff\x00\x00"])
async def test_a_broken_close_signal_ends_the_connection(http, node, signal):
    node.limits = NEWEST
    async with channels(http, node, exec_target("cat", stdin=True), V5) as client:
        await client.receive()
        await client.socket.send_bytes(signal)
        assert json.loads((await client.until_close())[3])["status"] == "Failure"


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x82\x01\x00", id="not masked"),
        pytest.param(b"\xf2\x81\x00\x00\x00\x00\x00", id="reserved bits"),
        pytest.param(b"\x80\x81\x00\x00\x00\x00\x00", id="a continuation of nothing"),
        pytest.param(b"\x83\x81\x00\x00\x00\x00\x00", id="an unknown opcode"),
        pytest.param(b"\x81\x82\x00\x00\x00\x00\x00\xff", id="text that is no UTF-8"),
    ],
)
async def test_no_websocket(node, wire):
    reader, writer = await connection(node)
    writer.write(
        f"GET {exec_target('cat', stdin=True)} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        + wire
    )
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"\x88" in answer.partition(b"\r\n\r\n")[2], "the client is told by a close frame"
    assert await node.end() is None
    await let_go(writer)


@pytest.fixture
async def greeter():
    """A server that greets, echoes one piece and closes."""

    async def answer(reader, writer):
        writer.write(b"hello")
        with contextlib.suppress(ConnectionError):
            writer.write(await reader.read(100))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize("protocol", ["", V4, "v4.base64.channel.k8s.io"])
@pytest.mark.parametrize("query", ["port={0}&port={0}", "port={0},{0}"])
async def test_forwarded_ports(http, node, greeter, protocol, query):
    async with channels(http, node, f"/portForward/ns/web?{query.format(greeter)}", protocol) as client:
        port = greeter.to_bytes(2, "little")
        assert [await client.receive() for _ in range(4)] == [(number, port) for number in range(4)]
        assert {await client.receive(), await client.receive()} == {(0, b"hello"), (2, b"hello")}
        await client.send(2, b"two")
        assert await client.receive() == (2, b"two")
        await client.send(0, b"nil")
        assert (await client.until_close()).get(0) == b"nil"
        assert client.socket.close_code == 1000
    assert all(process.closed for process in node.processes)


async def test_a_port_that_cannot_be_reached(http, node):
    async def fails(port):
        raise NotFound(f"nothing listens on port {port} of the pod")

    node._connect = fails
    async with channels(http, node, "/portForward/ns/web?port=81", V4) as client:
        got = await client.until_close()
    assert got[1][2:] == (
        b"error forwarding port 81 to pod web, uid 1: nothing listens on port 81 of the pod"
    )


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", 'query parameter "port" is required'),
        ("?port=", 'query parameter "port" is required'),
        ("?port=80,", 'query parameter "port" cannot be empty'),
        ("?port=0", 'port "0" must be > 0'),
        ("?port=http", 'unable to parse "http" as a port'),
        ("?port=" + ",".join(["80"] * 128), "128 ports"),
    ],
)
async def test_ports_that_are_none(http, node, query, text):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    url = f"http://127.0.0.1:{node.port}/portForward/ns/web{query}"
    async with http.get(url, headers=headers) as answer:
        assert answer.status == 400
        assert text in await answer.text()


class Tunnel:
    """SPDY's bytes in binary messages, cut anywhere."""

    def __init__(self, socket):
        self.socket = socket
        self.waiting = []

    def write(self, data):
        self.waiting.append(data)

    async def drain(self):
        data = b"".join(self.waiting)
        self.waiting.clear()
        for at in range(0, len(data), 1000):
            await self.socket.send_bytes(data[at : at + 1000])

    async def receive(self):
        message = await self.socket.receive()
        return message.data if message.type is aiohttp.WSMsgType.BINARY else b""


async def test_the_tunnel(http, node, greeter):
    node.limits = NEWEST
    protocol = "SPDY/3.1+portforward.k8s.io"
    url = f"http://127.0.0.1:{node.port}/portForward/ns/web"
    async with http.ws_connect(url, protocols=[protocol]) as socket:
        assert socket.protocol == protocol
        tunnel = Tunnel(socket)
        client = SpdyClient(tunnel.receive, tunnel.write, tunnel.drain, socket.close)
        port = {"port": str(greeter), "requestid": "0"}
        error = await client.begin(streamtype="error", **port)
        data = await client.begin(streamtype="data", **port)
        assert await data.read() == b"hello"
        await data.write(b"x" * 50)
        assert await data.read_all() == b"x" * 50
        assert await error.read_all() == b""
        await client.close()
    assert await node.end() is None


async def test_no_tunnel_unless_switched_on(http, node):
    url = f"http://127.0.0.1:{node.port}/portForward/ns/web?port=80"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(url, protocols=["SPDY/3.1+portforward.k8s.io"])
    assert refused.value.status == 403
