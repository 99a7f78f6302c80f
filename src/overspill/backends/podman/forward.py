"""A connection to a port of a pod.

In: the pod's network namespace and address. Out: a `Process` over one TCP
connection. Invariant: inside the namespace the pod's loopback is tried, as
kubectl's users expect; where the namespace cannot be entered (the agent runs
in a container of its own) the pod's address stands in, which reaches only what
listens there.
"""

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from overspill.backends.connections import let_go
from overspill.errors import NotFound

__all__ = ["Forwarded", "connect", "socket_in"]

BLOCK = 64 << 10
TIMEOUT = 10.0  # seconds
CLONE_NEWNET = 0x40000000
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Forwarded:
    """A `Process` over a TCP connection; all that comes is stdout."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        """Send."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def close_stdin(self) -> None:
        """Half-close."""
        with suppress(OSError):
            self._writer.write_eof()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """What comes back."""
        with suppress(ConnectionError):
            while data := await self._reader.read(BLOCK):
                yield 1, data

    async def resize(self, *, width: int, height: int) -> None:
        """There is no terminal."""

    async def wait(self) -> int:
        """A connection has no exit code."""
        return 0

    async def close(self) -> None:
        """Close."""
        await let_go(self._writer)


async def connect(namespace: str, address: str, port: int) -> Forwarded:
    """Connect to a port of a pod, on its loopback where that can be reached.

    Raises:
        NotFound: nothing listens there.
    """
    failure: OSError | None = None
    for family, host in LOOPBACKS:
        try:
            connection = await socket_in(namespace, family)
        except OSError:
            break  # no way in: the namespace is another machine's or another container's to see
        try:
            return await _connected(connection, host, port)
        except OSError as error:
            connection.close()
            failure = error
    try:
        return await _connected(_plain_socket(address), address, port)
    except OSError as error:
        raise NotFound(f"nothing listens on port {port} of the pod: {failure or error}") from error


async def _connected(connection: socket.socket, host: str, port: int) -> Forwarded:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT):
            await loop.sock_connect(connection, (host, port))
        return Forwarded(*await asyncio.open_connection(sock=connection))
    except BaseException:
        connection.close()
        raise


def _plain_socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    return made


async def socket_in(namespace: str, family: socket.AddressFamily) -> socket.socket:
    """A socket of another network namespace: a socket stays in the one its thread was in when it was made."""
    future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def make() -> None:
        try:
            made = _enter_and_make(namespace, family)
        except OSError as error:
            loop.call_soon_threadsafe(_settle, future, None, error)
        else:
            loop.call_soon_threadsafe(_settle, future, made, None)

    # A thread of its own, which ends thereafter: it never comes back from the namespace.
    threading.Thread(target=make, daemon=True).start()
    return await future


def _settle(
    future: "asyncio.Future[socket.socket]", made: socket.socket | None, error: OSError | None
) -> None:
    if future.cancelled():
        if made:
            made.close()
    elif made:
        future.set_result(made)
    elif error:
        future.set_exception(error)


def _enter_and_make(namespace: str, family: socket.AddressFamily) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(handle)
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    return made
