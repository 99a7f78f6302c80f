"""Requests to the apiserver, with retries and objects.

In: method, path, body; resources, names, objects. Out: the reply's bytes or an object, or an error of
`errors.py`. Invariant: a request is repeated only where that can do no harm; replies are decoded only
when the caller asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import msgspec
import stamina
from msgspec import Struct

from overspill.errors import Expired, Rejected, Retry, Throttled
from overspill.kube.config import Config
from overspill.kube.resources import Resource
from overspill.kube.transport import NotSent, Stream, Transport

__all__ = ["APPLY", "JSON_PATCH", "MERGE", "METADATA_ONLY", "STRATEGIC", "Client", "selectors"]

JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
# The reply of a write without spec and status, from whatever server can do that.
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

ATTEMPTS = 10
RETRY_FOR = 30.0
PAGE = 500
PAGED_TRIES = 3

T = TypeVar("T")
encoder = msgspec.json.Encoder()


class _ListMeta(Struct, rename="camel"):
    resource_version: str = ""
    more: str = msgspec.field(name="continue", default="")


class _Page(Struct, Generic[T]):
    metadata: _ListMeta
    items: list[T] = []


class Client:
    """One apiserver's API."""

    def __init__(self, config: Config, *, connections: int = 32) -> None:
        self._transport = Transport(config, connections=connections)

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

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
        """One request, repeated for up to half a minute where that is safe; returns the reply's body.

        `retry=True` also repeats one that may have had its effect, `False` never repeats. By default
        GET, PUT, PATCH and DELETE are repeated, and POST as long as it surely had no effect.

        Raises:
            Retry, Throttled, NotFound, Conflict, Expired, Rejected, Misconfigured: by the reply.
        """

        def once() -> Awaitable[bytes]:
            return self._transport.exchange(
                method, path, query=query, body=body, content_type=content_type, accept=accept
            )

        try:
            return await once()  # the common case pays nothing for the retries
        except Retry as error:
            effect_may_repeat = method != "POST" if retry is None else retry
            if retry is False or not _may_repeat(error, effect_may_repeat=effect_may_repeat):
                raise
            pause = error.retry_after if isinstance(error, Throttled) else 0.0
        await asyncio.sleep(pause)
        return await _again(once, effect_may_repeat=effect_may_repeat)

    def stream(self, path: str, *, query: Mapping[str, str]) -> AbstractAsyncContextManager[Stream]:
        """An open reply, for a watch: of any length and duration, and never repeated.

        Raises:
            the same as `request`, when it is entered.
        """
        return self._transport.stream(path, query=query, accept=JSON)

    async def get(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        kind: type[T],
        query: Mapping[str, str] | None = None,
    ) -> T:
        """One object."""
        path = resource.path(namespace=namespace, name=name)
        return _decode(await self.request("GET", path, query=query), kind)

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
        query = selectors(field_selector, label_selector)
        items, _ = await self.list_at(resource.path(namespace=namespace), query=query, kind=kind)
        return [*items]

    async def list_at(self, path: str, *, query: Mapping[str, str], kind: type[T]) -> tuple[Sequence[T], str]:
        """All objects of a collection, and the resourceVersion of the list.

        Raises:
            Expired: the list is so long that its first page does not live until the last.
        """
        for attempt in range(PAGED_TRIES):
            try:
                return await self._list_once(path, query, kind)
            except Expired:  # of the token that continues the list
                if attempt == PAGED_TRIES - 1:
                    raise
        raise AssertionError

    async def _list_once(self, path: str, query: Mapping[str, str], kind: type[T]) -> tuple[Sequence[T], str]:
        query = {"limit": str(PAGE), **query}
        items: Sequence[T] = []
        while True:
            page = _decode(await self.request("GET", path, query=query), _Page[kind])  # type: ignore[valid-type]  # made at run time
            items = [*items, *page.items]
            if not page.metadata.more:
                return items, page.metadata.resource_version
            query["continue"] = page.metadata.more

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
        """Create an object, or POST to a subresource of the one called `name`.

        Raises:
            Conflict: it exists already.
        """
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return _decode(await self.request("POST", path, body=_encode(body)), kind)

    async def update(
        self,
        resource: Resource,
        name: str,
        body: Any,
        *,
        namespace: str = "",
        kind: type[T],
        retry: bool | None = None,
    ) -> T:
        """Replace an object; the resourceVersion in it guards against overwriting a newer one."""
        path = resource.path(namespace=namespace, name=name)
        return _decode(await self.request("PUT", path, body=_encode(body), retry=retry), kind)

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
        retry: bool | None = None,
    ) -> bytes:
        """Patch an object; the reply is its metadata alone unless `accept` asks for more."""
        return await self.request(
            "PATCH",
            resource.path(namespace=namespace, name=name, subresource=subresource),
            body=_encode(body),
            content_type=content_type,
            accept=accept,
            retry=retry,
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Delete an object.

        Raises:
            NotFound: it is not there. Conflict: the object of this name has another uid or version.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        wanted = {"uid": uid, "resourceVersion": resource_version}
        if preconditions := {key: value for key, value in wanted.items() if value is not None}:
            options["preconditions"] = preconditions
        path = resource.path(namespace=namespace, name=name)
        await self.request("DELETE", path, body=encoder.encode(options), accept=METADATA_ONLY)


def selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    """The query parameters of those selectors that are not empty."""
    wanted = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {name: value for name, value in wanted.items() if value}


def _may_repeat(error: Exception, *, effect_may_repeat: bool) -> bool:
    """Whether to send it again: throttled and unsent requests had no effect, of others it is not known."""
    return isinstance(error, Retry) and (effect_may_repeat or isinstance(error, Throttled | NotSent))


async def _again(once: Callable[[], Awaitable[bytes]], *, effect_may_repeat: bool) -> bytes:
    def pause(error: Exception) -> bool | float:
        if isinstance(error, Throttled) and error.retry_after:
            return error.retry_after
        return _may_repeat(error, effect_may_repeat=effect_may_repeat)

    async for attempt in stamina.retry_context(
        on=pause, attempts=ATTEMPTS, timeout=RETRY_FOR, wait_initial=0.1, wait_max=5.0
    ):
        with attempt:
            return await once()
    raise AssertionError


def _encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else encoder.encode(body)


@cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        decoded: T = _decoder(cast("Hashable", kind)).decode(content)
    except msgspec.DecodeError as error:
        raise Rejected(f"the apiserver's answer is no {kind.__name__}: {error}") from error
    return decoded
