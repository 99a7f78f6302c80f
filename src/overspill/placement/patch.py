"""The one write per pod, as a JSON Patch.

In: a pod as it was last seen, its pool, rank and cost. Out: operations. Pure. Invariants: `add` of uid and
resourceVersion makes a stale patch a clean 409 (a failing `test`, or a `remove` of what is gone, would be a 422, like a
wrong patch); a pod is only ever tightened, since a gated pod's selectors may not be relaxed; what the pod carries already is not sent.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-scheduling-readiness/ (KEP-3521, KEP-3838).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from overspill import names
from overspill.model.affinity import Requirement, Term
from overspill.placement.pods import Pod, affinity_terms, tolerations
from overspill.placement.policy import Pool

__all__ = ["Operation", "kept_labels", "mark", "marks", "place", "release"]

Operation = dict[str, Any]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
AFFINITY = "/spec/affinity"
TERMS = f"{AFFINITY}/nodeAffinity/{REQUIRED}/nodeSelectorTerms"
LONGEST_LABEL = 63


def marks(
    policy: str, pool: Pool | None, *, rank: int | None = None, cost: int | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations of a placed pod.

    Args:
        policy: name of its policy.
        pool: its pool; None for one that is no more.
        rank: its keep rank; None leaves it to whoever counts.
        cost: its deletion cost; None leaves it to the user.
    """
    # A Deployment may have a longer name than a label takes, and its policy has it too; nothing is decided by the label.
    labels = {names.POLICY_LABEL: policy} if len(policy) <= LONGEST_LABEL else {}
    annotations = {} if rank is None else {names.RANK_ANNOTATION: str(rank)}
    if cost is not None:
        annotations[names.DELETION_COST] = str(cost)
    if pool is not None:
        labels = {**pool.patch.metadata.labels, **labels, names.POOL_LABEL: pool.name}
        annotations = {**pool.patch.metadata.annotations, **annotations}
    return labels, annotations


def place(pod: Pod, pool: Pool, labels: Mapping[str, str], annotations: Mapping[str, str]) -> list[Operation]:
    """Let a gated pod go, to a pool's nodes."""
    return [
        *_preconditions(pod),
        _gate_removal(pod),
        *_map("/spec/nodeSelector", pool.node_selector, there=bool(pod.spec.node_selector)),
        *_affinity(pod, pool.node_affinity.match_expressions),
        *_tolerations(pod, pool),
        *_marks(pod, labels, annotations),
    ]


def kept_labels(pod: Pod, pool: Pool) -> list[str]:
    """Labels that a pool would change and must not: they may be what the pod's workload knows it by.

    A ReplicaSet whose pod no longer matches its selector lets go of it and creates another, without end.
    """
    have = pod.labels
    return [key for key, value in pool.patch.metadata.labels.items() if have.get(key, value) != value]


def mark(pod: Pod, labels: Mapping[str, str], annotations: Mapping[str, str]) -> list[Operation]:
    """Write labels and annotations of a pod that is placed already; empty when it has them all."""
    changes = _marks(pod, labels, annotations)
    return [*_preconditions(pod), *changes] if changes else []


def release(pod: Pod) -> list[Operation]:
    """Let a gated pod go wherever the scheduler likes."""
    return [*_preconditions(pod), _gate_removal(pod)]


def _preconditions(pod: Pod) -> list[Operation]:
    meta = pod.metadata
    return [_add("/metadata/uid", meta.uid), _add("/metadata/resourceVersion", meta.resource_version)]


def _gate_removal(pod: Pod) -> Operation:
    """All other gates: at the place of ours there may be another by now, or none."""
    others = [gate for gate in pod.spec.scheduling_gates if gate.name != names.GATE]
    return _add("/spec/schedulingGates", others)


def _marks(pod: Pod, labels: Mapping[str, str], annotations: Mapping[str, str]) -> list[Operation]:
    have = pod.labels
    missing = {key: value for key, value in labels.items() if have.get(key) != value}
    missing = {key: value for key, value in missing.items() if key in OURS or key not in have}
    known = pod.metadata.annotations
    read = {names.RANK_ANNOTATION: known.rank, names.DELETION_COST: known.cost} if known else {}
    # Of a pool's own annotations it is not known whether the pod has them; they are written with a change.
    if missing or any(annotations[key] != read.get(key) for key in annotations.keys() & _READ):
        return [
            *_map("/metadata/labels", missing, there=bool(have)),
            *_map("/metadata/annotations", annotations, there=known is not None),
        ]
    return []


OURS = frozenset({names.POOL_LABEL, names.POLICY_LABEL})
_READ = frozenset({names.RANK_ANNOTATION, names.DELETION_COST})


def _affinity(pod: Pod, expressions: tuple[Requirement, ...]) -> Iterator[Operation]:
    """The requirements, in every alternative that the pod has; alternatives themselves cannot be added."""
    if not expressions:
        return
    terms = affinity_terms(pod)
    if terms:
        for index, term in enumerate(terms):
            yield from _extended(f"{TERMS}/{index}", term, expressions)
        return
    required: Any = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    affinity = msgspec.json.decode(pod.spec.affinity, type=dict[str, Any]) if pod.spec.affinity else {}
    if not affinity:
        yield _add(AFFINITY, {"nodeAffinity": {REQUIRED: required}})
    elif not affinity.get("nodeAffinity"):
        yield _add(f"{AFFINITY}/nodeAffinity", {REQUIRED: required})
    else:
        yield _add(f"{AFFINITY}/nodeAffinity/{REQUIRED}", required)


def _extended(path: str, term: Term, expressions: tuple[Requirement, ...]) -> Iterator[Operation]:
    if not term.match_expressions and not term.match_fields:
        return  # it matches no node, and may not be extended
    if not term.match_expressions:
        yield _add(f"{path}/matchExpressions", expressions)
        return
    for expression in expressions:
        if expression not in term.match_expressions:
            yield _add(f"{path}/matchExpressions/-", expression)


def _tolerations(pod: Pod, pool: Pool) -> Iterator[Operation]:
    have = tolerations.decode(pod.spec.tolerations) if pod.spec.tolerations else []
    missing = [each for each in pool.tolerations if each not in have]
    if not have and missing:
        yield _add("/spec/tolerations", missing)
    else:
        yield from (_add("/spec/tolerations/-", each) for each in missing)


def _map(path: str, entries: Mapping[str, str], *, there: bool) -> Iterator[Operation]:
    """Set entries of a map; one that is there must not be replaced as a whole."""
    if entries and not there:
        yield _add(path, dict(entries))
    else:
        yield from (_add(f"{path}/{_escaped(key)}", value) for key, value in entries.items())


def _add(path: str, value: Any) -> Operation:
    return {"op": "add", "path": path, "value": value}


def _escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
