"""Lets pods go that have waited too long for their pool while no controller leads.

In: policies with `gate.onTimeout: Release`, pods without a node, the controller's Lease. Out: one PATCH for each pod
that has waited its time. Invariants: nothing is written while somebody leads; nobody is sent to a pool that has a
limit, so that no limit is broken, however long nobody counts. It decides nothing else, and needs no leader itself:
of two that write, one comes too late.
"""

import asyncio
import math
import socket
import time
from collections.abc import Iterator

import structlog

from overspill.errors import Conflict, Misconfigured, NotFound, OverspillError, Rejected, Retry
from overspill.kube.cache import Cache
from overspill.kube.client import JSON_PATCH, METADATA_ONLY, Client
from overspill.kube.config import load_config
from overspill.kube.events import Events
from overspill.kube.frames import Batch
from overspill.kube.leader import Vacancy
from overspill.kube.resources import PLACEMENT_POLICIES, PODS
from overspill.kube.watch import Watch, silence
from overspill.placement import patch
from overspill.placement.match import Directory
from overspill.placement.nodes import contradiction
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy, Pool
from overspill.placement.write import reference
from overspill.process import patiently
from overspill.serve import health
from overspill.settings import GuardSettings

__all__ = ["Guard", "fallback", "run_guard"]

log = structlog.get_logger(__name__)

LOOK_EVERY = 2.0
CONNECTIONS = 6


async def run_guard(settings: GuardSettings) -> None:
    """Guard until cancelled.

    Raises:
        Misconfigured: settings, credentials or permissions are not usable.
    """
    await patiently(lambda: _run_once(settings))


async def _run_once(settings: GuardSettings) -> None:
    config = load_config(settings.kubeconfig or None, settings.context or None)
    async with Client(config, connections=CONNECTIONS) as client:
        events = Events(client, instance=socket.gethostname(), component="overspill.dev/guard")
        guard = Guard(
            client, Vacancy(client, settings.lease_name, namespace=settings.lease_namespace), events
        )
        # A pod that is on a node waits for nobody.
        pods = Watch(client, PODS, kind=Pod, keep=Pod.kept, field_selector="spec.nodeName=")
        policies = Watch(client, PLACEMENT_POLICIES, kind=Policy)

        host, _, port = settings.health_address.rpartition(":")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(events.run(), name="events")
            tasks.create_task(policies.follow(guard.policies_changed), name="policies")
            tasks.create_task(pods.follow(guard.pods_changed), name="pods")
            tasks.create_task(guard.run(), name="guard")
            tasks.create_task(
                health.serve(host, int(port), {"watches": lambda: silence([pods, policies])}), name="health"
            )


class Guard:
    """What waits, since when, and whether somebody leads."""

    def __init__(self, client: Client, vacancy: Vacancy, events: Events) -> None:
        self._client = client
        self._vacancy = vacancy
        self._events = events
        self._pods: Cache[Pod] = Cache()
        self._policies: Cache[Policy] = Cache()
        self._directory = Directory()
        self._since: dict[str, float] = {}

    def pods_changed(self, batch: Batch[Pod]) -> None:
        """Take in a batch of pods."""
        now = time.monotonic()
        for key in self._pods.apply(batch):
            pod = self._pods.get(key)
            if pod is None or not pod.gated or pod.deleting:
                self._since.pop(key.uid, None)
            else:
                self._since.setdefault(key.uid, now)

    def policies_changed(self, batch: Batch[Policy]) -> None:
        """Take in a batch of policies."""
        for key in self._policies.apply(batch):
            policy = self._policies.find(key.namespace, key.name)
            if policy is None:
                self._directory.remove(key.namespace, key.name)
            else:
                self._directory.put(policy)

    def overdue(self, now: float) -> Iterator[tuple[Pod, Policy]]:
        """Pods that have waited for longer than their policy lets them, by our own clock."""
        for key in self._pods:
            pod, since = self._pods.get(key), self._since.get(key.uid)
            if pod is None or since is None:
                continue
            policy = next(iter(self._directory.matching(pod)), None)
            if policy is None or policy.spec.gate.on_timeout != "Release":
                continue
            if now - since >= policy.spec.gate.timeout_seconds:
                yield pod, policy

    async def run(self) -> None:
        """Look at the Lease again and again, and let pods go while nobody holds it; until cancelled."""
        await self._policies.synced.wait()
        await self._pods.synced.wait()
        log.info("guarding", pods=len(self._since))
        while True:
            try:
                if await self._vacancy.look():
                    await self._let_go()
            except Misconfigured:
                raise
            except OverspillError as error:
                log.warning("cannot look after pods that wait", error=str(error))
            await asyncio.sleep(LOOK_EVERY)

    async def _let_go(self) -> None:
        """Let all go that have waited their time, as long as still nobody leads; one that cannot go now holds nobody up."""
        looked_at = time.monotonic()
        for pod, policy in list(self.overdue(looked_at)):
            if time.monotonic() - looked_at >= LOOK_EVERY:
                if not await self._vacancy.look():
                    return
                looked_at = time.monotonic()
            try:
                await self._release(pod, policy)
            except Retry as error:
                which = f"{pod.metadata.namespace}/{pod.metadata.name}"
                log.warning("pod not let go yet", pod=which, error=str(error))
                looked_at = -math.inf

    async def _release(self, pod: Pod, policy: Policy) -> None:
        pool = (
            fallback(pod, policy) if policy.gates else None
        )  # suspended or deleted, and its pods wait all the same
        if pool is not None:
            labels, annotations = patch.marks(policy.metadata.name, pool)
            if await self._sent(pod, patch.place(pod, pool, labels, annotations), f"to pool {pool.name}"):
                return
        await self._sent(pod, patch.release(pod), "to wherever the scheduler puts it")

    async def _sent(self, pod: Pod, changes: list[patch.Operation], where: str) -> bool:
        """Let a pod go; False when the apiserver does not let it go there."""
        meta = pod.metadata
        try:
            await self._client.patch(
                PODS,
                meta.name,
                changes,
                namespace=meta.namespace,
                content_type=JSON_PATCH,
                accept=METADATA_ONLY,
                retry=False,
            )
        except (Conflict, NotFound):  # somebody else was first, perhaps a controller that leads by now
            return True
        except Rejected as error:
            log.warning("pod not let go", pod=f"{meta.namespace}/{meta.name}", where=where, error=str(error))
            return False
        self._since.pop(meta.uid, None)
        self._events.warning(reference(pod), "GateReleased", f"no controller leads; it was let go {where}")
        return True


def fallback(pod: Pod, policy: Policy) -> Pool | None:
    """The last pool, if it takes any number and the pod can run there."""
    pool = policy.spec.pools[-1]
    if pool.max_replicas is not None or contradiction(pod, pool, ()) is not None:
        return None
    return pool
