"""PlacementPolicy v1alpha1: what a user declares.

In: the object as the apiserver serves it. Out: frozen values. Invariant: defaults are those of the CRD in
`deploy/placement/definitions/crd.yaml` (a test compares the two), which also validates; nothing is validated twice.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from overspill.model.affinity import Requirement
from overspill.model.pods import OwnerReference

__all__ = [
    "MAX_POOLS",
    "Policy",
    "PolicyMeta",
    "PolicySpec",
    "PolicyStatus",
    "Pool",
    "Selector",
    "TargetRef",
]

MAX_POOLS = 16


class _Value(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A part of a spec."""


class TargetRef(_Value, frozen=True):
    """The workload whose pods are placed."""

    name: str
    kind: str = "Deployment"
    api_version: str = "apps/v1"


class Selector(_Value, frozen=True):
    """metav1.LabelSelector, of pods in the policy's namespace."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


class NodeAffinity(_Value, frozen=True):
    """One NodeSelectorTerm: all of its requirements hold on a pool's nodes."""

    match_expressions: tuple[Requirement, ...] = ()


class PatchMetadata(_Value, frozen=True):
    """What a pool writes on its pods."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class PoolPatch(_Value, frozen=True):
    """What of a pod differs between pools."""

    metadata: PatchMetadata = PatchMetadata()


class Pool(_Value, frozen=True):
    """A set of nodes and how many of the workload's pods it takes; times are seconds."""

    name: str
    node_selector: dict[str, str] = {}
    node_affinity: NodeAffinity = NodeAffinity()
    tolerations: tuple[dict[str, Any], ...] = ()
    max_replicas: int | str | None = None
    min_replicas: int = 0
    when_unschedulable: Literal["NextPool", "Wait"] = "NextPool"
    unschedulable_timeout_seconds: int = 30
    cooldown_seconds: int = 120
    capacity_check: Literal["None", "Simulate"] = "None"
    patch: PoolPatch = PoolPatch()

    @property
    def percent(self) -> int | None:
        """`maxReplicas` as a percentage, if it is one."""
        return int(self.max_replicas.removesuffix("%")) if isinstance(self.max_replicas, str) else None

    def room(self, replicas: int) -> int | None:
        """How many pods it takes of so many; None without a limit. A percentage is rounded up."""
        if isinstance(self.max_replicas, str):
            return -(-int(self.max_replicas.removesuffix("%")) * replicas // 100)
        return self.max_replicas


class Counting(_Value, frozen=True):
    """What counts: pods of one revision or of all, those that end, those that were there before."""

    scope: Literal["Revision", "Total"] = "Revision"
    terminating: Literal["Ignore", "Count"] = "Ignore"
    existing_pods: Literal["Count", "Ignore"] = "Count"


class Rollout(_Value, frozen=True):
    """Two revisions at once: how far a pool may then be over its limit, and which pods of the old one go first."""

    max_surge: int | None = None
    old_revision_scale_in: Literal["FirstPoolFirst", "LastPoolFirst"] = "FirstPoolFirst"


class ScaleIn(_Value, frozen=True):
    """Which pods go first."""

    order: Literal["LastPoolFirst"] = "LastPoolFirst"
    manage_deletion_cost: bool = True


class Rebalance(_Value, frozen=True):
    """Whether pods are moved to an earlier pool that has room again."""

    mode: Literal["Disabled", "Evict"] = "Disabled"
    interval_seconds: int = 60
    max_unavailable: int = 1
    stabilization_seconds: int = 300


class Gate(_Value, frozen=True):
    """How long a pod may wait for its pool."""

    timeout_seconds: int = 0
    on_timeout: Literal["Wait", "Release"] = "Wait"


class PolicySpec(_Value, frozen=True):
    """PlacementPolicy.spec."""

    pools: tuple[Pool, ...]
    target_ref: TargetRef | None = None
    selector: Selector | None = None
    suspend: bool = False
    when_exhausted: Literal["Wait", "FirstPool"] = "Wait"
    counting: Counting = Counting()
    rollout: Rollout = Rollout()
    scale_in: ScaleIn = ScaleIn()
    rebalance: Rebalance = Rebalance()
    gate: Gate = Gate()

    def pool_index(self, name: str) -> int | None:
        """Where the pool of this name stands."""
        return next((index for index, pool in enumerate(self.pools) if pool.name == name), None)


class PolicyMeta(Struct, frozen=True, rename="camel"):
    """ObjectMeta, as far as it matters here."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class PoolStatus(Struct, frozen=True, rename="camel"):
    """What is read back of a pool's status: a cool-down outlives the process that began it."""

    name: str
    cooldown_until: str = ""


class Condition(Struct, frozen=True, rename="camel"):
    """metav1.Condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0


class PolicyStatus(Struct, frozen=True, rename="camel"):
    """What is read back of the status."""

    observed_generation: int = 0
    pools: tuple[PoolStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Policy(Struct, frozen=True):
    """A PlacementPolicy."""

    metadata: PolicyMeta
    spec: PolicySpec
    status: PolicyStatus = msgspec.field(default_factory=PolicyStatus)

    @property
    def age(self) -> tuple[str, str]:
        """Sorts policies from the oldest; of two that match a pod the older decides."""
        return self.metadata.creation_timestamp, self.metadata.name

    @property
    def gates(self) -> bool:
        """Whether pods are to wait for it."""
        return not self.spec.suspend and self.metadata.deletion_timestamp is None
