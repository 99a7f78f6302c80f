"""Controller and guard as they are deployed: as pods on a worker, with the rights of their manifests."""

import json
import os
import signal

import pytest
from test_kills import agent_pids, containers

from overspill import names
from overspill.local.paths import cluster_paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SPACE = "guarded"
BASE = {
    "name": "base",
    "maxReplicas": 1,
    "nodeAffinity": {
        "matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]
    },
}
ELASTIC = {
    "name": "elastic",
    "nodeSelector": {"type": "virtual-kubelet"},
    "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}],
}
POLICY = {
    "apiVersion": "placement.overspill.dev/v1alpha1",
    "kind": "PlacementPolicy",
    "metadata": {"name": "web", "namespace": SPACE},
    "spec": {
        "targetRef": {"name": "web"},
        "pools": [BASE, ELASTIC],
        "gate": {"timeoutSeconds": 1, "onTimeout": "Release"},
    },
}
CONTAINER = {"name": "c", "image": "localhost/overspill/busybox:1", "command": ["sleep", "3600"]}
WEB = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": SPACE},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [CONTAINER]},
        },
    },
}


def rolled_out(cluster, name):
    cluster.kubectl("-n", "kube-system", "rollout", "status", f"deployment/{name}", "--timeout=120s")


def pools(cluster):
    """Name -> pool of the pods that run."""
    return {
        each["metadata"]["name"]: each["metadata"]["labels"].get("placement.overspill.dev/pool")
        for each in cluster.get("pods", "-n", SPACE, "--field-selector=status.phase=Running")
        if "deletionTimestamp" not in each["metadata"]
    }


@pytest.fixture
def space(cluster, until):
    cluster.kubectl("create", "namespace", SPACE)
    until(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", SPACE), what="service account")
    yield SPACE
    cluster.kubectl("delete", "namespace", SPACE, "--timeout=90s")


def test_the_guard_acts_when_the_controller_is_gone(cluster, until, space):
    for name in ("overspill-controller", "overspill-guard"):
        rolled_out(cluster, name)
    cluster.apply(POLICY, WEB)
    until(lambda: sorted(pools(cluster).values()) == ["base", "elastic"], what="one pod in each pool")
    placed = pools(cluster)
    controller = ("-n", "kube-system", "scale", "deployment/overspill-controller")
    cluster.kubectl(*controller, "--replicas=0")
    try:
        cluster.kubectl("scale", "deployment/web", "-n", space, "--replicas=3")
        until(lambda: len(pools(cluster)) == 3, seconds=90, what="a pod that the guard lets go")
        assert [pool for name, pool in pools(cluster).items() if name not in placed] == ["elastic"]
    finally:
        cluster.kubectl(*controller, "--replicas=2")
        rolled_out(cluster, "overspill-controller")
    until(lambda: status(cluster) == {"base": 1, "elastic": 2}, what="a controller that counts them all")


def status(cluster):
    found = json.loads(cluster.kubectl("get", "pp", "web", "-n", SPACE, "-o", "json"))["status"]
    return {pool["name"]: pool["assignedReplicas"] for pool in found["pools"]}


@pytest.fixture
def going(cluster, until, space):
    """A second virtual node on its way out, with one pod that a budget holds; its agent is killed meanwhile."""
    agents = ("-n", "kube-system", "scale", "statefulset/virtual-node-eci")
    node = "virtual-node-eci-1"
    cluster.kubectl(*agents, "--replicas=2")
    until(lambda: takes_pods(cluster, node), seconds=180, what="the second virtual node")
    budget = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "held"}}}
    only = {"matchExpressions": [{"key": "type", "operator": "In", "values": ["virtual-kubelet"]}]}
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    affinity = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [only]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": here}],
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "tolerations": ELASTIC["tolerations"],
        "affinity": {"nodeAffinity": affinity},
        "containers": [CONTAINER],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    pod["containers"] = [CONTAINER | {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}]
    meta = {"name": "held", "namespace": space}
    labels = {"app": "held"}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}}
    spec["template"] = {"metadata": {"labels": labels}, "spec": pod}
    cluster.apply(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec},
    )
    cluster.kubectl("rollout", "status", "deployment/held", "-n", space, "--timeout=60s")
    cluster.kubectl(*agents, "--replicas=1")
    until(lambda: decommissioning(cluster, node), what="a node on its way out")
    for pid in agent_pids(cluster, node):
        os.kill(pid, signal.SIGKILL)
    yield node
    cluster.kubectl("delete", "deployment/held", "pdb/held", "-n", space, "--ignore-not-found")
    cluster.kubectl(*agents, "--replicas=1")


def takes_pods(cluster, node):
    """It is Ready, and the node controller has taken off what kept pods away until then."""
    found = cluster.get("node", node)
    is_ready = ("Ready", "True") in {(each["type"], each["status"]) for each in found["status"]["conditions"]}
    taints = [each["key"] for each in found["spec"].get("taints", ())]
    return is_ready and not any(key.startswith("node.kubernetes.io/") for key in taints)


def decommissioning(cluster, node):
    """What the condition says of how far a node's end is."""
    conditions = cluster.get("node", node)["status"]["conditions"]
    return next((each["message"] for each in conditions if each["type"] == names.DECOMMISSIONING), "")


def test_the_controller_finishes_a_node_at_the_podman_of_its_machine(cluster, until, space, going):
    """With the rights, the socket and the folders that deploy/podman gives it; pods' files go with the pods."""
    (pod,) = cluster.get("pods", "-n", space, "-l", "app=held")
    assert pod["spec"]["nodeName"] == going
    uid = pod["metadata"]["uid"]
    files = cluster_paths(cluster.name).pods
    until(
        lambda: "the controller goes on" in decommissioning(cluster, going),
        seconds=120,
        what="the controller takes over",
    )
    assert len(containers(cluster, space)) == 1, "the budget holds for the controller as well"
    assert list(files.rglob(f"*{uid}*"))
    cluster.kubectl("delete", "pdb/held", "-n", space)
    until(
        lambda: not cluster.kubectl("get", "node", going, "--ignore-not-found"),
        seconds=120,
        what="the node gone",
    )
    elsewhere = until(
        lambda: [
            each
            for each in cluster.get("pods", "-n", space, "-l", "app=held")
            if each["spec"].get("nodeName") == "virtual-node-eci-0" and each["status"]["phase"] == "Running"
        ],
        what="its pod elsewhere",
    )
    assert [each["Labels"][names.UID_TAG] for each in containers(cluster, space)] == [
        elsewhere[0]["metadata"]["uid"]
    ]
    assert not list(files.rglob(f"*{uid}*"))
