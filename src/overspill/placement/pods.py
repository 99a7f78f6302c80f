"""A pod as placement sees it: decoded in part, kept small.

In: a watch event's bytes. Out: `Pod`, and pure questions about it. Invariant: a kept pod owns its bytes, and
one that waits for nothing here any more has let go of what only a decision needs.
"""

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from overspill import names
from overspill.model.affinity import Affinity, Term
from overspill.model.pods import OwnerReference
from overspill.placement.ranks import rank_of

__all__ = ["Pod", "affinity_terms"]

ORDINAL = re.compile(r"-([0-9]+)$")
# Why a node has no instance for a pod, in our backends' words: another pool may. An instance on its way is none of these.
NOT_PROVISIONED = frozenset(
    {"NoStock", "QuotaExceeded", "NoAddress", "SpotInterrupted", "ScheduleFailed", "Refused"}
)
ENDED = frozenset({"Succeeded", "Failed"})


class Annotations(Struct, frozen=True, gc=False):
    """Those that are read."""

    rank: str = msgspec.field(name=names.RANK_ANNOTATION, default="")
    cost: str = msgspec.field(name=names.DELETION_COST, default="")


class PodMeta(Struct, frozen=True, rename="camel"):
    """ObjectMeta; labels stay encoded, annotations None when there are none at all.

    At admission the name may be yet to be generated, and empty; the time of creation is none yet, which apiservers
    before 1.34 write as null (kubernetes/kubernetes#130989).
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: Raw = Raw()
    annotations: Annotations | None = None
    owner_references: tuple[OwnerReference, ...] = ()


class Gate(Struct, frozen=True, gc=False):
    """A scheduling gate."""

    name: str


class Resources(Struct, frozen=True):
    """What a container, or the pod as a whole, asks for."""

    requests: dict[str, str | int] = {}


class Container(Struct, frozen=True, rename="camel"):
    """A container, as the scheduler counts it; an init container that restarts always is a sidecar."""

    resources: Resources = Resources()
    restart_policy: str = ""


class PodSpec(Struct, frozen=True, rename="camel"):
    """What decides where a pod may go."""

    node_name: str = ""
    scheduling_gates: tuple[Gate, ...] = ()
    node_selector: dict[str, str] | None = None
    affinity: Raw = Raw()
    tolerations: Raw = Raw()
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    resources: Resources = Resources()
    overhead: dict[str, str | int] = {}


class PodCondition(Struct, frozen=True, rename="camel", gc=False):
    """A condition of the pod."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class PodStatus(Struct, frozen=True):
    """Phase and conditions."""

    phase: str = ""
    conditions: tuple[PodCondition, ...] = ()


class Pod(Struct, frozen=True):
    """A pod, in part."""

    metadata: PodMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def kept(self) -> "Pod":
        """This pod with bytes of its own, and without what no decision will need."""
        meta, spec = self.metadata, self.spec
        meta = msgspec.structs.replace(meta, labels=meta.labels.copy())
        if spec.node_name:
            spec = PodSpec(
                node_name=spec.node_name,
                containers=spec.containers,
                init_containers=spec.init_containers,
                resources=spec.resources,
                overhead=spec.overhead,
            )
        else:
            spec = msgspec.structs.replace(
                spec, affinity=spec.affinity.copy(), tolerations=spec.tolerations.copy()
            )
        return Pod(meta, spec, self.status)

    @property
    def labels(self) -> dict[str, str]:
        """The labels, decoded anew at each call."""
        raw = self.metadata.labels
        return msgspec.json.decode(raw, type=dict[str, str]) if raw else {}

    @property
    def created(self) -> str:
        """When it was stored; "" before."""
        return self.metadata.creation_timestamp or ""

    @property
    def owner(self) -> OwnerReference | None:
        """The controller that made it."""
        return next((each for each in self.metadata.owner_references if each.controller), None)

    @property
    def gated(self) -> bool:
        """Whether it waits for us."""
        return any(gate.name == names.GATE for gate in self.spec.scheduling_gates)

    @property
    def bound(self) -> bool:
        """Whether it is on a node."""
        return bool(self.spec.node_name)

    @property
    def deleting(self) -> bool:
        """Whether its deletion has begun."""
        return self.metadata.deletion_timestamp is not None

    @property
    def ended(self) -> bool:
        """Whether its phase is terminal."""
        return self.status.phase in ENDED

    @property
    def ready(self) -> bool:
        """Whether it is Ready."""
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)

    @property
    def sheltered(self) -> bool:
        """Whether its node has made a place for it, so that its pool works: what its containers do there is their affair."""
        told = (
            each.type == "PodReadyToStartContainers" and each.status == "True"
            for each in self.status.conditions
        )
        return self.bound and (self.status.phase == "Running" or any(told))

    @property
    def rank(self) -> int:
        """The keep rank written on it; 0 for none."""
        return rank_of(self.metadata.annotations.rank) if self.metadata.annotations else 0

    @property
    def ordinal(self) -> int | None:
        """Its number in its StatefulSet."""
        owner = self.owner
        if owner is None or owner.kind != "StatefulSet":
            return None
        found = ORDINAL.search(self.metadata.name)
        return int(found[1]) if found else None

    def stranded(self) -> PodCondition | None:
        """The condition by which its pool cannot run it: no node takes it, or its node gets no instance for it.

        Whatever the reason for the latter is, stock, a quota, addresses, a spot instance taken back or an account that
        is not in order: another pool may do.
        """
        for each in self.status.conditions:
            if each.status != "False":
                continue
            if each.type == "PodScheduled" and each.reason == "Unschedulable" and not self.bound:
                return each
            if each.type == "InstanceProvisioned" and each.reason in NOT_PROVISIONED:
                return each
        return None


affinities = msgspec.json.Decoder(Affinity)
tolerations = msgspec.json.Decoder(list[dict[str, Any]])


def affinity_terms(pod: Pod) -> tuple[Term, ...] | None:
    """The alternatives of its required node affinity; None without any."""
    if not pod.spec.affinity:
        return None
    affinity = affinities.decode(pod.spec.affinity).node_affinity
    return affinity.required.node_selector_terms if affinity and affinity.required else None
