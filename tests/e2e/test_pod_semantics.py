"""What changes of a running pod, and what it may do, on a virtual node with Podman: seen with kubectl alone."""

import json
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMESPACE = "semantics"
BUSYBOX = "localhost/overspill/busybox:1"
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
CONFIG = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "conf", "namespace": NAMESPACE},
    "data": {"mode": "slow", "old": "x"},
}
# As the restricted Pod Security Standard asks for; the namespace enforces it.
SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
MOUNTS = [
    {"name": "conf", "mountPath": "/conf"},
    {"name": "conf", "mountPath": "/fixed", "subPath": "mode"},
    {"name": "late", "mountPath": "/late"},
    {"name": "me", "mountPath": "/me"},
    {"name": "scratch", "mountPath": "/scratch", "subPathExpr": "$(POD)"},
]
ENVIRONMENT = [
    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "mode"}}},
]
LABELS = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
SIZES = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "whole", "namespace": NAMESPACE, "labels": {"tier": "one"}},
    "spec": {
        "nodeSelector": {"type": "virtual-kubelet"},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 2000,
            "supplementalGroups": [3000],
            "seccompProfile": {"type": "RuntimeDefault"},
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [
            {
                "name": "main",
                "image": BUSYBOX,
                "command": ["sh", "-c", SLEEP],
                "env": ENVIRONMENT,
                "volumeMounts": MOUNTS,
                "resources": SIZES,
                "securityContext": SECURITY,
            }
        ],
        "volumes": [
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "late", "secret": {"secretName": "late", "optional": True}},
            {"name": "me", "downwardAPI": {"items": [LABELS]}},
            {"name": "scratch", "emptyDir": {}},
        ],
    },
}


@pytest.fixture(scope="module")
def pods(cluster, until):
    """The cluster, with a namespace that lets in restricted pods only."""
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforce}}, CONFIG
    )
    until(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", NAMESPACE), what="account")
    cluster.apply(POD)
    until(lambda: ready(cluster), seconds=120, what="the pod is ready")
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


def status(cluster):
    return cluster.get("pod", "whole", "-n", NAMESPACE)["status"]


def conditions(cluster):
    return {each["type"]: each for each in status(cluster)["conditions"]}


def ready(cluster):
    return conditions(cluster).get("Ready", {}).get("status") == "True"


def run(cluster, script):
    return cluster.kubectl("exec", "whole", "-n", NAMESPACE, "--", "sh", "-c", script)


def resize(cluster, resources):
    patch = {"spec": {"containers": [{"name": "main", "resources": resources}]}}
    cluster.kubectl(
        "patch", "pod", "whole", "-n", NAMESPACE, "--subresource", "resize", "-p", json.dumps(patch)
    )


def test_a_restricted_pod_has_its_groups_and_may_write_where_it_should(pods):
    assert run(pods, "id -u; id -G").split() == ["1000", "0", "2000", "3000"]
    assert run(pods, "echo x >/scratch/x && stat -c '%u:%g' /scratch/x") == "1000:2000\n"
    assert run(pods, "touch /x 2>/dev/null || echo no") == "no\n"
    assert "NoNewPrivs:\t1" in run(pods, "cat /proc/1/status")
    generation = pods.get("pod", "whole", "-n", NAMESPACE)["metadata"]["generation"]
    told = status(pods)
    assert told["observedGeneration"] == generation
    ours = [each for each in told["conditions"] if each["type"] != "PodScheduled"]
    assert {each["observedGeneration"] for each in ours} == {generation}


def test_changes_reach_a_running_pod_within_a_minute(pods, until):
    changed = CONFIG | {"data": {"mode": "fast", "new": "y"}}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "late", "namespace": NAMESPACE},
        "stringData": {"key": "found"},
    }
    pods.apply(changed, secret)
    began = time.time()
    pods.kubectl("label", "pod", "whole", "-n", NAMESPACE, "tier=two", "--overwrite")
    until(lambda: 'tier="two"' in run(pods, "cat /me/labels"), what="the label")
    assert int(run(pods, "stat -L -c %Y /me/labels")) - began < 10
    until(lambda: run(pods, "cat /conf/mode") == "fast", seconds=60, what="the ConfigMap")
    until(lambda: run(pods, "cat /late/key") == "found", seconds=60, what="the Secret")
    assert run(pods, "ls /conf").split() == ["mode", "new"]
    assert run(pods, "cat /fixed; echo; echo $MODE").split() == ["slow", "slow"]
    assert status(pods)["containerStatuses"][0]["restartCount"] == 0


def test_a_running_container_is_resized(pods, until):
    before = status(pods)["containerStatuses"][0]
    assert (before["resources"], before["allocatedResources"]) == (SIZES, SIZES["requests"])
    larger = {"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
    resize(pods, larger)
    until(lambda: status(pods)["containerStatuses"][0]["resources"] == larger, seconds=30, what="the resize")
    limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert run(pods, limits).strip() == str(128 << 20)
    after = status(pods)
    assert after["containerStatuses"][0]["containerID"] == before["containerID"]
    assert after["containerStatuses"][0]["allocatedResources"] == larger["requests"]
    assert after["observedGeneration"] == pods.get("pod", "whole", "-n", NAMESPACE)["metadata"]["generation"]


def test_a_resize_that_others_leave_no_room_for_waits_for_them(pods, until):
    # More than half of the node for each; more than all of it is refused by the apiserver itself.
    large = {"requests": {"cpu": "3100", "memory": "32Mi"}, "limits": {"cpu": "3100", "memory": "128Mi"}}
    spec = POD["spec"]
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", SLEEP]}
    container |= {"securityContext": SECURITY, "resources": {"requests": {"cpu": "3100"}}}
    other = POD | {
        "metadata": {"name": "other", "namespace": NAMESPACE},
        "spec": spec | {"containers": [container], "volumes": []},
    }
    pods.apply(other)
    pods.kubectl("wait", "pod/other", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s")
    before = status(pods)["containerStatuses"][0]
    resize(pods, large)
    until(lambda: "PodResizePending" in conditions(pods), seconds=30, what="the condition")
    pending = conditions(pods)["PodResizePending"]
    assert (pending["status"], pending["reason"]) == ("True", "Deferred")
    assert pending["message"].startswith("Node didn't have enough resource: cpu, requested: 3100000")
    assert status(pods)["containerStatuses"][0]["resources"] == before["resources"]
    pods.kubectl("delete", "pod", "other", "-n", NAMESPACE, "--timeout=60s")
    until(lambda: status(pods)["containerStatuses"][0]["resources"] == large, seconds=60, what="the resize")
    until(lambda: "PodResizePending" not in conditions(pods), seconds=30, what="no condition")
    assert status(pods)["containerStatuses"][0]["containerID"] == before["containerID"]


def test_a_deadline_that_is_set_while_the_pod_runs_ends_it(pods, until):
    deadline = {"spec": {"activeDeadlineSeconds": 1}}
    pods.kubectl("patch", "pod", "whole", "-n", NAMESPACE, "-p", json.dumps(deadline))
    until(lambda: status(pods)["phase"] == "Failed", seconds=60, what="its end")
    found = status(pods)
    assert (found["reason"], found["message"]) == (
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    )
    assert "terminated" in found["containerStatuses"][0]["state"]
    assert found["observedGeneration"] == pods.get("pod", "whole", "-n", NAMESPACE)["metadata"]["generation"]


def test_a_deadline_also_ends_the_wait_for_what_is_missing(pods, until):
    container = {"name": "main", "image": BUSYBOX, "securityContext": SECURITY}
    container["envFrom"] = [{"configMapRef": {"name": "never-there"}}]
    spec = POD["spec"] | {"activeDeadlineSeconds": 2, "containers": [container], "volumes": []}
    pods.apply(POD | {"metadata": {"name": "waits", "namespace": NAMESPACE}, "spec": spec})

    def told():
        return pods.get("pod", "waits", "-n", NAMESPACE)["status"]

    until(lambda: told()["phase"] == "Failed", seconds=60, what="its end")
    assert told()["reason"] == "DeadlineExceeded"
