"""Pods and what the injection makes of them: for the policy's expressions and for the code."""

import pytest

REQUIREMENT = {"key": "type", "operator": "In", "values": ["virtual-kubelet"]}
TOLERATION = {"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}
SPREAD = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "ScheduleAnyway",
    "labelSelector": {"matchExpressions": [{"key": "pod-template-hash", "operator": "DoesNotExist"}]},
}
ADDED = {"matchExpressions": [REQUIREMENT]}
ZONE_A = {"key": "zone", "operator": "In", "values": ["a"]}
ZONE_B = {"key": "zone", "operator": "In", "values": ["b"]}
FIELD = {"key": "metadata.name", "operator": "In", "values": ["n"]}
ANTI = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}
        ]
    }
}
PREFERRED = [{"weight": 1, "preference": {"matchExpressions": [ZONE_A]}}]


def required(*terms):
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*terms]}}
    }


def pod(*, owner="", **spec):
    metadata = {"name": "p"}
    if owner:
        metadata["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "u"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "c", "image": "x"}], **spec},
    }


def parts(spec):
    """Of a pod's spec, what the injection may add to, without what an apiserver adds to every pod."""
    tolerations = [
        each for each in spec.get("tolerations", []) if not each["key"].startswith("node.kubernetes.io/")
    ]
    return {
        "affinity": spec.get("affinity"),
        "tolerations": tolerations,
        "spread": spec.get("topologySpreadConstraints", []),
    }


def affinity(given, wanted, name):
    manifest = pod(**({"affinity": given} if given else {}))
    return pytest.param(
        manifest, {"affinity": wanted, "tolerations": [TOLERATION], "spread": [SPREAD]}, id=name
    )


def tolerations(given, wanted, name):
    return pytest.param(
        pod(tolerations=given),
        {"affinity": required(ADDED), "tolerations": wanted, "spread": [SPREAD]},
        id=name,
    )


def spread(wanted, name, **manifest):
    return pytest.param(
        pod(**manifest),
        {"affinity": required(ADDED), "tolerations": [TOLERATION], "spread": wanted},
        id=name,
    )


def unstored(case, name):
    """As apiservers before 1.34 show a pod that is not stored yet (kubernetes/kubernetes#130989)."""
    manifest, wanted = case.values
    metadata = {**manifest["metadata"], "creationTimestamp": None}
    return pytest.param({**manifest, "metadata": metadata, "status": {}}, wanted, id=name)


OPPOSITE = {**REQUIREMENT, "operator": "NotIn"}
FOR_ALL = {"key": "virtual-kubelet.io/provider", "operator": "Exists"}
EXECUTE = {**TOLERATION, "effect": "NoExecute"}
EQUAL = {**TOLERATION, "operator": "Equal", "value": "x"}
OWN_SPREAD = {
    "maxSkew": 2,
    "topologyKey": "zone",
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {"matchLabels": {"app": "x"}},
}

CASES = [
    affinity(None, required(ADDED), "no affinity"),
    unstored(affinity(None, required(ADDED), ""), "not stored yet"),
    affinity(ANTI, ANTI | required(ADDED), "only podAntiAffinity"),
    affinity(
        {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": PREFERRED}},
        {
            "nodeAffinity": required(ADDED)["nodeAffinity"]
            | {"preferredDuringSchedulingIgnoredDuringExecution": PREFERRED}
        },
        "only preferred nodeAffinity",
    ),
    affinity(
        required({"matchExpressions": [ZONE_A]}, {"matchExpressions": [ZONE_B]}),
        required({"matchExpressions": [ZONE_A, REQUIREMENT]}, {"matchExpressions": [ZONE_B, REQUIREMENT]}),
        "every alternative",
    ),
    affinity(
        required({"matchFields": [FIELD]}),
        required({"matchFields": [FIELD], "matchExpressions": [REQUIREMENT]}),
        "only matchFields",
    ),
    affinity(
        required({}, {"matchExpressions": [ZONE_A]}),
        required({}, {"matchExpressions": [ZONE_A, REQUIREMENT]}),
        "an empty term stays empty",
    ),
    affinity(
        required({"matchExpressions": [REQUIREMENT, ZONE_A]}),
        required({"matchExpressions": [REQUIREMENT, ZONE_A]}),
        "required already",
    ),
    affinity(
        required({"matchExpressions": [OPPOSITE]}),
        required({"matchExpressions": [OPPOSITE, REQUIREMENT]}),
        "the opposite is no match",
    ),
    tolerations([TOLERATION], [TOLERATION], "the same toleration"),
    tolerations([FOR_ALL], [FOR_ALL], "a toleration of every effect"),
    tolerations([EXECUTE], [EXECUTE, TOLERATION], "a toleration of another effect does not suffice"),
    tolerations([EQUAL], [EQUAL, TOLERATION], "a toleration of one value does not suffice"),
    spread([], "pod of a ReplicaSet", owner="ReplicaSet"),
    spread([], "pod of a StatefulSet", owner="StatefulSet"),
    spread([SPREAD], "pod of a Job", owner="Job"),
    spread([OWN_SPREAD], "own spread", topologySpreadConstraints=[OWN_SPREAD]),
]
UNTOUCHED = [
    pytest.param(pod(nodeName="somewhere"), id="nodeName"),
    pytest.param(pod(owner="DaemonSet"), id="of a DaemonSet"),
]
