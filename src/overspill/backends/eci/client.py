"""Calls ECI's OpenAPI: signed, in a form body, through one pool of connections.

In: an action and its parameters. Out: its answer, typed, or an error of `faults`. Invariant:
each call waits for its budget; a call is sent again only where that cannot do a thing twice
(reads; creates by their client token; deletes by id; updates, which say all of what they set).
Each try is timed by itself, without its wait.
"""

import asyncio
import random
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from overspill.backends.eci.answers import GroupsPage, StatusPage
from overspill.backends.eci.credentials import Credentials
from overspill.backends.eci.faults import ApiThrottled, NoRoom, TokenExpired, fault
from overspill.backends.eci.rates import Rates, budget_of
from overspill.backends.eci.sign import API_VERSION, signed_headers
from overspill.backends.eci.wire import decode, form
from overspill.errors import Misconfigured, Retry
from overspill.metrics import BackendCall

__all__ = ["Client", "base_url"]

log = structlog.get_logger(__name__)

CONNECTIONS, UNBOUNDED = 64, 0
TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5, sock_read=20)
TRIES = 4
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 5.0
# A page of 200 groups has 300 KB; nothing that is answered comes near this.
MOST_BYTES = 32 << 20
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Paged(Protocol):
    """An answer that has a next page, or none."""

    @property
    def next_token(self) -> str:
        """Asks for the next page; empty on the last."""


T = TypeVar("T")
P = TypeVar("P", GroupsPage, StatusPage)


def base_url(endpoint: str) -> str:
    """`https://host[:port]` of an endpoint.

    Raises:
        Misconfigured: it is none, or plain HTTP to another machine, where keys and pods could be read.
    """
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise Misconfigured(f"endpoint {endpoint!r} must be a host, such as eci.cn-hangzhou.aliyuncs.com")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise Misconfigured(f"endpoint {endpoint!r}: plain HTTP is for an emulator on this machine only")
    return f"{parts.scheme}://{parts.netloc}"


def _pool(limit: int, trusted: ssl.SSLContext | bool) -> aiohttp.ClientSession:  # noqa: FBT001 - what aiohttp takes
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit, ssl=trusted, keepalive_timeout=60),
        timeout=TIMEOUT,
        skip_auto_headers=("User-Agent", "Content-Type"),
    )


class Client:
    """One account's ECI in one region. Used as an async context manager."""

    def __init__(
        self,
        *,
        endpoint: str,
        region: str,
        credentials: Credentials,
        rates: Rates,
        version: str = API_VERSION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`version` is that of another product's API, where `endpoint` is not ECI's."""
        self._url = base_url(endpoint)
        self._host = urlsplit(self._url).netloc
        self.region = region
        self.rates = rates
        self._version = version
        self._credentials = credentials
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Reading the system's certificates takes 50 ms, which an emulator on this machine needs none of.
        trusted = ssl.create_default_context() if self._url.startswith("https:") else True
        self._session, self._streams = _pool(CONNECTIONS, trusted), _pool(UNBOUNDED, trusted)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._streams, self._session):
            if session is not None:
                await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool of connections for calls."""
        assert self._session is not None, "the client is used as a context manager"
        return self._session

    @property
    def streams(self) -> aiohttp.ClientSession:
        """Where connections that stay open are made: however many people have a shell open, calls find one."""
        assert self._streams is not None, "the client is used as a context manager"
        return self._streams

    async def call(
        self,
        action: str,
        parameters: Mapping[str, Any],
        kind: type[T],
        *,
        safe: bool = True,
        tries: int = TRIES,
    ) -> T:
        """One action; `safe` allows it to be sent again when its reply was lost.

        Raises:
            Retry: no answer, or one of 5xx, after some tries; nothing is known about the effect.
            ApiError: ECI refused, as its class says.
            Misconfigured: no valid credentials, or its certificate is not trusted.
        """
        body = form({"RegionId": self.region, **parameters})
        for attempt in range(1, tries + 1):
            await self.rates[budget_of(action)].take()
            try:
                with BackendCall("eci", action):
                    return await self._once(action, body, kind)
            except NoRoom:
                raise  # an answer, and not soon another one
            except Retry as error:
                if isinstance(error, ApiThrottled):
                    self.rates[budget_of(action)].throttled(error.retry_after)
                elif isinstance(error, TokenExpired):
                    self._credentials.drop()
                elif not safe:
                    raise
                if attempt == tries:
                    raise
                log.debug("call to ECI is made again", action=action, attempt=attempt, error=str(error))
            await asyncio.sleep(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1))  # noqa: S311 - spreads load
        raise AssertionError("the last try returns or raises")

    async def pages(self, action: str, parameters: Mapping[str, Any], kind: type[P]) -> AsyncIterator[P]:
        """Every page of a listing, or an error in its midst."""
        token: str | None = None
        while True:
            page = await self.call(action, {**parameters, "NextToken": token}, kind)
            yield page
            token = page.next_token
            if not token:
                return

    async def _once(self, action: str, body: bytes, kind: type[T]) -> T:
        key = await self._credentials.key(self.session)
        headers = signed_headers(
            action,
            host=self._host,
            body=body,
            key=key,
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock())),
            nonce=secrets.token_hex(16),
            version=self._version,
        )
        try:
            async with self.session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                content = await _content(action, response)
                if response.status != 200:
                    raise fault(action, status=response.status, body=content, headers=response.headers)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Misconfigured(f"ECI at {self._url}: its certificate is not trusted: {error}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            raise Retry(f"ECI {action}: no answer from {self._url}: {what}") from error
        try:
            return decode(content, kind)
        except msgspec.MsgspecError as error:
            raise Retry(f"ECI {action}: an answer that cannot be read: {error}") from error


async def _content(action: str, response: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    left = MOST_BYTES
    async for piece in response.content.iter_any():
        left -= len(piece)
        if left < 0:
            response.close()
            raise Retry(f"ECI {action}: an answer of more than {MOST_BYTES >> 20} MiB is not read")
        pieces.append(piece)
    return b"".join(pieces)
