"""Kept HTTP/1.1 connections to one server, one request at a time on each.

In: the bytes of a request. Out: its reply, whole or in pieces. Invariant: a connection is used again
only after a whole reply that lets it stand; whatever was cut off, refused or abandoned is closed.
What fails raises an OSError (ssl.SSLError, TimeoutError, `Unreachable`, ConnectionError).
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from overspill.kube.keepalive import DEAD_AFTER, keep_alive

__all__ = ["Pool", "Reply", "Unreachable"]

CONNECT_TIMEOUT = 10.0
# Under the apiserver's idle timeout of 90 s, so that it is rarely the one to close.
KEEP_ALIVE = 60.0
# The apiserver closes a watch that is not read fast enough, so there is room for a burst between two reads.
READ_BUFFER = 1 << 18


class Unreachable(ConnectionError):
    """No connection came about; `__cause__` says why."""


class Reply:
    """One reply, as far as it has come.

    Attributes:
        status: HTTP's code; 0 until the head is there.
        headers: names and values in the order sent.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._whole = False
        self._error: OSError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wants_all = False
        self._paused: asyncio.Transport | None = None

    def header(self, name: str) -> str:
        """The first value of a header; "" if there is none."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), "")

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self.status:
            await self._more()

    async def all(self) -> bytes:
        """Wait for the end; returns the body, or what `piece` has left of it."""
        self._wants_all = True
        self._resume()
        while not self._whole:
            await self._more()
        return self._taken()

    async def piece(self) -> bytes:
        """All that has arrived, waiting for the first byte; nothing at the end."""
        while not self._parts and not self._whole:
            await self._more()
        self._resume()
        return self._taken()

    # --- what the connection tells ---

    def begins(self, status: int) -> None:
        """The head is there."""
        self.status = status
        if not self._wants_all:
            self._wake()

    def grows(self, data: bytes, transport: asyncio.Transport) -> None:
        """A part of the body is there."""
        self._parts.append(data)
        self._size += len(data)
        if self._wants_all:
            return
        if self._size > READ_BUFFER and self._paused is None:
            transport.pause_reading()
            self._paused = transport
        self._wake()

    def ends(self, error: OSError | None = None) -> None:
        """It is whole, or nothing more comes."""
        self._whole, self._error = error is None, error
        self._wake()

    # --- parts ---

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        if self._paused is not None:
            self._paused.resume_reading()
            self._paused = None

    def _taken(self) -> bytes:
        parts, self._parts, self._size = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Connection(asyncio.Protocol):
    """One connection; the methods in its middle are called by the parser."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._reply: Reply | None = None
        self._reusable = False
        self._to_the_end = True  # the body ends with the connection, since no header says where

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        transport = self._transport
        return self._reusable and transport is not None and not transport.is_closing()

    def send(self, request: bytes) -> Reply:
        """Send a request; its reply comes by and by."""
        assert self._transport is not None
        self._reusable, self._to_the_end = False, True
        self._reply = Reply()
        self._transport.write(request)
        return self._reply

    def close(self) -> None:
        """Close at once; what is on its way is lost."""
        self._fail(ConnectionAbortedError("closed by this side"))
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._reusable = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"the answer is not HTTP/1.1: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reusable = False
        if exc is None and self._reply is not None and self._reply.status and self._to_the_end:
            self._reply.ends()
        elif isinstance(exc, OSError):
            self._fail(exc)
        else:
            self._fail(ConnectionResetError(str(exc or "the server closed it")))
        self._transport = None

    # --- httptools' protocol ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None:
            self._reply.headers.append((name, value))
            if name.lower() in {b"content-length", b"transfer-encoding"}:
                self._to_the_end = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._reply is None:
            self.close()  # nobody asked: the server is about to close an idle connection, and says why
        elif status >= 200:
            self._reply.begins(status)

    def on_body(self, data: bytes) -> None:
        if self._reply is not None and self._transport is not None:
            self._reply.grows(data, self._transport)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or not reply.status:  # of 1xx, which only announces the reply
            return
        self._reply = None
        self._reusable = self._parser.should_keep_alive()
        reply.ends()

    def _fail(self, error: OSError) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.ends(error)


class Pool:
    """Connections to one address, at most `limit` at a time; those used last are used first."""

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, server_name: str, limit: int
    ) -> None:
        """`server_name` is the name that the certificate must bear, for SNI as well."""
        self._host, self._port = host, port
        self._tls, self._server_name = tls, server_name
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False

    async def fetch(self, request: bytes, *, timeout: float) -> tuple[Reply, bytes]:
        """Send a request; returns its reply and the whole body.

        Raises:
            OSError: no connection, or it was lost, or `timeout` seconds passed (TimeoutError).
        """
        async with asyncio.timeout(timeout), self._slots:
            connection = self._ready() or await self._connect()
            try:
                reply = connection.send(request)
                body = await reply.all()
            except BaseException:
                self._drop(connection)
                raise
            self._keep(connection)
        return reply, body

    @asynccontextmanager
    async def open(self, request: bytes) -> AsyncIterator[Reply]:
        """Send a request whose reply may last; its connection is closed afterwards."""
        async with self._slots:
            connection = self._ready() or await self._connect()
            try:
                yield connection.send(request)
            finally:
                self._drop(connection)

    def close(self) -> None:
        """Close every connection; requests on their way end as lost."""
        self._closed = True
        self._idle.clear()
        for connection in [*self._open]:
            self._drop(connection)

    # --- parts ---

    def _ready(self) -> Connection | None:
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < KEEP_ALIVE:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                transport, connection = await loop.create_connection(
                    Connection,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=(self._server_name or self._host) if self._tls else None,
                )
        except TimeoutError as error:
            raise Unreachable(f"no connection within {CONNECT_TIMEOUT:.0f} s") from error
        except OSError as error:
            raise Unreachable(str(error)) from error
        _watch_over(transport.get_extra_info("socket"))
        self._open.add(connection)
        return connection

    def _keep(self, connection: Connection) -> None:
        if connection.usable and not self._closed:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()


def _watch_over(sock: socket.socket) -> None:
    """Notice within half a minute that the peer is gone; send at once what is written."""
    keep_alive(sock)
    with suppress(AttributeError, OSError):  # not every platform has both
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER * 1000)
