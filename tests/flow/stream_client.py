"""A client of exec and port-forward, after client-go over moby/spdystream.

Kept from the Go client because servers have tripped over it: streams are begun one after the other, each
waiting for its reply; data of a stream without a reply is dropped in silence; an empty error stream is
success; a ping every few seconds shares the connection with stdin; the end is RST of all, GOAWAY, close.
"""

import asyncio
import contextlib
import json
import socket
import urllib.parse

from stream_node import PATIENCE

from overspill.serve.streams.spdy import (
    CANCEL,
    Data,
    Decoder,
    Encoder,
    GoAway,
    Ping,
    RstStream,
    SynReply,
    SynStream,
)

V1, V2, V3, V4, V5 = (f"{version}channel.k8s.io" for version in ("", "v2.", "v3.", "v4.", "v5."))
NEWEST_FIRST = (V5, V4, V3, V2, V1)


class Stream:
    """One stream of the client."""

    def __init__(self, client, number, headers):
        self.client, self.id, self.headers = client, number, headers
        self.replied = asyncio.Event()
        self.was_reset = asyncio.Event()
        self.ended = asyncio.Event()
        self._pieces = asyncio.Queue()

    async def write(self, data):
        for at in range(0, len(data), 32 << 10):
            self.client.send(Data(self.id, data[at : at + (32 << 10)]))
            await self.client.drain()

    async def close(self):
        self.client.send(Data(self.id, b"", fin=True))
        await self.client.drain()

    async def reset(self):
        self.client.send(RstStream(self.id, CANCEL))
        await self.client.drain()

    async def read(self):
        """The next piece; b"" at the end."""
        return await asyncio.wait_for(self._pieces.get(), PATIENCE)

    async def read_all(self):
        parts = []
        while piece := await self.read():
            parts.append(piece)
        return b"".join(parts)

    def take(self, data):
        if data:
            self._pieces.put_nowait(data)

    def finish(self):
        self.ended.set()
        self._pieces.put_nowait(b"")


class Refused(Exception):
    """The answer to an upgrade that was not 101."""


class SpdyClient:
    """One upgraded connection."""

    def __init__(self, receive, send_bytes, drain, close):
        self._receive, self._send_bytes, self.drain, self._close = receive, send_bytes, drain, close
        self._encoder, self._decoder = Encoder(), Decoder()
        self._next, self._pings = 1, {}
        self.streams = {}
        self.reading = asyncio.Event()
        self.reading.set()
        self.gone = asyncio.Event()
        self.goaway = None
        self.sent = self.received = 0
        self._tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._keep_pinging())]

    @classmethod
    async def connect(cls, node, target, *protocols, method="POST", buffers=0):
        reader, writer = await connection(node, buffers)
        lines = [f"{method} {target} HTTP/1.1", "Host: node", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
        lines += [f"X-Stream-Protocol-Version: {protocol}" for protocol in protocols]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        if not answer.startswith("HTTP/1.1 101 "):
            text = (await reader.read()).decode()
            await let_go(writer)
            raise Refused(answer, text)
        made = cls(lambda: reader.read(1 << 16), writer.write, writer.drain, lambda: let_go(writer))
        made.answer = answer
        made.writer = writer
        return made

    def send(self, frame):
        data = self._encoder.encode(frame)
        self.sent += len(data)
        self._send_bytes(data)

    async def begin(self, **headers):
        """Begin a stream and wait for its reply; ConnectionResetError if it is refused."""
        stream = Stream(self, self._next, headers)
        self._next += 2
        self.streams[stream.id] = stream
        self.send(SynStream(stream.id, headers))
        await self.drain()
        answered = [asyncio.ensure_future(event.wait()) for event in (stream.replied, stream.was_reset)]
        await asyncio.wait(answered, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        for waiting in answered:
            waiting.cancel()
        assert stream.replied.is_set() or stream.was_reset.is_set(), "no SYN_REPLY"
        if not stream.replied.is_set():
            raise ConnectionResetError
        return stream

    async def ping(self):
        number = 2 * len(self._pings) + 1
        self._pings[number] = asyncio.Event()
        self.send(Ping(number))
        await asyncio.wait_for(self._pings[number].wait(), PATIENCE)

    async def close(self):
        """Leave as client-go does."""
        for stream in self.streams.values():
            self.send(RstStream(stream.id, CANCEL))
        self.send(GoAway(0))
        with contextlib.suppress(ConnectionError):
            await self.drain()
        await self.kill()

    async def kill(self):
        """Be gone without a word."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()

    async def _keep_pinging(self):
        while True:
            await asyncio.sleep(5)
            await self.ping()

    async def _read(self):
        with contextlib.suppress(ConnectionError):
            while await self.reading.wait() and (data := await self._receive()):
                self.received += len(data)
                for frame in self._decoder.feed(data):
                    self._handle(frame)
        for stream in self.streams.values():
            stream.finish()
        self.gone.set()

    def _handle(self, frame):
        stream = self.streams.get(getattr(frame, "stream", 0))
        match frame:
            case Ping():
                self._pings[frame.id].set()
            case GoAway():
                self.goaway = frame
            case SynReply():
                assert frame.headers == {}
                stream.replied.set()
            case RstStream() if stream:
                stream.was_reset.set()
                stream.finish()
            case Data() if stream and stream.replied.is_set():
                stream.take(frame.payload)
                if frame.fin:
                    stream.finish()


async def let_go(writer):
    """Be gone without a word."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def connection(node, buffers=0):
    """Connect; with small kernel buffers, so that what is not read shows early."""
    raw = socket.socket()
    if buffers:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", node.port))
    return await asyncio.open_connection(sock=raw)


class Exec:
    """An exec or attach session: the streams in the order in which client-go begins them."""

    @classmethod
    async def begin(cls, node, *command, verb="exec", protocols=NEWEST_FIRST, buffers=0, **asked):
        """`asked`: stdin, stdout, stderr, tty."""
        self = cls()
        target = exec_target(*command, verb=verb, **asked)
        self.client = await SpdyClient.connect(node, target, *protocols, buffers=buffers)
        agreed = self.client.answer.partition("X-Stream-Protocol-Version: ")[2].partition("\r\n")[0]
        self.protocol = agreed
        self.error = await self.client.begin(streamtype="error")
        self.stdin = self.stdout = self.stderr = self.resize = None
        tty = asked.get("tty", False)
        wishes = {
            "stdin": asked.get("stdin", False),
            "stdout": asked.get("stdout", True),
            "stderr": asked.get("stderr", True) and not tty,
            "resize": tty and agreed in {V3, V4},
        }
        for name in (name for name, wish in wishes.items() if wish):
            setattr(self, name, await self.client.begin(streamtype=name))
        return self

    async def result(self):
        """(stdout, stderr, outcome): the outcome is a dict, or text for old protocols."""
        out = await self.stdout.read_all() if self.stdout else b""
        err = await self.stderr.read_all() if self.stderr else b""
        outcome = (await self.error.read_all()).decode()
        await self.client.close()
        return out, err, json.loads(outcome) if self.protocol == V4 else outcome


def exec_target(*command, verb="exec", stdin=False, stdout=True, stderr=True, tty=False):
    flags = {"input": stdin, "output": stdout, "error": stderr and not tty, "tty": tty}
    query = [("command", part) for part in command] + [(name, "1") for name, is_on in flags.items() if is_on]
    return f"/{verb}/ns/web/main?{urllib.parse.urlencode(query)}"


async def run(node, *command, stdin=None, **asked):
    """Run a command to its end as `kubectl exec` does."""
    session = await Exec.begin(node, *command, stdin=stdin is not None, **asked)
    if stdin is not None:
        await session.stdin.write(stdin)
        await session.stdin.close()
    return await session.result()
