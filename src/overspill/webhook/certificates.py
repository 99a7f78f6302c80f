"""The webhook's certificates: an authority in a Secret, a leaf in this process, trust in the configuration.

In: an apiserver. Out: `use(certificate, key)` at each new leaf; the Secret; `caBundle` of every webhook. Invariants:
all replicas sign by the Secret, which is written only in the version that was read; a leaf's key is never written
anywhere; what somebody takes out of the configuration or the Secret is put back within `every` seconds.
"""

import asyncio
import datetime as dt
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from overspill import pki
from overspill.errors import Conflict, NotFound, OverspillError, Retry
from overspill.kube.client import Client
from overspill.kube.resources import MUTATING_WEBHOOKS, SECRETS
from overspill.webhook import authorities
from overspill.webhook.authorities import Authorities, Content

__all__ = ["CONFIGURATION", "SECRET", "Certificates", "Lives"]

log = structlog.get_logger(__name__)

SECRET = "overspill-webhook-ca"  # noqa: S105 - the name of one
CONFIGURATION = "overspill"
AGAIN = 0.2  # seconds after which to read what another replica wrote

Use = Callable[[bytes, bytes], None]


class Lives(Struct, frozen=True):
    """How long things last; a leaf is replaced after 70 to 90 % of its life, `every` seconds all is looked at."""

    authority: dt.timedelta = dt.timedelta(days=3650)
    leaf: dt.timedelta = dt.timedelta(days=30)
    every: float = 10.0


class _Meta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Secret(Struct, frozen=True):
    metadata: _Meta = _Meta()
    data: Content = Content()


class _ClientConfig(Struct, frozen=True, rename="camel"):
    ca_bundle: bytes = b""


class _Webhook(Struct, frozen=True, rename="camel"):
    name: str
    client_config: _ClientConfig = _ClientConfig()


class _Configuration(Struct, frozen=True):
    webhooks: tuple[_Webhook, ...] = ()


class Certificates:
    """Keeps one replica's certificate valid and trusted.

    Attributes:
        trouble: why it is not, or None.
    """

    def __init__(
        self, client: Client, use: Use, *, namespace: str, hosts: Sequence[str], lives: Lives
    ) -> None:
        """`hosts` are the DNS names and addresses by which apiservers reach the webhook."""
        self.trouble: str | None = "there is no serving certificate yet"
        self._client = client
        self._use = use
        self._namespace = namespace
        self._hosts = hosts
        self._lives = lives
        self._signed_by = b""
        self._renew_at = 0.0

    async def run(self) -> None:
        """Look after them until cancelled."""
        while True:
            pause = self._lives.every
            try:
                await self._look()
                self.trouble = None
            except Conflict:
                pause = AGAIN
            except Retry as error:  # what is served now stays good
                log.warning("webhook certificates not looked at; trying again", error=str(error))
            except OverspillError as error:
                if self.trouble != str(error):
                    log.warning("webhook not usable; trying again", error=str(error))
                self.trouble = str(error)
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        known = await self._authorities()
        self._renew_leaf(known)
        # Last: who sees the bundle for the first time can rely on the server.
        await self._publish(authorities.bundle(known))

    async def _authorities(self) -> Authorities:
        """Those of the Secret, after it was brought up to date.

        Raises:
            Conflict: another replica was first.
        """
        try:
            secret = await self._client.get(SECRETS, SECRET, namespace=self._namespace, kind=_Secret)
        except NotFound:
            secret = _Secret()
        found = authorities.read(secret.data)
        wanted = authorities.renewed(found, now=time.time(), life=self._lives.authority)
        if wanted != found:
            await self._write(secret.metadata.resource_version, authorities.content_of(wanted))
            log.info("webhook authorities written", name=SECRET, authorities=len(wanted))
        return wanted

    async def _write(self, version: str, content: Content) -> None:
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": self._namespace},
            "data": msgspec.to_builtins(content),
        }
        if version:
            body["metadata"]["resourceVersion"] = version
            await self._client.update(SECRETS, SECRET, body, namespace=self._namespace, kind=_Secret)
        else:
            await self._client.create(SECRETS, body, namespace=self._namespace, kind=_Secret)

    def _renew_leaf(self, known: Authorities) -> None:
        now = time.time()
        authority = authorities.signer(known, now=now, life=self._lives.authority)
        if authority.certificate == self._signed_by and now < self._renew_at:
            return
        left = pki.expires_at(authority.certificate) - now
        life = min(self._lives.leaf, dt.timedelta(seconds=left))
        leaf = pki.issue(authority, common_name=self._hosts[0], hosts=self._hosts, server=True, life=life)
        self._use(leaf.certificate, leaf.key)
        self._signed_by = authority.certificate
        # Replicas drift apart, so that they do not all change at once.
        self._renew_at = now + life.total_seconds() * random.uniform(0.7, 0.9)  # noqa: S311 - spreads load
        log.info("webhook serves with a new certificate", hosts=self._hosts, seconds=life.total_seconds())

    async def _publish(self, bundle: bytes) -> None:
        """Have every webhook of the configuration trust the authorities.

        Raises:
            NotFound: there is no configuration.
        """
        try:
            found = await self._client.get(MUTATING_WEBHOOKS, CONFIGURATION, kind=_Configuration)
        except NotFound as error:
            raise NotFound(
                f"MutatingWebhookConfiguration {CONFIGURATION} is not there: apply deploy/webhook"
            ) from error
        stale = [each.name for each in found.webhooks if each.client_config.ca_bundle != bundle]
        if not stale:
            return
        change = {"webhooks": [{"name": name, "clientConfig": {"caBundle": bundle}} for name in stale]}
        try:
            await self._client.patch(MUTATING_WEBHOOKS, CONFIGURATION, change)
        except Conflict:
            return  # another replica is writing the same
        log.info("webhooks trust the authorities", webhooks=stale)
