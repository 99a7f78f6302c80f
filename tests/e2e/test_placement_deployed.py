"""Controller and guard as they are deployed: as pods on a worker, with the rights of their manifests."""

import json

import pytest

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
    cluster.kubectl("delete", "namespace", SPACE, "--wait=false")


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
