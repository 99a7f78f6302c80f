"""What is killed, and what goes wrong in containers: on a worker and Podman, as a user would see it."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from overspill import names
from overspill.local import expect
from overspill.local.cloud import cloud_facts
from overspill.local.paths import cluster_paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

REPLICAS = 20
BUSYBOX = "localhost/overspill/busybox:1"
PODS = "/api/v1/namespaces/default/pods"


def containers(cluster, namespace):
    """Containers of a namespace's pods in the cloud, running or not."""
    socket = cloud_facts(cluster_paths(cluster.name)).socket
    command = ["podman", "--remote", "--url", f"unix://{socket}", "ps", "--all", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = [each for each in json.loads(done.stdout) if not each["IsInfra"]]
    return [each for each in found if (each["Labels"] or {}).get(names.NAMESPACE_TAG) == namespace]


def agent_pids(cluster, name):
    """Processes on this host that belong to an agent's container."""
    (status,) = cluster.get("pod", name, "-n", "kube-system")["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("containerd://")
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if container in (entry / "cgroup").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
    assert found
    return found


def kill_agent(cluster):
    for pid in agent_pids(cluster, "virtual-node-eci-0"):
        os.kill(pid, signal.SIGKILL)  # the kubelet starts it again


def replace_agent(cluster):
    """A rollout of the StatefulSet does the same: the next agent has another address."""
    cluster.kubectl("delete", "pod", "virtual-node-eci-0", "-n", "kube-system", "--timeout=60s")


def kill_podman(cluster):
    os.kill(cluster.processes()["podman"], signal.SIGKILL)
    cluster.overspill("up")


def kill_apiserver(cluster):
    os.kill(cluster.processes()["kube-apiserver"], signal.SIGKILL)
    cluster.overspill("up")


@pytest.mark.parametrize("kill", [kill_agent, replace_agent, kill_podman, kill_apiserver])
def test_a_deployment_of_twenty_converges(cluster, until, kill):
    namespace = kill.__name__.replace("_", "-")
    labels = {"virtual-node-affinity-injection": "enabled"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    )
    image = "--image=localhost/overspill/web:1"
    cluster.kubectl("create", "deployment", "web", "-n", namespace, image, f"--replicas={REPLICAS}")

    def pods():
        return cluster.get("pods", "-n", namespace)

    def some_run():
        return sum(not expect.unready_reason(pod) for pod in pods()) >= 3

    until(some_run, what="the first pods Running")
    kill(cluster)

    def converged():
        now = pods()
        reason = expect.pods_run(now, REPLICAS) or expect.same_in_cloud(now, containers(cluster, namespace))
        assert not reason, reason
        return True

    until(converged, seconds=240, what="20 pods Running, each with one container")
    before = {each["metadata"]["uid"] for each in pods()}
    assert len(before) == REPLICAS
    cluster.kubectl("delete", "namespace", namespace, "--timeout=180s", timeout=200)
    until(lambda: not containers(cluster, namespace), what="nothing left in the cloud")


def pod(name, container, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": "virtual-node-eci-0",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": BUSYBOX, **container}],
            **spec,
        },
    }


@pytest.fixture
def run(cluster):
    """Make pods that go with the test."""
    names = []

    def run(manifest):
        names.append(manifest["metadata"]["name"])
        cluster.apply(manifest)

    yield run
    cluster.kubectl("delete", "pod", *names, "--timeout=60s")


def shown_status(cluster, name):
    """The STATUS column of `kubectl get pod`."""
    return cluster.kubectl("get", "pod", name, "--no-headers").split()[2]


def test_a_missing_image_is_seen_in_kubectl(cluster, run, until):
    version = json.loads(cluster.kubectl("get", "--raw", f"{PODS}?limit=1"))["metadata"]["resourceVersion"]
    run(pod("imageless", {"image": "localhost/overspill/nonesuch:1"}))
    query = f"watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dimageless&timeoutSeconds=90"
    seen = []
    # By a watch, which tells all that was written: the first of the two stands there for two seconds.
    with cluster.kubectl_lines("get", "--raw", f"{PODS}?{query}") as told:
        for line in told.stdout:
            statuses = json.loads(line)["object"]["status"].get("containerStatuses", ())
            seen.extend(each["state"].get("waiting", {}).get("reason") for each in statuses)
            if {"ErrImagePull", "ImagePullBackOff"} <= set(seen):
                break
        told.kill()
    assert seen.index("ErrImagePull") < seen.index("ImagePullBackOff")
    until(
        lambda: shown_status(cluster, "imageless") in {"ErrImagePull", "ImagePullBackOff"},
        what="what kubectl shows",
    )


def test_too_much_memory_is_told_as_such(cluster, run, until):
    limits = {"limits": {"memory": "16Mi"}}
    run(pod("greedy", {"command": ["tail", "/dev/zero"], "resources": limits}, restartPolicy="Never"))

    def ended():
        (status,) = cluster.get("pod", "greedy")["status"]["containerStatuses"]
        return status["state"]["terminated"]

    def told():
        try:
            return ended()
        except (KeyError, ValueError):
            return None

    end = until(told, what="the end of the container")
    assert (end["reason"], end["exitCode"]) == ("OOMKilled", 137)
    assert shown_status(cluster, "greedy") == "OOMKilled"


def test_a_failing_container_backs_off(cluster, run, until):
    run(pod("crashing", {"command": ["false"]}))
    until(lambda: shown_status(cluster, "crashing") == "CrashLoopBackOff", seconds=90)
    status = cluster.get("pod", "crashing")["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert status["restartCount"] >= 1
