"""Requests to the apiserver: HTTP/1.1 over a bounded pool, with errors by what to do next.

In: method, path, body. Out: the reply's bytes, or an error of `errors.py`. Invariant: a request is
repeated only where repeating it cannot do harm; replies are decoded only when the caller asks.
"""

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
import stamina
from msgspec import Struct
from yarl import URL

from overspill import __version__, metrics
from overspill.errors import Retry, Throttled
from overspill.kube.config import Config
from overspill.kube.replies import connection_errors, error_of
from overspill.kube.resources import Resource

__all__ = ["APPLY", "JSON_PATCH", "MERGE", "METADATA_ONLY", "STRATEGIC", "Client", "selectors"]

JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 30.0
ATTEMPTS = 6
RETRY_FOR = 20.0
PAGE = 500
READ_BUFFER = 1 << 20

T = TypeVar("T")
encoder = msgspec.json.Encoder()


class _ListMeta(Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class Listed(Struct):
    """A list whose items stay encoded."""

    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] = []


class Client:
    """One apiserver's API."""

    def __init__(self, config: Config, *, connections: int = 32) -> None:
        self._config = config
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._config.tls or False)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"overspill/{__version__}"},
            # Without this aiohttp asks for gzip, which costs the apiserver more than the loopback saves.
            skip_auto_headers=("Accept-Encoding",),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
            read_bufsize=READ_BUFFER,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    # --- raw ---

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        retry: bool | None = None,
    ) -> bytes:
        """One request, repeated a few times where that is safe; returns the reply's body.

        `retry` says whether a request of unknown effect may be repeated; by default all but POST are.

        Raises:
            Retry, Throttled, NotFound, Conflict, Expired, Rejected, Misconfigured: by the reply.
        """
        url = self._url(path, query)
        repeatable = method != "POST" if retry is None else retry

        async def once() -> bytes:
            return await self._once(method, url, body, content_type, accept)

        if not repeatable:
            return await once()
        return await _repeated(once)

    async def _once(self, method: str, url: URL, body: bytes | None, content_type: str, accept: str) -> bytes:
        for renewed in (False, True):
            headers = await self._headers(accept, renew=renewed)
            if body is not None:
                headers["Content-Type"] = content_type
            with connection_errors(self._config.server):
                async with self._open().request(method, url, data=body, headers=headers) as reply:
                    content = await reply.read()
            metrics.REST_REQUESTS.labels(reply.status, method, url.host).inc()
            if reply.status < 400:
                return content
            if reply.status != 401 or renewed:
                break
        raise error_of(reply.status, content, method=method, path=url.path, headers=reply.headers)

    @asynccontextmanager
    async def stream(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
        """An open reply, for a watch; no limit to its length or duration.

        Raises:
            the same as `request`; never repeated.
        """
        url = self._url(path, query)
        headers = await self._headers(JSON, renew=False)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=None)
        with connection_errors(self._config.server):
            async with self._open().get(url, headers=headers, timeout=timeout) as reply:
                if reply.status >= 400:
                    content = await reply.read()
                    raise error_of(reply.status, content, method="GET", path=url.path, headers=reply.headers)
                yield reply.content

    # --- objects ---

    async def get(self, resource: Resource, name: str, *, namespace: str = "", kind: type[T]) -> T:
        """One object."""
        return _decode(await self.request("GET", resource.path(namespace=namespace, name=name)), kind)

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        kind: type[T],
    ) -> list[T]:
        """All objects, fetched in pages."""
        items, _ = await self.list_at(
            resource,
            namespace=namespace,
            field_selector=field_selector,
            label_selector=label_selector,
            kind=kind,
        )
        return list(items)

    async def list_at(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        kind: type[T],
        consistent: bool = True,
    ) -> tuple[Sequence[T], str]:
        """All objects and the resourceVersion they are of; not `consistent` takes the apiserver's cache."""
        query = {"limit": str(PAGE)} if consistent else {"resourceVersion": "0"}
        query |= selectors(field_selector, label_selector)
        items: list[T] = []
        while True:
            page = _decode(await self.request("GET", resource.path(namespace=namespace), query=query), Listed)
            items += [_decode(raw, kind) for raw in page.items]
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query = query | {"continue": page.metadata.continue_}

    async def create(
        self,
        resource: Resource,
        body: Any,
        *,
        namespace: str = "",
        name: str = "",
        subresource: str = "",
        kind: type[T],
    ) -> T:
        """Create an object, or POST to a subresource of one.

        Raises:
            Conflict: it exists already.
        """
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return _decode(await self.request("POST", path, body=_encode(body)), kind)

    async def update(
        self, resource: Resource, name: str, body: Any, *, namespace: str = "", kind: type[T]
    ) -> T:
        """Replace an object; its resourceVersion guards against overwriting a newer one."""
        return _decode(
            await self.request("PUT", resource.path(namespace=namespace, name=name), body=_encode(body)), kind
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        *,
        namespace: str = "",
        subresource: str = "",
        content_type: str = STRATEGIC,
        accept: str = METADATA_ONLY,
    ) -> bytes:
        """Patch an object; the reply is its metadata alone unless `accept` asks for more."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self.request("PATCH", path, body=_encode(body), content_type=content_type, accept=accept)

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Delete an object.

        Raises:
            NotFound: it is not there. Conflict: the object of this name has another uid.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        path = resource.path(namespace=namespace, name=name)
        await self.request("DELETE", path, body=encoder.encode(options), accept=METADATA_ONLY)

    # --- parts ---

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use the client as an async context manager"
        return self._session

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        text = self._config.server + path
        return URL(f"{text}?{urllib.parse.urlencode(query)}" if query else text, encoded=True)

    async def _headers(self, accept: str, *, renew: bool) -> dict[str, str]:
        headers = {"Accept": accept}
        token = await self._config.tokens.token(renew=renew)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers


def selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    """The query parameters of selectors that are not empty."""
    wanted = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {name: value for name, value in wanted.items() if value}


async def _repeated(once: Callable[[], Awaitable[bytes]]) -> bytes:
    """Repeat on `Retry` with growing pauses, or as long as the apiserver asked for."""
    try:
        return await once()  # the common case pays nothing for the retries
    except Throttled as error:
        await asyncio.sleep(error.retry_after)
    except Retry:
        pass
    async for attempt in stamina.retry_context(
        on=_pause, attempts=ATTEMPTS, timeout=RETRY_FOR, wait_initial=0.1, wait_max=5.0
    ):
        with attempt:
            return await once()
    raise AssertionError("retry_context returns or raises")


def _pause(error: Exception) -> bool | float:
    if isinstance(error, Throttled) and error.retry_after:
        return error.retry_after
    return isinstance(error, Retry)


def _encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else encoder.encode(body)


def _decode(content: bytes | msgspec.Raw, kind: type[T]) -> T:
    return msgspec.json.decode(content, type=kind)
