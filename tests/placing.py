"""Makes policies and pods for the tests of placement."""

import msgspec

from overspill import names
from overspill.placement.nodes import Node, NodeCondition, NodeMeta, NodeSpec, NodeStatus
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy

VIRTUAL = {"type": "virtual-kubelet"}
BASE = {
    "nodeAffinity": {
        "matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]
    }
}
ELASTIC = {
    "nodeSelector": VIRTUAL,
    "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}],
}


def pool(name, most=None, **more):
    limit = {} if most is None else {"maxReplicas": most}
    return {"name": name, **(BASE if name == "base" else ELASTIC), **limit, **more}


def policy(*pools, name="web", namespace="a", created="2026-01-01T00:00:00Z", metadata=None, **spec):
    """A PlacementPolicy; by default of Deployment web, with 5 pods on the base pool."""
    content = {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"policy-{name}",
            "creationTimestamp": created,
            "generation": 1,
            **(metadata or {}),
        },
        "spec": {
            "pools": list(pools) or [pool("base", 5), pool("elastic")],
            **({} if "selector" in spec else {"targetRef": {"name": "web"}}),
            **spec,
        },
    }
    return msgspec.convert(content, Policy)


def manifest(
    name,
    *,
    owner="web-1",
    kind="ReplicaSet",
    gated=True,
    version=1,
    node="",
    phase="Pending",
    conditions=(),
    labels=None,
    annotations=None,
    created="2026-01-01T00:00:00Z",
    deleted=None,
    gates=(),
    **spec,
):
    """A pod as the API has it."""
    metadata = {
        "name": name,
        "namespace": "a",
        "uid": name,
        "resourceVersion": str(version),
        "creationTimestamp": created,
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": f"uid-{owner}", "controller": True}
        ],
    }
    if labels:
        metadata["labels"] = labels
    if annotations:
        metadata["annotations"] = annotations
    if deleted:
        metadata["deletionTimestamp"] = deleted
    gates = [*gates, *([{"name": names.GATE}] if gated else [])]
    if gates:
        spec["schedulingGates"] = gates
    if node:
        spec["nodeName"] = node
    return {
        "metadata": metadata,
        "spec": spec,
        "status": {"phase": phase, "conditions": list(conditions)},
    }


def decoded(content):
    """What a watch would have made of it."""
    return msgspec.json.decode(msgspec.json.encode(content), type=Pod).kept()


def gated(name, **fields):
    """A pod that waits for its pool."""
    return decoded(manifest(name, **fields))


def placed(name, pool, rank, **fields):
    """A pod that was placed."""
    labels = {names.POOL_LABEL: pool, names.POLICY_LABEL: "web", **fields.pop("labels", {})}
    annotations = {
        names.RANK_ANNOTATION: str(rank),
        names.DELETION_COST: str(1_000_000 - rank),
        **fields.pop("annotations", {}),
    }
    return decoded(manifest(name, gated=False, labels=labels, annotations=annotations, **fields))


def node(name, *, pods="3", cpu="4", ready=True, cordoned=False, taints=(), more=None, **labels):
    """A node with room; `more` are further resources."""
    conditions = (NodeCondition("Ready", "True" if ready else "False"),)
    allocatable = {"cpu": cpu, "memory": "8Gi", "pods": pods, **(more or {})}
    spec = NodeSpec(cordoned, tuple(taints))
    return Node(NodeMeta(name, labels=labels), spec, NodeStatus(allocatable, conditions))
