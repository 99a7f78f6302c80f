"""The node's heartbeat, and the proof that nobody else is this node.

In: the apiserver's Lease. Out: a renewed Lease every 10 s. Invariant: while another live agent holds
the Lease this one does not touch it, and one that lost it stops. The holder that Kubernetes reads is
the node's name; which process it is stands in an annotation of ours.
Source: https://kubernetes.io/docs/reference/node/node-status/#heartbeats.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from overspill import metrics, names
from overspill.errors import Conflict, Misconfigured, NotFound, OverspillError, Retry
from overspill.kube.client import MERGE, Client
from overspill.kube.resources import LEASES

__all__ = ["NODE_LEASES", "Lease", "NodeLease", "live_leases"]

log = structlog.get_logger(__name__)

NODE_LEASES = "kube-node-lease"
DURATION = 40
RENEW_EVERY = 10.0
# After a failure, so that several more fit in before the Lease runs out.
TRY_AGAIN_AFTER = 2.0
# For each request, as the kubelet has it: on a slow apiserver a renewal of two or three must still come to its end.
REQUEST_TIMEOUT = 10.0
RELEASE_TIMEOUT = 2.0
ACQUIRE_TRIES = 5
# Longer than between two renewals.
SILENCE = 15.0
# Seconds after a renewal was sent for which nobody else takes the Lease: the earliest is a pod of its name, after `SILENCE`.
SURE = SILENCE - 2.0


class Held(Misconfigured):
    """Another live agent is this node."""


class _Meta(Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Spec(Struct, rename="camel"):
    renew_time: str = ""
    lease_duration_seconds: int = DURATION


class Lease(Struct):
    """A node's Lease, in part; without a holder if it was let go, or is not there."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)

    @property
    def holder(self) -> str:
        """Which process it is."""
        return self.metadata.annotations.get(names.HOLDER_ANNOTATION, "")

    def lives(self, now: float) -> bool:
        """Whether somebody holds it who has renewed it in time."""
        return bool(self.holder) and now - _seconds(self.spec.renew_time) < self.spec.lease_duration_seconds


async def live_leases(
    client: Client, *, label_selector: str, clock: Callable[[], float] = time.time
) -> dict[str, Mapping[str, str]]:
    """Node -> annotations of the Lease of every agent that lives, of those with these labels."""
    found = await client.list(LEASES, namespace=NODE_LEASES, label_selector=label_selector, kind=Lease)
    now = clock()
    return {each.metadata.name: each.metadata.annotations for each in found if each.lives(now)}


class NodeLease:
    """One node's Lease.

    Attributes:
        node: name of the node, and of its Lease.
        owner_uid: uid of the Node object, once it is known; the Lease is deleted with it.
        labels: of the Lease.
        annotate: asked at every renewal for annotations; nobody else may write them (docs/decisions/0007).
        renewals: how often it was written.
    """

    def __init__(
        self, client: Client, node: str, *, holder: str, clock: Callable[[], float] = time.time
    ) -> None:
        """`holder` is host/uid of the agent's pod, which a restarted container shares, or host/pid; `clock` tells Unix time."""
        self._client = client
        self.node = node
        self._holder = holder
        self._clock = clock
        self._renewed = time.monotonic()
        self._version = ""
        self._silent = ("", "")  # a holder that is known not to live, and its last renewTime
        self._sent: list[str] = []  # the renewTimes that may count still, whether or not they arrived
        self.owner_uid = ""
        self.labels: Mapping[str, str] = {}
        self.annotate: Callable[[], Mapping[str, str]] = dict
        self.renewals = 0
        metrics.LEASE_AGE.set_function(lambda: self.age)

    @property
    def age(self) -> float:
        """Seconds since the last renewal that arrived was sent."""
        return time.monotonic() - self._renewed

    @property
    def sure(self) -> bool:
        """Whether nobody else can have taken it by now."""
        return self.age < SURE

    async def acquire(self) -> None:
        """Take the Lease.

        Raises:
            Misconfigured: another agent holds it and is alive; the message names it.
            Retry: the apiserver cannot be reached, or another agent is taking it at the same time.
        """
        for _ in range(ACQUIRE_TRIES):
            try:
                await self._take()
            except Conflict:
                continue
            except Held:
                if not await self._predecessor_is_silent():
                    raise
                continue
            return
        raise Retry(f"lease {NODE_LEASES}/{self.node} changes faster than it can be taken")

    async def _predecessor_is_silent(self) -> bool:
        """Whether the holder was a pod of our name that is gone, as when it was killed and is made anew.

        It might as well be a pod of another StatefulSet of the same name. That one renews the Lease meanwhile.
        """
        before = await self._read()
        if not _of_one_name(before.holder, self._holder):
            return False
        log.info(
            "waiting whether the pod that held the lease still lives", node=self.node, holder=before.holder
        )
        await asyncio.sleep(SILENCE)
        after = await self._read()
        self._silent = before.holder, before.spec.renew_time
        return not after.holder or self._silent == (after.holder, after.spec.renew_time)

    async def _read(self) -> Lease:
        """As it stands; nobody's if it is not there."""
        try:
            return await self._client.get(LEASES, self.node, namespace=NODE_LEASES, kind=Lease)
        except NotFound:
            return Lease()

    async def run(self) -> None:
        """Renew until cancelled, then let go of it, so that a successor need not wait.

        Raises:
            Misconfigured: another agent has taken it.
        """
        pause = RENEW_EVERY
        try:
            while True:
                await asyncio.sleep(pause * random.uniform(1.0, 1.04))  # noqa: S311 - nodes started together drift apart
                pause = RENEW_EVERY if await self._renewed_now() else TRY_AGAIN_AFTER
        except asyncio.CancelledError:
            await self._release()
            raise

    async def _renewed_now(self) -> bool:
        try:
            await self._renew()
        except Held:
            raise
        except (OverspillError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            log.warning("lease not renewed", node=self.node, error=why, age=round(self.age))
            return False
        return True

    async def _renew(self) -> None:
        """Write it without reading it first; a version that is not ours is looked into."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await self._update(self._version)
        except (Conflict, NotFound):
            async with asyncio.timeout(2 * REQUEST_TIMEOUT):
                await self._take()

    async def _take(self) -> None:
        try:
            found = await self._client.get(LEASES, self.node, namespace=NODE_LEASES, kind=Lease)
        except NotFound:
            await self._create()
            return
        self._check(found)
        await self._update(found.metadata.resource_version)

    def _check(self, found: Lease) -> None:
        if not found.lives(self._clock()) or (found.holder, found.spec.renew_time) == self._silent:
            return
        if found.holder == self._holder:
            # Ours from before a restart, or a write whose reply was lost. Any other means a twin.
            if self._version and found.spec.renew_time not in self._sent:
                raise Held(
                    f"node {self.node} is served by two agents that both call themselves {self._holder}"
                )
        elif _may_live(found.holder, self._holder):
            age = self._clock() - _seconds(found.spec.renew_time)
            raise Held(
                f"node {self.node} is served by another agent, {found.holder}, which renewed its lease"
                f" {age:.0f} s ago: stop that one, or give this one another --node-name"
            )

    async def _create(self) -> None:
        body, sent = self._body(version=""), time.monotonic()
        self._note(await self._client.create(LEASES, body, namespace=NODE_LEASES, kind=Lease), sent)

    async def _update(self, version: str) -> None:
        body, sent = self._body(version=version), time.monotonic()
        self._note(
            await self._client.update(
                LEASES, self.node, body, namespace=NODE_LEASES, kind=Lease, retry=False
            ),
            sent,
        )

    def _note(self, written: Lease, sent: float) -> None:
        self._version = written.metadata.resource_version
        self._renewed = sent
        self.renewals += 1

    async def _release(self) -> None:
        """Take our name off, unless it is somebody else's by now; the last renewal may have been cut off."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                try:
                    await self._let_go()
                except Conflict:  # that renewal was stored in between
                    await self._let_go()
        except (OverspillError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            log.warning("lease not let go: a successor waits until it runs out", node=self.node, error=why)

    async def _let_go(self) -> None:
        found = await self._client.get(LEASES, self.node, namespace=NODE_LEASES, kind=Lease)
        if found.holder != self._holder or found.spec.renew_time not in self._sent:
            return
        patch = {
            "metadata": {
                "annotations": {names.HOLDER_ANNOTATION: None},
                "resourceVersion": found.metadata.resource_version,
            },
            # Since 1.37 the node controller believes that its cache is stale, and never marks the node NotReady, when a
            # lease changed whose renewTime did not (NodeControllerLeaseCircuitBreaker).
            "spec": {"renewTime": _micro_time(self._clock())},
        }
        await self._client.patch(
            LEASES, self.node, patch, namespace=NODE_LEASES, content_type=MERGE, retry=False
        )

    async def remove(self) -> None:
        """Delete it with its node, once `run` has let go of it; one that another agent took meanwhile stays."""
        with contextlib.suppress(NotFound, Conflict):
            found = await self._client.get(LEASES, self.node, namespace=NODE_LEASES, kind=Lease)
            if found.holder in {"", self._holder}:
                version = found.metadata.resource_version
                await self._client.delete(LEASES, self.node, namespace=NODE_LEASES, resource_version=version)

    def _body(self, *, version: str) -> dict[str, Any]:
        now = self._clock()
        renewed, run_out = _micro_time(now), _micro_time(now - DURATION)
        self._sent = [*(each for each in self._sent if each > run_out), renewed]
        metadata: dict[str, Any] = {
            "name": self.node,
            "namespace": NODE_LEASES,
            "annotations": {names.HOLDER_ANNOTATION: self._holder, **self.annotate()},
        }
        if self.labels:
            metadata["labels"] = self.labels
        if version:
            metadata["resourceVersion"] = version
        if self.owner_uid:
            metadata["ownerReferences"] = [
                {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.owner_uid}
            ]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {"holderIdentity": self.node, "leaseDurationSeconds": DURATION, "renewTime": renewed},
        }


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _seconds(renew_time: str) -> float:
    return datetime.fromisoformat(renew_time).timestamp() if renew_time else 0.0


def _of_one_name(holder: str, mine: str) -> bool:
    """Whether both are pods (host/uid) of one name."""
    host, _, uid = holder.rpartition("/")
    own_host, _, own = mine.rpartition("/")
    return host == own_host and not uid.isdigit() and not own.isdigit()


def _may_live(holder: str, mine: str) -> bool:
    """Whether a holder written as host/pid may still run; on our own host this can be looked up."""
    host, _, pid = holder.rpartition("/")
    if host != mine.rpartition("/")[0] or not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
