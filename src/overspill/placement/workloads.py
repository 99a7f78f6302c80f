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

_Name = tuple[str, str]


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


class ReplicaSetSpec(Struct, frozen=True, gc=False):
    """How many pods it is to have."""

    replicas: int = 1


class ReplicaSet(Struct, frozen=True):
    """A ReplicaSet, in part."""

    metadata: ReplicaSetMeta
    spec: ReplicaSetSpec = ReplicaSetSpec()

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

    @property
    def given_up(self) -> bool:
        """Whether nothing is rolled out to it: an aborted Rollout keeps its newest ReplicaSet, without pods.

        A Deployment's may begin without any, if nothing is to surge.
        """
        return self.spec.replicas == 0 and self.owner is not None and self.owner.kind == "Rollout"


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
        self._owners: dict[_Name, str] = {}  # ReplicaSet -> uid of its owner
        self._sets: dict[str, dict[_Name, ReplicaSet]] = {}  # owner -> its ReplicaSets
        self._old: set[_Name] = set()

    def put(self, found: ReplicaSet) -> set[_Name]:
        """Take a ReplicaSet in; the ReplicaSets, by namespace and name, for which `is_old` changed."""
        owner = found.owner
        if owner is None:
            return set()
        name = (intern(found.metadata.namespace), found.metadata.name)
        self._owners[name] = owner.uid
        self._sets.setdefault(owner.uid, {})[name] = found
        return self._sort(owner.uid)

    def remove(self, namespace: str, name: str) -> set[_Name]:
        """Forget a ReplicaSet; the others for which `is_old` changed."""
        owner = self._owners.pop((namespace, name), None)
        if owner is None:
            return set()
        del self._sets[owner][namespace, name]
        self._old.discard((namespace, name))
        flipped = self._sort(owner)
        if not self._sets[owner]:
            del self._sets[owner]
        return flipped

    def is_old(self, namespace: str, name: str) -> bool:
        """Whether its owner has a newer one."""
        return (namespace, name) in self._old

    def _sort(self, owner: str) -> set[_Name]:
        """Find out which of an owner's are old; those for which it changed."""
        siblings = self._sets[owner]
        newest = max((each.revision for each in siblings.values() if not each.given_up), default=0)
        flipped = {name for name, each in siblings.items() if (each.revision < newest) != (name in self._old)}
        self._old ^= flipped
        return flipped
