"""One HTTP exchange with the apiserver: connections, credentials, TLS; no retries, no objects.

In: method, path, body. Out: the reply's bytes, an open stream, or an error of `errors.py`. Invariant:
every connection is verified; a credential that has been renewed is used from the next request on. A
faster transport replaces this file alone.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from overspill import __version__, metrics
from overspill.errors import Misconfigured, OverspillError, Retry
from overspill.kube.config import Config
from overspill.kube.credentials import Credential
from overspill.kube.http1 import Pool, Reply, Unreachable
from overspill.kube.replies import error_of
from overspill.kube.tls import expiry, explain, tls_context

if TYPE_CHECKING:
    from prometheus_client import Counter

__all__ = ["NotSent", "Stream", "Transport"]

REQUEST_TIMEOUT = 30.0


class NotSent(Retry):
    """No connection came about, so the request surely had no effect."""


class Stream:
    """An open reply."""

    def __init__(self, reply: Reply, transport: "Transport") -> None:
        self._reply = reply
        self._transport = transport

    async def read(self) -> bytes:
        """All that has arrived, waiting for the first byte; nothing when the server has ended it.

        Raises:
            Retry: the connection is lost.
        """
        try:
            return await self._reply.piece()
        except OSError as error:
            raise await self._transport.error_for(error) from error


class Transport:
    """Connections to one apiserver; `open` before use, `close` after."""

    def __init__(self, config: Config, *, connections: int) -> None:
        self._config = config
        self._connections = connections
        self._credential = Credential()
        self._opened: Pool | None = None
        url = urlsplit(config.server)
        self._host, self._port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        self._authority = url.netloc.rpartition("@")[2]
        self._prefix = url.path.rstrip("/")
        self._headers: dict[tuple[str, str], str] = {}
        self._counters: dict[tuple[int | str, str], Counter] = {}

    async def open(self) -> None:
        """Read the credentials; connections come with the first requests.

        Raises:
            Misconfigured: credentials or CA cannot be used.
        """
        self._credential = await self._config.credentials.get()
        self._opened = self._new_pool()

    async def close(self) -> None:
        """Close every connection."""
        if self._opened is not None:
            self._opened.close()

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        accept: str,
    ) -> bytes:
        """One request and its whole reply; with 401 once more if there are other credentials by now.

        Raises:
            any of `errors.py`, by the reply or the lack of one; `NotSent` when none can have come.
        """
        credential = await self._authenticate()
        reply, content = await self._attempt(method, path, query, body, content_type, accept)
        if reply.status == 401 and await self._authenticate(refused=credential) is not credential:
            reply, content = await self._attempt(method, path, query, body, content_type, accept)
        if 200 <= reply.status < 300:
            return content
        raise self._refusal(method, path, reply, content)

    @asynccontextmanager
    async def stream(self, path: str, *, query: Mapping[str, str], accept: str) -> AsyncIterator[Stream]:
        """An open reply of any length and duration; its connection is closed afterwards.

        Raises:
            the same as `exchange`.
        """
        credential = await self._authenticate()
        async with AsyncExitStack() as stack:
            reply, content = await self._begin(stack, path, query, accept)
            if reply.status == 401 and await self._authenticate(refused=credential) is not credential:
                reply, content = await self._begin(stack, path, query, accept)
            if reply.status != 200:
                raise self._refusal("GET", path, reply, content)
            yield Stream(reply, self)

    async def error_for(self, error: Exception) -> OverspillError:
        """What the failure of a connection means, with the address and the cause."""
        server = f"apiserver {self._config.server}"
        cause = error.__cause__ if isinstance(error, Unreachable) else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Misconfigured(f"{server}: {await self._why_not_trusted(cause)}")
        if _is_alert(cause or error):
            return Misconfigured(
                f"{server} does not accept the client certificate: {cause or error}{self._expired()}"
            )
        if isinstance(error, Unreachable):
            return NotSent(f"{server} cannot be reached: {_reason(error)}")
        if isinstance(error, TimeoutError):
            return Retry(f"{server} did not answer in time")
        return Retry(f"{server}: connection lost: {str(error) or type(error).__name__}")

    # --- parts ---

    async def _attempt(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        accept: str,
    ) -> tuple[Reply, bytes]:
        assert self._opened is not None, "open() comes first"
        request = self._request(method, path, query, body, (accept, content_type if body is not None else ""))
        try:
            reply, content = await self._opened.fetch(request, timeout=REQUEST_TIMEOUT)
        except OSError as error:
            self._count("<error>", method)
            raise await self.error_for(error) from error
        self._count(reply.status, method)
        return reply, content

    async def _begin(
        self, stack: AsyncExitStack, path: str, query: Mapping[str, str], accept: str
    ) -> tuple[Reply, bytes]:
        """An open reply, of which `stack` closes the connection; with its body if it is a refusal."""
        assert self._opened is not None, "open() comes first"
        request = self._request("GET", path, query, None, (accept, ""))
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                reply = await stack.enter_async_context(self._opened.open(request))
                await reply.head()
                content = b"" if reply.status == 200 else await reply.all()
        except OSError as error:
            self._count("<error>", "GET")
            raise await self.error_for(error) from error
        self._count(reply.status, "GET")
        return reply, content

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        kinds: tuple[str, str],
    ) -> bytes:
        target = f"{self._prefix}{path}?{urlencode(query)}" if query else self._prefix + path
        headers = self._headers.get(kinds) or self._new_headers(kinds)
        if body is None:
            return f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode("ascii")
        length = f"Content-Length: {len(body)}\r\n"
        return f"{method} {target} HTTP/1.1\r\n{headers}{length}\r\n".encode("ascii") + body

    def _count(self, code: int | str, method: str) -> None:
        counter = self._counters.get((code, method))
        if counter is None:  # looking a series up by its labels costs more than counting
            counter = metrics.REST_REQUESTS.labels(code, method, self._host)
            self._counters[code, method] = counter
        counter.inc()

    async def _authenticate(self, *, refused: Credential | None = None) -> Credential:
        """The credential in use; a new one is taken into use first."""
        fresh = await self._config.credentials.get(refused=refused)
        before = self._credential
        if fresh is not before:
            self._credential = fresh
            self._headers.clear()
            if (fresh.certificate, fresh.key) != (before.certificate, before.key):
                # A connection is known by the certificate it began with: all are made anew.
                old, self._opened = self._opened, self._new_pool()
                if old is not None:
                    old.close()
        return fresh

    def _new_pool(self) -> Pool:
        config = self._config
        return Pool(
            self._host,
            self._port,
            tls=tls_context(config.ca, self._credential) if config.server.startswith("https:") else None,
            server_name=config.tls_server_name,
            limit=self._connections,
        )

    def _new_headers(self, kinds: tuple[str, str]) -> str:
        accept, content_type = kinds
        headers = {"Host": self._authority, "Accept": accept, "User-Agent": f"overspill/{__version__}"}
        if content_type:
            headers["Content-Type"] = content_type
        if self._credential.token:
            headers["Authorization"] = f"Bearer {self._credential.token}"
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            raise Misconfigured(f"{self._config.origin}: a token or address that no HTTP header can carry")
        self._headers[kinds] = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return self._headers[kinds]

    def _refusal(self, method: str, path: str, reply: Reply, content: bytes) -> OverspillError:
        error = error_of(
            reply.status, content, method=method, path=path, retry_after=reply.header("Retry-After")
        )
        if reply.status == 401:
            return Misconfigured(f"{error}, from {self._config.origin}{self._expired()}")
        return error

    def _expired(self) -> str:
        certificate = self._credential.certificate
        why = expiry(certificate) if certificate else ""
        return f"; the client certificate {why}" if why else ""

    async def _why_not_trusted(self, error: ssl.SSLCertVerificationError) -> str:
        host = self._config.tls_server_name or self._host
        return await explain(error, host=host, address=(self._host, self._port))


def _reason(error: OSError) -> str:
    """The system's word for it; asyncio puts its own in the place of "Connection refused"."""
    cause = error.__cause__
    if not isinstance(cause, OSError) or isinstance(cause, TimeoutError):
        return str(error)
    if isinstance(cause, socket.gaierror | ssl.SSLError) or not cause.errno:
        return str(cause.strerror or cause)
    return os.strerror(cause.errno)


def _is_alert(error: BaseException) -> bool:
    """Whether the server ended the TLS handshake because of what we showed."""
    return isinstance(error, ssl.SSLError) and "ALERT" in str(error.reason or "")
