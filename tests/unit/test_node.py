"""The Node object: what is created, and what an existing one is brought back to."""

import msgspec
import pytest
from msgspec import structs

from overspill.model.node import (
    Health,
    NodeMeta,
    NodeObject,
    NodeProfile,
    NodeSpec,
    NodeTaint,
    new_node,
    repair_patch,
    status_patch,
)
from overspill.model.scalein import uncordon_patch

PROFILE = NodeProfile(
    name="vn-0",
    ip="10.0.0.1",
    backend="podman",
    kubernetes_version="v1.37.0",
    capacity={"cpu": "8", "memory": "32Gi", "pods": "3000"},
    labels={"team": "a"},
    annotations={"overspill.dev/statefulset": "kube-system/vn", "overspill.dev/ordinal": "0"},
    taint="podman",
)
OURS = NodeTaint("virtual-kubelet.io/provider", "NoSchedule", "podman")
THEIRS = NodeTaint("node.kubernetes.io/not-ready", "NoExecute", time_added="2026-11-23T20:00:00Z")


def healthy(**changes) -> NodeObject:
    node = new_node(PROFILE)
    meta = NodeMeta(
        "vn-0",
        "u",
        "7",
        labels=node["metadata"]["labels"] | {"mine": "x"},
        annotations=node["metadata"]["annotations"] | {"mine": "x"},
    )
    spec = NodeSpec(taints=(THEIRS, OURS), provider_id=node["spec"]["providerID"])
    return NodeObject(
        structs.replace(meta, **changes.get("meta", {})), structs.replace(spec, **changes.get("spec", {}))
    )


def test_a_new_node_that_may_go_at_once_is_cordoned_as_by_ourselves():
    node = msgspec.convert(new_node(PROFILE, cordoned=True), NodeObject)
    assert node.spec.unschedulable
    assert uncordon_patch(node), "whoever stays after all undoes it"
    assert uncordon_patch(msgspec.convert(new_node(PROFILE), NodeObject)) is None


def test_new_node_shows_as_an_agent_and_keeps_ordinary_pods_away():
    node = new_node(PROFILE)
    labels = node["metadata"]["labels"]
    assert labels["type"] == "virtual-kubelet"
    assert labels["kubernetes.io/role"] == "agent"
    assert labels["team"] == "a"
    assert node["spec"] == {"providerID": "podman://vn-0", "taints": [OURS]}


def test_nothing_to_repair():
    assert repair_patch(PROFILE, healthy()) is None


REPAIRS = {
    "label removed": (
        healthy(meta={"labels": new_node(PROFILE)["metadata"]["labels"] | {"type": "worker"}}),
        {"metadata": {"resourceVersion": "7", "labels": {"type": "virtual-kubelet"}}},
    ),
    "taint removed, theirs kept": (
        healthy(spec={"taints": (THEIRS,)}),
        {"metadata": {"resourceVersion": "7"}, "spec": {"taints": [THEIRS, OURS]}},
    ),
    "taint edited": (
        healthy(spec={"taints": (NodeTaint(OURS.key, "NoExecute", "other"),)}),
        {"metadata": {"resourceVersion": "7"}, "spec": {"taints": [OURS]}},
    ),
    "annotation of the agent's place removed": (
        healthy(meta={"annotations": {"mine": "x"}}),
        {"metadata": {"resourceVersion": "7", "annotations": PROFILE.annotations}},
    ),
    "no providerID": (
        healthy(spec={"provider_id": ""}),
        {"metadata": {"resourceVersion": "7"}, "spec": {"providerID": "podman://vn-0"}},
    ),
}


@pytest.mark.parametrize(("found", "patch"), REPAIRS.values(), ids=REPAIRS.keys())
def test_repair(found, patch):
    assert repair_patch(PROFILE, found) == patch


def test_untainted_node_loses_only_our_taint():
    patch = repair_patch(structs.replace(PROFILE, taint=""), healthy())
    assert patch == {"metadata": {"resourceVersion": "7"}, "spec": {"taints": [THEIRS]}}


def test_status_says_why_the_node_is_not_ready():
    patch = status_patch(
        PROFILE,
        Health(ready=False, since=50.0, started=1.0, message="backend is away"),
        groups=0,
        now=60.0,
    )
    ready = next(c for c in patch["status"]["conditions"] if c["type"] == "Ready")
    assert ready == {
        "type": "Ready",
        "status": "False",
        "reason": "AgentNotReady",
        "message": "backend is away",
        "lastHeartbeatTime": "1970-01-01T00:01:00Z",
        "lastTransitionTime": "1970-01-01T00:00:50Z",
    }


def test_version_does_not_claim_more_than_the_apiserver():
    info = status_patch(PROFILE, Health(ready=True, since=0, started=0), groups=0, now=0)["status"][
        "nodeInfo"
    ]
    assert info["kubeletVersion"].startswith("v1.37.0-overspill.")


@pytest.mark.parametrize(("groups", "status", "message"), [(0, "False", "none at"), (3, "True", "3 at")])
def test_status_tells_whether_there_is_something_to_pay_for(groups, status, message):
    health = Health(ready=True, since=0, started=0, groups=groups > 0, groups_since=30.0)
    patch = status_patch(PROFILE, health, groups=groups, now=60.0)
    told = next(c for c in patch["status"]["conditions"] if c["type"] == "ContainerGroups")
    assert (told["status"], told["lastTransitionTime"]) == (status, "1970-01-01T00:00:30Z")
    assert told["message"].startswith(message)
