"""A connection to an apiserver that costs next to nothing, so that loaders do not measure themselves.

In: a kubeconfig, requests. Out: status and body. Invariant: one request at a time on a connection,
which is kept; nothing is repeated, and anything but a good answer is an error.
"""

import asyncio
import base64
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import yaml

JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"


class Server:
    """Where the apiserver is, and who we are."""

    def __init__(self, kubeconfig: str) -> None:
        config = yaml.safe_load(Path(kubeconfig).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        url = urlsplit(cluster["server"])
        self.host, self.port = url.hostname or "", url.port or 443
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=ca)
        with tempfile.NamedTemporaryFile() as file:  # the ssl module reads keys from files alone
            for key in ("client-certificate-data", "client-key-data"):
                file.write(base64.b64decode(user[key]))
            file.flush()
            self.tls.load_cert_chain(file.name)


class Connection:
    """One kept connection."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __aenter__(self) -> Self:
        server = self._server
        self._reader, self._writer = await asyncio.open_connection(
            server.host, server.port, ssl=server.tls, limit=1 << 20
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str = JSON,
        accept: str = "",
        agent: str,
    ) -> tuple[int, bytes]:
        """One request; returns status and body: of a write the object's metadata, unless `accept` wants more."""
        await self.send(method, path, body, content_type=content_type, accept=accept, agent=agent)
        status, headers = await self._head()
        if headers.get(b"transfer-encoding") == b"chunked":
            return status, b"".join([chunk async for chunk in self.chunks()])
        return status, await self._reader.readexactly(int(headers.get(b"content-length", b"0")))

    async def send(
        self, method: str, path: str, body: bytes, *, content_type: str, accept: str = "", agent: str
    ) -> None:
        """Send a request."""
        accept = accept or (JSON if method == "GET" else METADATA)
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {self._server.host}\r\nUser-Agent: {agent}\r\n"
            f"Accept: {accept}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await self._writer.drain()

    async def watch(self, path: str, *, agent: str) -> int:
        """Begin a watch, to be read by `chunks`; returns the status."""
        await self.send("GET", path, b"", content_type=JSON, agent=agent)
        status, _ = await self._head()
        return status

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces of a chunked answer."""
        while size := int(await self._reader.readline() or b"0", 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readline()

    async def _head(self) -> tuple[int, dict[bytes, bytes]]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines if line)
        return int(first.split(b" ", 2)[1]), headers


async def call(server: Server, method: str, path: str, body: bytes = b"", **fields: str) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    async with Connection(server) as connection:
        return await connection.request(method, path, body, agent="bench-setup", **fields)
