"""What pods refer to, fetched: ConfigMaps, Secrets, Services, tokens, claims. All I/O of resolving a pod.

In: `References`. Out: `Found`. Invariant: only objects that a pod of this node names are ever asked
for, one by one; there is no watch or list of Secrets. An answer serves every pod that asks within
`FRESH` seconds, and callers who ask for the same thing at once share one request: a Deployment's
thousand pods cost one GET per object and second. It serves no longer than that, for a new pod must see
what was written before it, as under a kubelet.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from msgspec import Struct

from overspill.agent.references import (
    ConfigMap,
    Found,
    ObjectName,
    References,
    Secret,
    Service,
    ServiceLinks,
    Token,
    TokenWish,
    service_links,
)
from overspill.errors import NotFound
from overspill.kube.client import Client
from overspill.kube.resources import (
    CONFIGMAPS,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)
from overspill.model.claims import Claim, Claimed, PersistentVolume
from overspill.model.pods import Meta

__all__ = ["Sources"]

T = TypeVar("T")

FRESH = 1.0
# The address of the apiserver's Service outlives every pod.
MASTER_FRESH = 60.0
# When a token is due for renewal: at this part of its life, or this age in seconds (pkg/kubelet/token).
RENEW_AT, RENEW_AGE = 0.8, 86400.0
NO_TOKEN = Token(b"", None)


class _TokenSpec(Struct, frozen=True, rename="camel"):
    expiration_seconds: int = 3600


class _TokenStatus(Struct, frozen=True):
    token: str


class _TokenAnswer(Struct, frozen=True):
    status: _TokenStatus
    spec: _TokenSpec = _TokenSpec()


class Sources:
    """Fetches what pods refer to."""

    def __init__(
        self, client: Client, *, issue_tokens: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without `issue_tokens` a token's file is empty: for backends that run nothing that could read it."""
        self._client = client
        self._issue_tokens = issue_tokens
        self._config_maps: _Shared[ConfigMap | None] = _Shared(FRESH, clock)
        self._secrets: _Shared[Secret | None] = _Shared(FRESH, clock)
        self._claims: _Shared[Claimed | None] = _Shared(FRESH, clock)
        self._links: _Shared[ServiceLinks] = _Shared(FRESH, clock)
        self._master: _Shared[Service | None] = _Shared(MASTER_FRESH, clock)

    async def find(self, meta: Meta, wanted: References) -> Found:
        """Everything that a pod refers to, as far as it is there.

        Raises:
            Retry: the apiserver did not answer.
            Misconfigured: the agent may not read one of them.
        """
        namespace = meta.namespace
        config_maps = {name: await self.config_map(namespace, name) for name in wanted.config_maps}
        secrets = {name: await self.secret(namespace, name) for name in wanted.secrets}
        links = await self.service_links(namespace if wanted.service_links else None)
        complete = all(config_maps[name] is not None for name in wanted.needed_config_maps) and all(
            secrets[name] is not None for name in wanted.needed_secrets
        )
        tokens = {wish: await self.token(meta, wish) for wish in wanted.tokens} if complete else None
        claims = {name: await self.claim(namespace, name) for name in wanted.claims}
        return Found(config_maps, secrets, links, tokens, claims)

    async def claim(self, namespace: str, name: str) -> Claimed | None:
        """A PersistentVolumeClaim and what is behind it, None if there is none of this name."""
        return await self._claims.get((namespace, name), lambda: self._read_claim(namespace, name))

    async def config_map(self, namespace: str, name: str) -> ConfigMap | None:
        """A ConfigMap, None if there is none of this name."""
        return await self._config_maps.get(
            (namespace, name), lambda: self._get(CONFIGMAPS, namespace, name, ConfigMap)
        )

    async def secret(self, namespace: str, name: str) -> Secret | None:
        """A Secret, None if there is none of this name."""
        return await self._secrets.get((namespace, name), lambda: self._get(SECRETS, namespace, name, Secret))

    async def reread(self, wanted: ObjectName, *, not_before: str) -> ConfigMap | Secret | None:
        """An object as it is now, None if there is none; whoever asks next is given this one.

        It comes from the apiserver's cache, which costs etcd nothing, and is no older than the
        resourceVersion `not_before` ("" for any).
        """
        query = {"resourceVersion": not_before or "0"}
        key = (wanted.namespace, wanted.name)
        if wanted.kind == "ConfigMap":
            config_map = await self._get(CONFIGMAPS, *key, ConfigMap, query)
            self._config_maps.put(key, config_map)
            return config_map
        secret = await self._get(SECRETS, *key, Secret, query)
        self._secrets.put(key, secret)
        return secret

    async def service_links(self, namespace: str | None) -> ServiceLinks:
        """The apiserver's Service as every container is told of it, and those of a namespace."""
        return await self._links.get(namespace, lambda: self._list_links(namespace))

    async def token(self, meta: Meta, wish: TokenWish) -> Token | None:
        """A new token that is valid as long as the pod exists; None if there is no such ServiceAccount."""
        if not self._issue_tokens:
            return NO_TOKEN
        try:
            answer = await self._client.create(
                SERVICEACCOUNTS,
                _token_request(meta, wish),
                namespace=meta.namespace,
                name=wish.service_account,
                subresource="token",
                kind=_TokenAnswer,
            )
        except NotFound:
            return None
        renew_after = min(RENEW_AT * answer.spec.expiration_seconds, RENEW_AGE)
        return Token(answer.status.token.encode(), renew_after)

    async def _read_claim(self, namespace: str, name: str) -> Claimed | None:
        claim = await self._get(PERSISTENTVOLUMECLAIMS, namespace, name, Claim)
        if claim is None or not claim.spec.volume_name:
            return None if claim is None else Claimed(claim)
        volume = await self._get(PERSISTENTVOLUMES, "", claim.spec.volume_name, PersistentVolume)
        wanted = volume.secret_name(claim) if volume else None
        secret = await self.secret(wanted.namespace, wanted.name) if wanted else None
        return Claimed(claim, volume, secret.data if secret else None)

    async def _list_links(self, namespace: str | None) -> ServiceLinks:
        master = await self._master.get(
            "kubernetes", lambda: self._get(SERVICES, "default", "kubernetes", Service)
        )
        own = await self._client.list(SERVICES, namespace=namespace, kind=Service) if namespace else []
        return service_links([*([master] if master else []), *own])

    async def _get(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        kind: type[T],
        query: Mapping[str, str] | None = None,
    ) -> T | None:
        try:
            return await self._client.get(resource, name, namespace=namespace, kind=kind, query=query)
        except NotFound:
            return None


def _token_request(meta: Meta, wish: TokenWish) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [wish.audience] if wish.audience else [],
            "expirationSeconds": wish.expiration_seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid},
        },
    }


class _Answer(Struct, Generic[T]):
    value: T
    fresh_until: float


class _Shared(Generic[T]):
    """Answers by key, each fetched by one caller at a time and shared while it is fresh."""

    def __init__(self, fresh: float, clock: Callable[[], float]) -> None:
        self._fresh = fresh
        self._clock = clock
        self._answers: dict[Hashable, _Answer[T]] = {}
        self._locks: dict[Hashable, asyncio.Lock] = {}

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        """The answer for a key; from `fetch`, if nobody has got a fresh one."""
        answer = self._fresh_answer(key)
        if answer is not None:
            return answer.value
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                return await self._fetched(key, fetch)
        finally:
            if not lock.locked():
                self._locks.pop(key, None)

    async def _fetched(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        answer = self._fresh_answer(key)  # of whoever held the lock before
        if answer is None:
            answer = self.put(key, await fetch())
        return answer.value

    def put(self, key: Hashable, value: T) -> "_Answer[T]":
        """Share an answer that somebody has fetched."""
        # That something is not there is believed for no longer than anything else: it is waited for.
        fresh = self._fresh if value is not None else min(self._fresh, FRESH)
        self._drop_stale()
        answer = self._answers[key] = _Answer(value, self._clock() + fresh)
        return answer

    def _fresh_answer(self, key: Hashable) -> _Answer[T] | None:
        answer = self._answers.get(key)
        return answer if answer is not None and self._clock() < answer.fresh_until else None

    def _drop_stale(self) -> None:
        now = self._clock()
        self._answers = {key: answer for key, answer in self._answers.items() if now < answer.fresh_until}
