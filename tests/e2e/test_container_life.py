"""Probes, hooks, sidecars and `kubectl debug` on a virtual node with Podman: seen with kubectl alone."""

import json

import pytest

from overspill.local.images import WEB

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMESPACE = "life"
BUSYBOX = "localhost/overspill/busybox:1"
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
GATE = "example.test/loaded"


def container(name, script=SLEEP, **fields):
    return {"name": name, "image": BUSYBOX, "command": ["sh", "-c", script], **fields}


def pod(name, *containers, **fields):
    spec = {
        "nodeSelector": {"type": "virtual-kubelet"},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 5,
        "containers": list(containers),
        **fields,
    }
    meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def has(path):
    return {
        "exec": {"command": ["cat", path]},
        "periodSeconds": 1,
        "timeoutSeconds": 10,
        "failureThreshold": 1,
    }


@pytest.fixture(scope="module")
def life(cluster, until):
    """The cluster, with a namespace of these tests' own."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    until(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", NAMESPACE), what="account")
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


def get(cluster, name):
    return cluster.get("pod", name, "-n", NAMESPACE)


def condition(cluster, name, kind="Ready"):
    found = [one for one in get(cluster, name)["status"].get("conditions", []) if one["type"] == kind]
    return found[0] if found else {"status": "Unknown"}


def ready(cluster, name):
    return condition(cluster, name)["status"] == "True"


def run(cluster, name, script, *, of="main"):
    return cluster.kubectl("exec", name, "-n", NAMESPACE, "-c", of, "--", "sh", "-c", script)


def events(cluster, name):
    fields = f"involvedObject.name={name}"
    found = cluster.get("events", "-n", NAMESPACE, "--field-selector", fields)
    return {(one["reason"], one["message"]) for one in found}


def test_readiness_decides_who_serves(life, until):
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }
    life.apply(service, pod("web", container("main", readinessProbe=has("/tmp/ready"))))

    def serving():
        slices = life.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=web")
        return [each["conditions"]["ready"] for one in slices for each in one["endpoints"] or []]

    until(lambda: get(life, "web")["status"]["phase"] == "Running", what="the pod runs")
    assert not ready(life, "web")
    until(lambda: serving() == [False], what="an endpoint that is not ready")
    run(life, "web", "touch /tmp/ready")
    until(lambda: serving() == [True], what="an endpoint that is ready")
    run(life, "web", "rm /tmp/ready")
    until(lambda: serving() == [False], what="an endpoint that is ready no more")
    assert get(life, "web")["status"]["containerStatuses"][0]["restartCount"] == 0
    words = "Readiness probe failed: cat: can't open '/tmp/ready': No such file or directory"
    until(lambda: any(words in message for _, message in events(life, "web")), what="an Event")


def test_a_dead_container_is_restarted_and_says_why(life, until):
    script = f"touch /tmp/alive; echo why >/dev/termination-log; {SLEEP}"
    life.apply(
        pod("dead", container("main", script, livenessProbe={**has("/tmp/alive"), "initialDelaySeconds": 2}))
    )
    until(lambda: ready(life, "dead"), what="the pod is ready")
    run(life, "dead", "rm /tmp/alive")

    def restarted():
        (status,) = get(life, "dead")["status"]["containerStatuses"]
        return status["restartCount"] == 1 and status["ready"] and status["lastState"]["terminated"]

    assert until(restarted, what="a restart")["message"] == "why\n"
    killing = ("Killing", "Container main failed liveness probe, will be restarted")
    until(lambda: killing in events(life, "dead"), what="an Event")


def test_a_readiness_gate_is_opened_by_somebody_else(life, until):
    life.apply(pod("gated", container("main"), readinessGates=[{"conditionType": GATE}]))
    until(lambda: condition(life, "gated", "ContainersReady")["status"] == "True", what="ready containers")
    until(lambda: condition(life, "gated").get("reason") == "ReadinessGatesNotReady", what="a closed gate")
    patch = {"status": {"conditions": [{"type": GATE, "status": "True"}]}}
    life.kubectl("patch", "pod", "gated", "-n", NAMESPACE, "--subresource", "status", "-p", json.dumps(patch))
    until(lambda: ready(life, "gated"), what="an open gate")
    assert condition(life, "gated", GATE)["status"] == "True"


def test_a_job_completes_beside_its_sidecar(life, until):
    template = pod(
        "job",
        container("main", "echo done"),
        initContainers=[container("proxy", restartPolicy="Always", startupProbe=has("/bin/sh"))],
        restartPolicy="Never",
    )
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job", "namespace": NAMESPACE},
        "spec": {"backoffLimit": 0, "template": {"spec": template["spec"]}},
    }
    life.apply(job)
    until(lambda: life.get("job", "job", "-n", NAMESPACE)["status"].get("succeeded") == 1, what="success")
    (found,) = life.get("pods", "-n", NAMESPACE, "-l", "job-name=job")
    assert found["status"]["phase"] == "Succeeded"
    assert "terminated" in found["status"]["initContainerStatuses"][0]["state"]


def test_hooks_run_before_and_after(life, until):
    hooks = {
        "postStart": {"exec": {"command": ["sh", "-c", "echo begun >/proc/1/fd/1"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo ending >/proc/1/fd/1; sleep 2"]}},
    }
    life.apply(pod("hooked", container("main", lifecycle=hooks)))
    until(lambda: ready(life, "hooked"), what="the pod is ready")
    until(lambda: life.kubectl("logs", "hooked", "-n", NAMESPACE) == "begun\n", what="the first hook")
    with life.kubectl_lines("logs", "--follow", "hooked", "-n", NAMESPACE) as log:
        assert log.stdout.readline() == "begun\n"
        life.kubectl("delete", "pod", "hooked", "-n", NAMESPACE, "--wait=false")
        assert log.stdout.read() == "ending\n"


def test_another_image_for_a_running_pod(life, until):
    life.apply(pod("changed", container("main"), restartPolicy="Never"))
    until(lambda: ready(life, "changed"), what="the pod is ready")
    life.kubectl("set", "image", "pod/changed", f"main={WEB[0]}", "-n", NAMESPACE)

    def renewed():
        (status,) = get(life, "changed")["status"]["containerStatuses"]
        return status["ready"] and (status["image"], status["restartCount"]) == (WEB[0], 1)

    until(renewed, what="the new image")
    killing = ("Killing", "Container main definition changed, will be restarted")
    until(lambda: killing in events(life, "changed"), what="an Event")
    found = get(life, "changed")
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]


def test_a_pod_on_its_way_out_tells_when_it_serves_no_more(life, until):
    lasts = f"touch /tmp/ready; {SLEEP.replace('exit 0', 'true')}"  # it does not end when it is asked to
    fields = {"readinessProbe": has("/tmp/ready")}
    life.apply(pod("leaving", container("main", lasts, **fields), terminationGracePeriodSeconds=60))
    until(lambda: ready(life, "leaving"), what="the pod is ready")
    life.kubectl("delete", "pod", "leaving", "-n", NAMESPACE, "--wait=false")
    run(life, "leaving", "rm /tmp/ready")
    until(lambda: condition(life, "leaving")["status"] == "False", seconds=30, what="a pod that is not ready")
    assert get(life, "leaving")["metadata"]["deletionTimestamp"]
    life.kubectl("delete", "pod", "leaving", "-n", NAMESPACE, "--grace-period=1", "--timeout=30s")


def test_debug_joins_a_running_pod(life, until):
    life.apply(pod("buggy", container("main", f"echo up; {SLEEP}")))
    until(lambda: ready(life, "buggy"), what="the pod is ready")
    before = get(life, "buggy")["status"]["containerStatuses"]
    said = life.kubectl(
        *("debug", "buggy", "-n", NAMESPACE, "--image", BUSYBOX, "--target", "main", "-c", "eye"),
        *("--attach=false", "--", "sh", "-c", f"ps; {SLEEP}"),
    )
    assert "echo up" not in said

    def state():
        statuses = get(life, "buggy")["status"].get("ephemeralContainerStatuses", [])
        return statuses and statuses[0]["state"].get("running")

    until(state, what="the ephemeral container runs")
    until(lambda: "echo up" in life.kubectl("logs", "buggy", "-n", NAMESPACE, "-c", "eye"), what="its log")
    assert "echo up" in run(life, "buggy", "ps", of="eye")
    assert get(life, "buggy")["status"]["containerStatuses"] == before
    assert ready(life, "buggy")


def test_debug_talks_and_ends_with_its_command(life, until):
    life.apply(pod("asked", container("main")))
    until(lambda: ready(life, "asked"), what="the pod is ready")
    said = life.kubectl(
        *("debug", "asked", "-n", NAMESPACE, "--image", BUSYBOX, "-c", "eye", "-i"),
        *("--", "sh", "-c", "read line; echo said-$line"),
        stdin="hello\n",
    )
    assert "said-hello" in said

    def code():
        statuses = get(life, "asked")["status"].get("ephemeralContainerStatuses", [])
        return statuses and "terminated" in statuses[0]["state"] and statuses

    (status,) = until(code, what="the ephemeral container has ended")
    assert status["state"]["terminated"]["exitCode"] == 0
    assert status["restartCount"] == 0
