"""What the apiserver looks up when a pod is created.

In: a namespace's policies. Out: its PlacementIndex, written when it differs from what was last written, and now and then.
Invariant: a policy is marked as indexed only some time after the index names it, so that at every moment either
the index or the policy itself makes its pods wait.
"""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from overspill import names
from overspill.errors import NotFound
from overspill.kube.client import APPLY, MERGE, Client
from overspill.kube.resources import PLACEMENT_INDEXES, PLACEMENT_POLICIES
from overspill.placement.match import target_key
from overspill.placement.policy import Policy

__all__ = ["INDEX", "INDEXED_LABEL", "IndexWriter", "index_of"]

INDEX = "overspill"
INDEXED_LABEL = f"{names.PLACEMENT}/indexed"
encoder = msgspec.json.Encoder(order="deterministic")
# An index is written again after this many seconds: somebody may have deleted or changed it.
STANDS = 60.0


def index_of(policies: Iterable[Policy]) -> dict[str, Any]:
    """The spec of a PlacementIndex."""
    workloads: list[str] = []
    selectors = []
    for policy in policies:
        if not policy.gates:
            continue
        key = target_key(policy)
        if key is not None:
            workloads.append(key)
        elif policy.spec.selector is not None:
            selectors.append({"policy": policy.metadata.name, **msgspec.to_builtins(policy.spec.selector)})
    return {"workloads": f" {' '.join(workloads)} " if workloads else "", "selectors": selectors}


NOTHING = encoder.encode(index_of(()))


def _named(policy: Policy) -> tuple[str, bytes]:
    """What an index names of a policy, by its uid: the pods of one that is edited wait by it only when it says so, too."""
    return policy.metadata.uid, encoder.encode((target_key(policy), policy.spec.selector))


class _Meta(Struct, frozen=True):
    namespace: str = ""


class _Index(Struct, frozen=True):
    metadata: _Meta = _Meta()


class IndexWriter:
    """Writes the indexes of all namespaces."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._written: dict[str, tuple[bytes, float]] = {}  # namespace -> what and when
        self._named: dict[
            str, dict[tuple[str, bytes], float]
        ] = {}  # namespace -> what it names -> since when

    def names(self, policy: Policy) -> bool:
        """Whether the index may name a policy's workload, as far as this process knows."""
        named = self._named.get(policy.metadata.namespace)
        return named is None or any(uid == policy.metadata.uid for uid, _ in named)

    async def namespaces(self) -> list[str]:
        """Those that have an index.

        Raises:
            OverspillError: they could not be listed.
        """
        found = await self._client.list(PLACEMENT_INDEXES, kind=_Index)
        return [each.metadata.namespace for each in found]

    def named_since(self, policy: Policy) -> float:
        """Since when the index has been right for a policy, as `time.monotonic` tells it."""
        return self._named[policy.metadata.namespace][_named(policy)]

    def due(self, namespace: str) -> float | None:
        """Seconds after which an index is to be written again; None for one that is not there."""
        body, at = self._written[namespace]
        return None if body == NOTHING else max(at + STANDS - time.monotonic(), 0.0)

    async def write(self, namespace: str, policies: list[Policy]) -> None:
        """Have the index right.

        Raises:
            OverspillError: it could not be written.
        """
        await self._have(namespace, index_of(policies))
        before, now = self._named.get(namespace, {}), time.monotonic()
        named = [_named(each) for each in policies if each.gates]
        self._named[namespace] = {each: before.get(each, now) for each in named}

    async def _have(self, namespace: str, spec: dict[str, Any]) -> None:
        body = encoder.encode(spec)
        if self._written.get(namespace, (b"", 0.0))[0] == body and self.due(namespace) != 0:
            return
        if body == NOTHING:
            with contextlib.suppress(NotFound):
                await self._client.delete(PLACEMENT_INDEXES, INDEX, namespace=namespace)
        else:
            await self._apply(namespace, spec)
        self._written[namespace] = body, time.monotonic()

    async def _apply(self, namespace: str, spec: dict[str, Any]) -> None:
        content = {
            "apiVersion": "placement.overspill.dev/v1alpha1",
            "kind": "PlacementIndex",
            "metadata": {"name": INDEX, "namespace": namespace},
            "spec": spec,
        }
        await self._client.request(
            "PATCH",
            PLACEMENT_INDEXES.path(namespace=namespace, name=INDEX),
            query={"fieldManager": "overspill-controller", "force": "true"},
            body=encoder.encode(content),
            content_type=APPLY,
        )

    async def mark_indexed(self, policy: Policy) -> None:
        """Say on a policy that its namespace's index names it, and that it is not to go before its pods are free.

        Raises:
            OverspillError: it could not be written.
        """
        meta = policy.metadata
        if meta.labels.get(INDEXED_LABEL) and names.RELEASE_FINALIZER in meta.finalizers:
            return
        finalizers = dict.fromkeys((*meta.finalizers, names.RELEASE_FINALIZER))
        change = {
            "metadata": {
                "resourceVersion": meta.resource_version,
                "labels": {INDEXED_LABEL: "true"},
                "finalizers": list(finalizers),
            }
        }
        await self._client.patch(
            PLACEMENT_POLICIES, meta.name, change, namespace=meta.namespace, content_type=MERGE
        )

    async def let_go(self, policy: Policy) -> None:
        """Let a policy that is being deleted go.

        Raises:
            OverspillError: it could not be written.
        """
        meta = policy.metadata
        left = [each for each in meta.finalizers if each != names.RELEASE_FINALIZER]
        change = {"metadata": {"resourceVersion": meta.resource_version, "finalizers": left}}
        await self._client.patch(
            PLACEMENT_POLICIES, meta.name, change, namespace=meta.namespace, content_type=MERGE
        )
