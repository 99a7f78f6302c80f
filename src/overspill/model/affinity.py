"""Whether a pod may be on a node: node selector, required node affinity, tolerations.

In: what a pod asks for, and a node's name, labels and taints. Out: yes or no. Pure.
Invariant: a requirement that cannot be understood matches nothing, so a pod is never let in by mistake.
Sources: k8s.io/component-helpers/scheduling/corev1/nodeaffinity,
https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and …/taint-and-toleration/.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from overspill.model.pods import PodSpec

__all__ = ["Requirement", "Taint", "Term", "Toleration", "holds", "matches_node", "tolerates", "untolerated"]

INTEGER = re.compile(r"[+-]?[0-9]+")


class Requirement(Struct, frozen=True):
    """NodeSelectorRequirement."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Term(Struct, frozen=True, rename="camel"):
    """NodeSelectorTerm: all of its requirements must hold; an empty one matches nothing."""

    match_expressions: tuple[Requirement, ...] = ()
    match_fields: tuple[Requirement, ...] = ()


class _Required(Struct, frozen=True, rename="camel"):
    node_selector_terms: tuple[Term, ...] = ()


class _NodeAffinity(Struct, frozen=True, rename="camel"):
    required: _Required | None = msgspec.field(
        name="requiredDuringSchedulingIgnoredDuringExecution", default=None
    )


class Affinity(Struct, frozen=True, rename="camel"):
    """A pod's affinity, of which the required node affinity is read."""

    node_affinity: _NodeAffinity | None = None


class Taint(Struct, frozen=True):
    """A taint of a node."""

    key: str
    effect: str
    value: str = ""


class Toleration(Struct, frozen=True):
    """A toleration of a pod; an empty `effect` or `key` fits any."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


affinities = msgspec.json.Decoder(Affinity)
tolerations = msgspec.json.Decoder(list[Toleration])


def matches_node(spec: PodSpec, *, node_name: str, labels: Mapping[str, str]) -> bool:
    """Whether nodeSelector and required node affinity allow the node."""
    if any(labels.get(key) != value for key, value in spec.node_selector.items()):
        return False
    required = _required_terms(spec)
    return required is None or any(_term_holds(term, node_name, labels) for term in required)


def untolerated(spec: PodSpec, taints: Iterable[Taint], *, effect: str) -> Taint | None:
    """The first taint of this effect that the pod does not tolerate."""
    relevant = [taint for taint in taints if taint.effect == effect]
    if not relevant:
        return None
    tolerated = tolerations.decode(spec.tolerations)
    return next((t for t in relevant if not any(tolerates(one, t) for one in tolerated)), None)


def _required_terms(spec: PodSpec) -> tuple[Term, ...] | None:
    affinity = affinities.decode(spec.affinity).node_affinity
    return affinity.required.node_selector_terms if affinity and affinity.required else None


def _term_holds(term: Term, node_name: str, labels: Mapping[str, str]) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    return all(holds(r, labels.get(r.key)) for r in term.match_expressions) and all(
        _field_holds(r, node_name) for r in term.match_fields
    )


def _field_holds(requirement: Requirement, node_name: str) -> bool:
    """Only metadata.name can be asked for, by In or NotIn with one value."""
    known = requirement.key == "metadata.name" and requirement.operator in {"In", "NotIn"}
    return known and len(requirement.values) == 1 and holds(requirement, node_name)


def holds(requirement: Requirement, value: str | None) -> bool:
    """Whether a label's value, None without the label, is as required."""
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return bool(requirement.values) and value not in requirement.values
        case "Exists":
            return value is not None and not requirement.values
        case "DoesNotExist":
            return value is None and not requirement.values
        case "Gt" | "Lt":
            return _compares(requirement.operator, value, requirement.values)
    return False


def _compares(operator: str, value: str | None, bounds: Sequence[str]) -> bool:
    texts = (value or "", *bounds)
    if len(texts) != 2 or not all(map(INTEGER.fullmatch, texts)):
        return False
    have, bound = map(int, texts)
    return have > bound if operator == "Gt" else have < bound


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether a toleration lets a pod onto a node with this taint."""
    if toleration.effect not in {"", taint.effect} or toleration.key not in {"", taint.key}:
        return False
    # Lt and Gt are behind a feature gate that is off; the kubelet then lets them fit nothing.
    return toleration.operator == "Exists" or (
        toleration.operator in {"", "Equal"} and toleration.value == taint.value
    )
