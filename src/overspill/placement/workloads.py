"""Workloads: how many pods they want, and which of their revisions is the newest.

In: Deployments, StatefulSets and ReplicaSets in part. Out: answers by name. Pure. Invariant: a ReplicaSet that is
not known is not old; so a pod that comes before its ReplicaSet is treated as the newest revision's.
"""

from sys import intern

import msgspec
from msgspec import Struct

from overspill import names
from overspill.model.pods import OwnerReference

__all__ = ["ReplicaSet", "Revisions", "Workload"]


class _RevisionAnnotations(Struct, frozen=True, gc=False):
    deployment: str = msgspec.field(name="deployment.kubernetes.io/revision", default="")
    rollout: str = msgspec.field(name="rollout.argoproj.io/revision", default="")


class ReplicaSetMeta(Struct, frozen=True, rename="camel"):
    """ObjectMeta of a ReplicaSet."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    annotations: _RevisionAnnotations = _RevisionAnnotations()
    owner_references: tuple[OwnerReference, ...] = ()


class ReplicaSet(Struct, frozen=True):
    """A ReplicaSet, in part."""

    metadata: ReplicaSetMeta

    @property
    def revision(self) -> int:
        """Its number among its owner's; it rises again when the owner goes back to it."""
        annotations = self.metadata.annotations
        text = annotations.deployment or annotations.rollout
        return int(text) if text.isdigit() else 0

    @property
    def owner(self) -> OwnerReference | None:
        """The Deployment or Rollout that made it."""
        return next((each for each in self.metadata.owner_references if each.controller), None)


class _BaseAnnotation(Struct, frozen=True, gc=False):
    base: str | None = msgspec.field(name=names.BASE_ANNOTATION, default=None)


class WorkloadMeta(Struct, frozen=True, rename="camel"):
    """ObjectMeta of a Deployment or StatefulSet."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    annotations: _BaseAnnotation = _BaseAnnotation()


class _Ordinals(Struct, frozen=True, gc=False):
    start: int = 0


class WorkloadSpec(Struct, frozen=True):
    """How many pods, and the number of the first one of a StatefulSet."""

    replicas: int = 1
    ordinals: _Ordinals = _Ordinals()


class Workload(Struct, frozen=True):
    """A Deployment or StatefulSet, in part."""

    metadata: WorkloadMeta
    spec: WorkloadSpec = WorkloadSpec()


class Revisions:
    """Which ReplicaSets make room for newer ones."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], str] = {}  # ReplicaSet -> uid of its owner
        self._numbers: dict[str, dict[tuple[str, str], int]] = {}  # owner -> ReplicaSet -> revision

    def put(self, found: ReplicaSet) -> list[tuple[str, str]]:
        """Take a ReplicaSet in; the ReplicaSets, by namespace and name, for which `is_old` changed."""
        owner = found.owner
        if owner is None:
            return []
        name = (intern(found.metadata.namespace), found.metadata.name)
        siblings = self._numbers.setdefault(owner.uid, {})
        before = _newest(siblings)
        self._owners[name] = owner.uid
        siblings[name] = found.revision
        after = _newest(siblings)
        return [] if before == after else list(siblings)

    def remove(self, namespace: str, name: str) -> None:
        """Forget a ReplicaSet."""
        owner = self._owners.pop((namespace, name), None)
        if owner is not None:
            self._numbers[owner].pop((namespace, name), None)
            if not self._numbers[owner]:
                del self._numbers[owner]

    def is_old(self, namespace: str, name: str) -> bool:
        """Whether its owner has a newer one."""
        owner = self._owners.get((namespace, name))
        if owner is None:
            return False
        siblings = self._numbers[owner]
        return siblings[namespace, name] < max(siblings.values())


def _newest(siblings: dict[tuple[str, str], int]) -> tuple[str, str] | None:
    return max(siblings, key=siblings.__getitem__, default=None)
