"""What sends a pod of a labelled namespace to virtual nodes.

In: a pod as it is being created. Out: a JSON Patch. Pure. Invariant: the same additions as those of
`deploy/injection/policy.yaml`, which explains them; one table of cases drives the tests of both. Whatever the pod
says already is kept, so that a second run adds nothing.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw, Struct

from overspill import names
from overspill.model.pods import OwnerReference
from overspill.placement.patch import Operation

__all__ = ["inject"]

Content = dict[str, Any]
AFFINITY = "/spec/affinity"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
TERMS = f"{AFFINITY}/nodeAffinity/{REQUIRED}/nodeSelectorTerms"
REQUIREMENT = {"key": names.NODE_TYPE_LABEL, "operator": "In", "values": [names.NODE_TYPE]}
TOLERATION = {"key": names.PROVIDER_TAINT, "operator": "Exists", "effect": "NoSchedule"}
# The scheduler spreads their pods by itself.
SPREAD_BY_DEFAULT = frozenset({"ReplicaSet", "ReplicationController", "StatefulSet"})
SPREAD = {
    "maxSkew": 1,
    "topologyKey": names.HOSTNAME_LABEL,
    "whenUnsatisfiable": "ScheduleAnyway",
    "labelSelector": {"matchExpressions": [{"key": names.TEMPLATE_HASH, "operator": "DoesNotExist"}]},
}


class _Meta(Struct, frozen=True, rename="camel"):
    owner_references: tuple[OwnerReference, ...] = ()


class _Spec(Struct, frozen=True, rename="camel"):
    node_name: str = ""
    affinity: Content | None = None
    tolerations: list[Content] = []
    topology_spread_constraints: list[Content] = []


class _Pod(Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()

    @property
    def owners(self) -> set[str]:
        """Kinds of those it belongs to."""
        return {owner.kind for owner in self.metadata.owner_references}


pods = msgspec.json.Decoder(_Pod)


def inject(content: Raw) -> list[Operation]:
    """What a pod lacks to run on virtual nodes, and there only.

    Raises:
        msgspec.DecodeError: it is no pod.
    """
    pod = pods.decode(content)
    if pod.spec.node_name or "DaemonSet" in pod.owners:
        return []
    return [*_affinity(pod.spec.affinity), *_toleration(pod.spec.tolerations), *_spread(pod)]


def _affinity(affinity: Content | None) -> Iterator[Operation]:
    node = None if affinity is None else affinity.get("nodeAffinity")
    terms = ((node or {}).get(REQUIRED) or {}).get("nodeSelectorTerms")
    if terms:
        yield from _terms(terms)
        return
    required: Content = {"nodeSelectorTerms": [{"matchExpressions": [REQUIREMENT]}]}
    if affinity is None:
        yield _add(AFFINITY, {"nodeAffinity": {REQUIRED: required}})
    elif node is None:
        yield _add(f"{AFFINITY}/nodeAffinity", {REQUIRED: required})
    else:
        yield _add(f"{AFFINITY}/nodeAffinity/{REQUIRED}", required)


def _terms(terms: list[Content]) -> Iterator[Operation]:
    """They are alternatives, so each one gets the requirement; an empty one matches no node and stays so."""
    for index, term in enumerate(terms):
        expressions = term.get("matchExpressions")
        if expressions:
            if REQUIREMENT not in expressions:
                yield _add(f"{TERMS}/{index}/matchExpressions/-", REQUIREMENT)
        elif term.get("matchFields"):
            yield _add(f"{TERMS}/{index}/matchExpressions", [REQUIREMENT])


def _toleration(tolerations: list[Content]) -> Iterator[Operation]:
    for each in tolerations:
        suffices = each.get("operator") == "Exists" and each.get("effect", "") in {"", "NoSchedule"}
        if suffices and each.get("key") == names.PROVIDER_TAINT:
            return
    if tolerations:
        yield _add("/spec/tolerations/-", TOLERATION)
    else:
        yield _add("/spec/tolerations", [TOLERATION])


def _spread(pod: _Pod) -> Iterator[Operation]:
    if not pod.spec.topology_spread_constraints and not pod.owners & SPREAD_BY_DEFAULT:
        yield _add("/spec/topologySpreadConstraints", [SPREAD])


def _add(path: str, value: object) -> Operation:
    return {"op": "add", "path": path, "value": value}
