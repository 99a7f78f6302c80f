"""The node's heartbeat, and the proof that nobody else is this node.

In: the apiserver's Lease. Out: a renewed Lease every 10 s. Invariant: while another live agent
holds the Lease this one does not touch it; the holder that Kubernetes reads is the node's name,
which process it is stands in an annotation of ours.
Source: https://kubernetes.io/docs/reference/node/node-status/#heartbeats.
"""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from overspill import names
from overspill.errors import Misconfigured, NotFound, OverspillError
from overspill.kube.client import Client
from overspill.kube.resources import LEASES

__all__ = ["NodeLease"]

log = structlog.get_logger(__name__)

NAMESPACE = "kube-node-lease"
DURATION = 40
RENEW_EVERY = 10.0


class _Meta(Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Spec(Struct, rename="camel"):
    holder_identity: str = ""
    renew_time: str = ""
    lease_duration_seconds: int = DURATION


class _Lease(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


class NodeLease:
    """One node's Lease."""

    def __init__(
        self, client: Client, node: str, *, holder: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._node = node
        self._holder = holder
        self._clock = clock
        self._renewed = clock()
        self.owner_uid = ""

    @property
    def age(self) -> float:
        """Seconds since it was last renewed."""
        return self._clock() - self._renewed

    async def acquire(self) -> None:
        """Take the Lease.

        Raises:
            Misconfigured: another agent holds it and is alive.
        """
        found = await self._found()
        if found is not None:
            self._check_holder(found)
        await self._renew()

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(RENEW_EVERY)
            try:
                await self._renew()
            except Misconfigured:
                raise
            except OverspillError as error:
                log.warning("lease not renewed", node=self._node, error=str(error), age=round(self.age))

    async def _renew(self) -> None:
        found = await self._found()
        if found is None:
            await self._client.create(LEASES, self._body(""), namespace=NAMESPACE, kind=_Lease)
        else:
            self._check_holder(found)
            body = self._body(found.metadata.resource_version)
            await self._client.update(LEASES, self._node, body, namespace=NAMESPACE, kind=_Lease)
        self._renewed = self._clock()

    async def _found(self) -> _Lease | None:
        try:
            return await self._client.get(LEASES, self._node, namespace=NAMESPACE, kind=_Lease)
        except NotFound:
            return None

    def _check_holder(self, found: _Lease) -> None:
        holder = found.metadata.annotations.get(names.HOLDER_ANNOTATION, "")
        age = self._clock() - _seconds(found.spec.renew_time)
        if (
            holder
            and holder != self._holder
            and age < found.spec.lease_duration_seconds
            and _may_live(holder, self._holder)
        ):
            raise Misconfigured(
                f"node {self._node} is served by another agent, {holder}, which renewed its lease {age:.0f} s ago:"
                " stop that one, or give this one another --node-name"
            )

    def _body(self, resource_version: str) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": self._node,
            "namespace": NAMESPACE,
            "annotations": {names.HOLDER_ANNOTATION: self._holder},
        }
        if resource_version:
            metadata["resourceVersion"] = resource_version
        if self.owner_uid:
            metadata["ownerReferences"] = [
                {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self.owner_uid}
            ]
        now = (
            datetime.fromtimestamp(self._clock(), UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z")
        )
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {"holderIdentity": self._node, "leaseDurationSeconds": DURATION, "renewTime": now},
        }


def _seconds(renew_time: str) -> float:
    return datetime.fromisoformat(renew_time).timestamp() if renew_time else 0.0


def _may_live(holder: str, mine: str) -> bool:
    """Whether a holder, written as host/pid, may still run; on our own host this can be looked up."""
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
