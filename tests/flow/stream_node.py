"""A node to stream to: a server that knows /exec, /attach and /portForward, over processes of this machine."""

import asyncio
import contextlib
import urllib.parse

from overspill.serve.request import Request
from overspill.serve.streams import Limits, port_forward, remote_command, wanted

PATIENCE = 20


class Subprocess:
    """A `Process` of this machine."""

    def __init__(self, inner):
        self.inner = inner
        self.resizes = []
        self.yielded = 0
        self.closed = False

    @classmethod
    async def start(cls, *command):
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe))

    async def write(self, data):
        with contextlib.suppress(ConnectionError):
            self.inner.stdin.write(data)
            await self.inner.stdin.drain()

    async def close_stdin(self):
        self.inner.stdin.close()

    async def output(self):
        pieces = asyncio.Queue(2)

        async def pump(fd, reader):
            while data := await reader.read(64 << 10):
                await pieces.put((fd, data))
            await pieces.put(None)

        async with asyncio.TaskGroup() as group:
            for fd, reader in ((1, self.inner.stdout), (2, self.inner.stderr)):
                group.create_task(pump(fd, reader))
            open_pipes = 2
            while open_pipes:
                if (piece := await pieces.get()) is None:
                    open_pipes -= 1
                else:
                    self.yielded += len(piece[1])
                    yield piece

    async def resize(self, *, width, height):
        self.resizes.append((width, height))

    async def wait(self):
        return await self.inner.wait()

    async def close(self):
        self.closed = True
        self.inner._transport.close()  # kills, and does not wait for output that nobody reads
        await self.inner.wait()


class Connected:
    """A `Process` over a connection to a local port."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.closed = False

    @classmethod
    async def start(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def write(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def close_stdin(self):
        self.writer.write_eof()

    async def output(self):
        while data := await self.reader.read(64 << 10):
            yield 1, data

    async def wait(self):
        return 0

    async def close(self):
        self.closed = True
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Node:
    """A server that knows /exec, /attach and /portForward. `start` and `connect` make its processes."""

    def __init__(self, *, start=None, connect=Connected.start, limits=None):
        self.limits = limits or Limits()
        self.processes = []
        self.handlers = set()
        self.ended = asyncio.Queue()
        self._start = start
        self._connect = connect
        self.port = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for handler in list(self.handlers):
            handler.cancel()
        await asyncio.gather(*self.handlers, return_exceptions=True)

    async def _handle(self, reader, writer):
        task = asyncio.current_task()
        self.handlers.add(task)
        error = None
        try:
            await self._serve(await read_request(reader), reader, writer)
        except BaseException as trouble:  # noqa: BLE001 - what escapes is what the tests ask about
            error = trouble
        finally:
            self.handlers.discard(task)
            self.ended.put_nowait((error, writer.transport.is_closing()))

    async def _serve(self, request, reader, writer):
        if request.path.startswith("/portForward/"):
            await port_forward(
                request,
                reader,
                writer,
                connect=self._kept(self._connect),
                limits=self.limits,
                target="pod web, uid 1",
            )
            return
        start = self._start or Subprocess.start
        await remote_command(
            request,
            reader,
            writer,
            wanted=wanted(request),
            start=self._kept(lambda: start(*request.query.get("command", ()))),
            limits=self.limits,
        )

    def _kept(self, make):
        async def kept(*arguments):
            process = await make(*arguments)
            self.processes.append(process)
            return process

        return kept

    async def end(self):
        """The error with which a connection's handler ended, None if it just returned; it has closed it."""
        error, closed = await asyncio.wait_for(self.ended.get(), PATIENCE)
        assert closed
        return error


async def read_request(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = lines[0].split(" ")
    url = urllib.parse.urlsplit(target)
    headers = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(":")
        headers.setdefault(name.lower(), []).append(value.strip())
    return Request(method, urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query), headers)


async def until(condition):
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
