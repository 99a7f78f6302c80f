"""The webhook of one replica: policies watched, certificates kept, requests answered.

In: a client, an address. Out: answers, until cancelled. Invariant: every replica answers, whether it leads or not,
from its own copy of the PlacementPolicies.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from functools import partial

from msgspec import Raw

from overspill.kube.cache import Cache
from overspill.kube.client import Client
from overspill.kube.resources import PLACEMENT_POLICIES
from overspill.kube.watch import Watch
from overspill.placement.match import Directory
from overspill.placement.patch import Operation
from overspill.placement.policy import Policy
from overspill.webhook.certificates import Certificates, Lives
from overspill.webhook.gates import gate, mark
from overspill.webhook.injection import inject
from overspill.webhook.server import Server

__all__ = ["PATHS", "SERVICE", "Webhook"]

# What the manifest calls the Service, and what is asked at which path.
SERVICE = "overspill-webhook"
GATE, MARK, INJECT = PATHS = ("/gate", "/base-replicas", "/virtual-node-affinity-injection")
WATCH_AGE_LIMIT = 150.0
ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - names of them; which one to bind is the user's choice


class Webhook:
    """The webhook at one socket."""

    def __init__(
        self, client: Client, bound: socket.socket, *, namespace: str, lives: Lives | None = None
    ) -> None:
        """`namespace` is where the Service is, and the Secret of the authorities."""
        self._policies: Cache[Policy] = Cache()
        self._directory = Directory()
        self._watch = Watch(client, PLACEMENT_POLICIES, kind=Policy)
        self._server = Server(bound, self._decisions())
        self._certificates = Certificates(
            client,
            self._server.listener.use_certificate,
            namespace=namespace,
            hosts=_hosts(bound, namespace),
            lives=lives or Lives(),
        )

    @property
    def checks(self) -> Mapping[str, Callable[[], str | None]]:
        """What must hold before apiservers are sent here, by name."""
        return {"webhook": lambda: self._certificates.trouble, "webhook-policies": self._watch_trouble}

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="webhook policies")
            tasks.create_task(self._certificates.run(), name="webhook certificates")
            tasks.create_task(self._server.run(), name="webhook")

    def _decisions(self) -> Mapping[str, Callable[[str, Raw], list[Operation]]]:
        return {
            GATE: partial(gate, self._directory),
            MARK: lambda _, content: mark(content),
            INJECT: lambda _, content: inject(content),
        }

    async def _follow(self) -> None:
        async for batch in self._watch.batches():
            for key in self._policies.apply(batch):
                policy = self._policies.find(key.namespace, key.name)
                if policy is None:
                    self._directory.remove(key.namespace, key.name)
                else:
                    self._directory.put(policy)

    def _watch_trouble(self) -> str | None:
        if not self._policies.synced.is_set():
            return "PlacementPolicies are not listed yet"
        age = self._watch.age
        return f"nothing heard of PlacementPolicies for {age:.0f} s" if age > WATCH_AGE_LIMIT else None


def _hosts(bound: socket.socket, namespace: str) -> list[str]:
    """By which names apiservers reach the socket: through the Service, or at its own address."""
    address = bound.getsockname()[0]
    return [f"{SERVICE}.{namespace}.svc", *([] if address in ANY_ADDRESS else [address])]
