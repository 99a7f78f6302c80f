"""Nodes: which pool one belongs to, and whether a pod's own wishes leave a pool any node.

In: nodes in part, pools, pods. Out: yes or no, with the reason. Pure. Invariant: what cannot be ruled out is
allowed; the scheduler has the last word, and a pod that it cannot place comes back by its time-out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from overspill.model.affinity import Requirement, Taint, holds
from overspill.placement.pods import Pod, affinity_terms
from overspill.placement.policy import Pool
from overspill.placement.pools import Refusal

__all__ = ["Node", "allows", "belongs", "conflicts", "contradiction", "pool_of"]


class NodeMeta(Struct, frozen=True, rename="camel"):
    """ObjectMeta of a node."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}


class NodeSpec(Struct, frozen=True):
    """Whether the node takes pods, and which."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeCondition(Struct, frozen=True, gc=False):
    """A condition of the node."""

    type: str
    status: str


class NodeStatus(Struct, frozen=True):
    """What it has room for."""

    allocatable: dict[str, str] = {}
    conditions: tuple[NodeCondition, ...] = ()


class Node(Struct, frozen=True):
    """A node, in part."""

    metadata: NodeMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def usable(self) -> bool:
        """Whether new pods may go there."""
        ready = any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)
        return ready and not self.spec.unschedulable

    @property
    def offer(self) -> tuple[object, ...]:
        """What placement reads of it; not that it is alive, which is written again and again."""
        return self.usable, self.metadata.labels, self.spec.taints, self.status.allocatable


def belongs(pool: Pool, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one of the pool's."""
    return all(labels.get(key) == value for key, value in pool.node_selector.items()) and all(
        holds(requirement, labels.get(requirement.key))
        for requirement in pool.node_affinity.match_expressions
    )


def pool_of(pools: Iterable[Pool], labels: Mapping[str, str]) -> int | None:
    """The first pool that a node belongs to."""
    return next((index for index, pool in enumerate(pools) if belongs(pool, labels)), None)


def conflicts(pod: Pod, pools: Sequence[Pool], nodes: Collection[Node]) -> dict[int, Refusal]:
    """The pools to which a pod cannot be sent, because of what it asks for itself.

    Where none has a node for it now, the first that could get one is taken at its word: an autoscaler makes nodes
    for pods that find none, not for those that wait at a gate.
    """
    found = {index: contradiction(pod, pool, nodes) for index, pool in enumerate(pools)}
    refused = {index: refusal for index, refusal in found.items() if refusal is not None}
    if len(refused) == len(pools):
        hope = next((index for index in refused if _may_fit(pod, pools[index])), None)
        return {index: refusal for index, refusal in refused.items() if index != hope}
    return refused


def contradiction(pod: Pod, pool: Pool, nodes: Iterable[Node]) -> Refusal | None:
    """Why a pod that was sent to this pool could never run, because of what it asks for itself."""
    if not pod.spec.node_selector and affinity_terms(pod) is None:
        return None
    members = [node.metadata.labels for node in nodes if belongs(pool, node.metadata.labels)]
    # None yet, or an autoscaler makes them: then only what is certain counts.
    if any(allows(pod, labels) for labels in members) if members else _may_fit(pod, pool):
        return None
    text = "has no node that the pod's own nodeSelector and affinity allow"
    return Refusal("PoolConflict", text, lasting=True)


def allows(pod: Pod, labels: Mapping[str, str]) -> bool:
    """Whether a pod's own node selector and affinity allow a node with these labels."""
    if any(labels.get(key) != value for key, value in (pod.spec.node_selector or {}).items()):
        return False
    terms = affinity_terms(pod)
    return terms is None or any(
        term.match_fields or all(holds(each, labels.get(each.key)) for each in term.match_expressions)
        for term in terms
        if term.match_expressions or term.match_fields
    )


def _may_fit(pod: Pod, pool: Pool) -> bool:
    """Whether a node of the pool that the pod allows could be made."""
    wanted = [
        *_exactly(pool.node_selector),
        *pool.node_affinity.match_expressions,
        *_exactly(pod.spec.node_selector or {}),
    ]
    terms = affinity_terms(pod)
    if terms is None:
        return _possible(wanted)
    return any(
        _possible([*wanted, *term.match_expressions])
        for term in terms
        if term.match_expressions or term.match_fields
    )


def _exactly(selector: Mapping[str, str]) -> list[Requirement]:
    return [Requirement(key, "In", (value,)) for key, value in selector.items()]


def _possible(wanted: Iterable[Requirement]) -> bool:
    """Whether some labels fulfil all requirements; what cannot be ruled out does."""
    by_key: dict[str, list[Requirement]] = {}
    for each in wanted:
        by_key.setdefault(each.key, []).append(each)
    return all(_has_value(each) for each in by_key.values())


def _has_value(wanted: list[Requirement]) -> bool:
    """Whether some value of one label, or its absence, fulfils all requirements."""
    listed = next((each.values for each in wanted if each.operator == "In"), None)
    if listed is not None:
        return any(all(holds(each, value) for each in wanted) for value in listed)
    operators = {each.operator for each in wanted}
    return "DoesNotExist" not in operators or operators <= {"DoesNotExist", "NotIn"}
