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
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import aiohttp
from yarl import URL

from overspill import __version__, metrics
from overspill.errors import Misconfigured, OverspillError, Retry
from overspill.kube.config import Config
from overspill.kube.credentials import Credential
from overspill.kube.replies import error_of
from overspill.kube.tls import expiry, explain, tls_context

if TYPE_CHECKING:
    from prometheus_client import Counter

__all__ = ["NotSent", "Stream", "Transport"]

CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 30.0
# Under the apiserver's idle timeout of 90 s, so that it is rarely the one to close.
KEEP_ALIVE = 60.0
# Seconds after which a peer that acknowledges nothing is given up; TCP's own patience is a quarter of an hour.
DEAD_AFTER = 30
# The apiserver closes a watch that is not read fast enough, so there is room for a burst between two reads.
READ_BUFFER = 1 << 20
LOST = (aiohttp.ClientError, OSError, TimeoutError)


class NotSent(Retry):
    """No connection came about, so the request surely had no effect."""


class Stream:
    """An open reply."""

    def __init__(self, content: aiohttp.StreamReader, transport: "Transport") -> None:
        self._content = content
        self._transport = transport

    async def read(self) -> bytes:
        """All that has arrived, waiting for the first byte; nothing when the server has ended it.

        Raises:
            Retry: the connection is lost.
        """
        try:
            return await self._content.readany()
        except LOST as error:
            raise await self._transport.error_for(error) from error


class Transport:
    """Connections to one apiserver; `open` before use, `close` after."""

    def __init__(self, config: Config, *, connections: int) -> None:
        self._config = config
        self._connections = connections
        self._credential = Credential()
        self._opened: aiohttp.ClientSession | None = None
        self._headers: dict[tuple[str, str], dict[str, str]] = {}
        self._server_name = config.tls_server_name or None
        self._host = urlsplit(config.server).hostname or ""
        self._counters: dict[tuple[int | str, str], Counter] = {}

    async def open(self) -> None:
        """Read the credentials; connections come with the first requests.

        Raises:
            Misconfigured: credentials or CA cannot be used.
        """
        self._credential = await self._config.credentials.get()
        self._opened = self._new_session()

    async def close(self) -> None:
        """Close every connection."""
        if self._opened is not None:
            await self._opened.close()

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
        """One request and its whole reply.

        Raises:
            any of `errors.py`, by the reply or the lack of one; `NotSent` when none can have come.
        """
        url = self._url(path, query)
        reply = await self._send(method, url, body, (accept, content_type if body is not None else ""))
        try:
            content = await reply.read()
        except LOST as error:
            raise await self.error_for(error) from error
        if 200 <= reply.status < 300:
            return content
        raise self._refusal(reply, content)

    @asynccontextmanager
    async def stream(self, path: str, *, query: Mapping[str, str], accept: str) -> AsyncIterator[Stream]:
        """An open reply of any length and duration; its connection is closed afterwards.

        Raises:
            the same as `exchange`.
        """
        url = self._url(path, query)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                reply = await self._send("GET", url, None, (accept, ""), total=None)
                content = b"" if reply.status == 200 else await reply.read()
        except TimeoutError as error:
            raise await self.error_for(error) from error
        try:
            if reply.status != 200:
                raise self._refusal(reply, content)
            yield Stream(reply.content, self)
        finally:
            reply.close()

    async def error_for(self, error: Exception) -> OverspillError:
        """What the failure of a connection means, with the address and the cause."""
        server = f"apiserver {self._config.server}"
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Misconfigured(f"{server}: {await self._why_not_trusted(error.certificate_error)}")
        if _is_alert(error):
            return Misconfigured(f"{server} does not accept the client certificate: {error}{self._expired()}")
        if isinstance(error, aiohttp.ClientConnectorError):
            return NotSent(f"{server} cannot be reached: {_reason(error.os_error)}")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return NotSent(f"{server} cannot be reached: no connection within {CONNECT_TIMEOUT:.0f} s")
        if isinstance(error, TimeoutError):
            return Retry(f"{server} did not answer in time")
        return Retry(f"{server}: connection lost: {str(error) or type(error).__name__}")

    # --- parts ---

    async def _send(
        self,
        method: str,
        url: URL,
        body: bytes | None,
        kinds: tuple[str, str],
        *,
        total: float | None = REQUEST_TIMEOUT,
    ) -> aiohttp.ClientResponse:
        """The reply's head; with 401 once more if there are other credentials by now."""
        credential = await self._authenticate()
        reply = await self._attempt(method, url, body, kinds, total)
        if reply.status == 401 and await self._authenticate(refused=credential) is not credential:
            reply.close()
            reply = await self._attempt(method, url, body, kinds, total)
        return reply

    async def _attempt(
        self, method: str, url: URL, body: bytes | None, kinds: tuple[str, str], total: float | None
    ) -> aiohttp.ClientResponse:
        assert self._opened is not None, "open() comes first"
        try:
            reply = await self._opened.request(
                method,
                url,
                data=body,
                headers=self._headers.get(kinds) or self._new_headers(kinds),
                allow_redirects=False,
                server_hostname=self._server_name,
                timeout=TIMEOUTS[total],
            )
        except LOST as error:
            self._count("<error>", method)
            raise await self.error_for(error) from error
        self._count(reply.status, method)
        return reply

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
                old, self._opened = self._opened, self._new_session()
                if old is not None:
                    await old.close()
        return fresh

    def _new_session(self) -> aiohttp.ClientSession:
        secure = self._config.server.startswith("https:")
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            ssl=tls_context(self._config.ca, self._credential) if secure else False,
            keepalive_timeout=KEEP_ALIVE,
            socket_factory=_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Without this aiohttp asks for gzip, which costs the apiserver more than a short way saves.
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            read_bufsize=READ_BUFFER,
        )

    def _new_headers(self, kinds: tuple[str, str]) -> dict[str, str]:
        accept, content_type = kinds
        headers = {"Accept": accept, "User-Agent": f"overspill/{__version__}"}
        if content_type:
            headers["Content-Type"] = content_type
        if self._credential.token:
            headers["Authorization"] = f"Bearer {self._credential.token}"
        self._headers[kinds] = headers
        return headers

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        text = f"{self._config.server}{path}?{urlencode(query)}" if query else self._config.server + path
        return URL(text, encoded=True)

    def _refusal(self, reply: aiohttp.ClientResponse, content: bytes) -> OverspillError:
        error = error_of(
            reply.status, content, method=reply.method, path=reply.url.path, headers=reply.headers
        )
        if reply.status == 401:
            return Misconfigured(f"{error}, from {self._config.origin}{self._expired()}")
        return error

    def _expired(self) -> str:
        certificate = self._credential.certificate
        why = expiry(certificate) if certificate else ""
        return f"; the client certificate {why}" if why else ""

    async def _why_not_trusted(self, error: Exception) -> str:
        if not isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {error}"
        url = urlsplit(self._config.server)
        host = self._config.tls_server_name or url.hostname or ""
        return await explain(error, host=host, address=(url.hostname or "", url.port or 443))


TIMEOUTS = {
    total: aiohttp.ClientTimeout(total=total, sock_connect=CONNECT_TIMEOUT)
    for total in (None, REQUEST_TIMEOUT)
}


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices within half a minute that its peer is gone."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    with suppress(AttributeError, OSError):  # not every platform has all of them
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER * 1000)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_AFTER // 2)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_AFTER // 6)
    return made


def _reason(error: OSError) -> str:
    """The system's word for it; asyncio puts its own in the place of "Connection refused"."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return str(error.strerror or error)
    return os.strerror(error.errno)


def _is_alert(error: BaseException) -> bool:
    """Whether the server ended the TLS handshake because of what we showed."""
    causes = (error, error.__cause__, getattr(error, "os_error", None))
    return any(isinstance(cause, ssl.SSLError) and "ALERT" in str(cause.reason or "") for cause in causes)
