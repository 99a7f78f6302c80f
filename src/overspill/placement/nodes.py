"""Nodes: which pool one belongs to, and whether a pod's own wishes leave a pool any node.

In: nodes in part, pools, pods. Out: yes or no, with the reason. Pure. Invariant: what cannot be ruled out is
allowed; the scheduler has the last word, and a pod that it cannot place comes back by its time-out.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from overspill.model.affinity import Taint, Term, holds
from overspill.placement.pods import Pod, affinity_terms
from overspill.placement.policy import Pool
from overspill.placement.pools import Refusal

__all__ = ["Node", "allows", "belongs", "contradiction", "pool_of"]


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


def belongs(pool: Pool, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one of the pool's."""
    return all(labels.get(key) == value for key, value in pool.node_selector.items()) and all(
        holds(requirement, labels.get(requirement.key))
        for requirement in pool.node_affinity.match_expressions
    )


def pool_of(pools: Iterable[Pool], labels: Mapping[str, str]) -> int | None:
    """The first pool that a node belongs to."""
    return next((index for index, pool in enumerate(pools) if belongs(pool, labels)), None)


def contradiction(pod: Pod, pool: Pool, nodes: Iterable[Node]) -> Refusal | None:
    """Why a pod that was sent to this pool could never run, because of what it asks for itself."""
    selector, terms = pod.spec.node_selector or {}, affinity_terms(pod)
    if not selector and terms is None:
        return None
    members = [node.metadata.labels for node in nodes if belongs(pool, node.metadata.labels)]
    # None yet, or an autoscaler makes them: then only what is certain counts.
    if any(allows(pod, labels) for labels in members) if members else _may_fit(selector, terms, pool):
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


def _may_fit(selector: Mapping[str, str], terms: tuple[Term, ...] | None, pool: Pool) -> bool:
    if any(pool.node_selector.get(key, value) != value for key, value in selector.items()):
        return False
    wanted = pool.node_affinity.match_expressions
    if any(each.key in selector and not holds(each, selector[each.key]) for each in wanted):
        return False
    return terms is None or any(_term_may_fit(term, pool) for term in terms)


def _term_may_fit(term: Term, pool: Pool) -> bool:
    known = pool.node_selector
    return all(holds(each, known[each.key]) for each in term.match_expressions if each.key in known)
