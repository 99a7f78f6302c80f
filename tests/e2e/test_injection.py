"""The injection by policy and by webhook, as a real apiserver and scheduler carry it out, from one table."""

import collections
import copy
import json
import time

import pytest
from forms import policies, webhook

from injection_cases import CASES, UNTOUCHED, parts, pod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def admitted(cluster, namespace, manifest):
    """The pod's spec as the apiserver would store it."""
    answer = cluster.kubectl(
        "create", "--dry-run=server", "-n", namespace, "-o", "json", "-f", "-", stdin=json.dumps(manifest)
    )
    return json.loads(answer)["spec"]


def namespace(cluster, name, until, **labels):
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    until(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", name), what=f"account in {name}")


@pytest.fixture(scope="module", params=["policy", "webhook"])
def injected(control_plane, until, request, tmp_path_factory):
    """The control plane with the injection in force and the namespaces `labelled`, `off` and `plain`."""
    form = (
        webhook(control_plane, until, tmp_path_factory.mktemp("injection"))
        if request.param == "webhook"
        else policies(control_plane, "injection/policy.yaml")
    )
    with form:
        namespace(control_plane, "labelled", until, **{"virtual-node-affinity-injection": "enabled"})
        namespace(control_plane, "off", until, **{"virtual-node-affinity-injection": "disabled"})
        namespace(control_plane, "plain", until)
        control_plane.kubectl(
            "label", "namespace", "kube-system", "virtual-node-affinity-injection=enabled", "--overwrite"
        )
        until(lambda: "affinity" in admitted(control_plane, "labelled", pod()), what="injection in force")
        yield control_plane


@pytest.mark.parametrize(("manifest", "wanted"), CASES)
def test_pods_of_labelled_namespaces(injected, manifest, wanted):
    spec = admitted(injected, "labelled", manifest)
    assert parts(spec) == wanted
    again = copy.deepcopy(manifest)
    again["spec"] |= {
        key: spec[key] for key in ("affinity", "tolerations", "topologySpreadConstraints") if key in spec
    }
    assert parts(admitted(injected, "labelled", again)) == wanted, "a second run changes nothing"


@pytest.mark.parametrize(
    ("where", "manifest"),
    [
        *(pytest.param("labelled", *each.values, id=each.id) for each in UNTOUCHED),
        pytest.param("plain", pod(), id="namespace without the label"),
        pytest.param("off", pod(), id="another value of the label"),
        pytest.param("kube-system", pod(), id="kube-system"),
    ],
)
def test_untouched(injected, where, manifest):
    spec = admitted(injected, where, manifest)
    assert parts(spec) == {"affinity": None, "tolerations": [], "spread": []}


# Spread: nodes by hand, which is all that a scheduler wants to see.


def node(name, *, virtual):
    size = (
        {"cpu": "6000", "memory": "24Ti", "pods": "3000"}
        if virtual
        else {"cpu": "4", "memory": "8Gi", "pods": "110"}
    )
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "made by hand"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **({"type": "virtual-kubelet"} if virtual else {})},
        },
        "spec": {
            "taints": [{"key": "virtual-kubelet.io/provider", "value": "test", "effect": "NoSchedule"}]
            if virtual
            else []
        },
        "status": {
            "capacity": size,
            "allocatable": size,
            "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
        },
    }


def lease(name):
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() + 3600))
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 3600, "renewTime": now},
    }


TEMPLATE = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}


def deployment():
    spec = {"replicas": 10, "selector": {"matchLabels": {"app": "w"}}, "template": TEMPLATE}
    return [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"}, "spec": spec}]


def job():
    template = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
    spec = {"parallelism": 10, "completions": 10, "template": template}
    return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "w"}, "spec": spec}]


def pods_by_themselves():
    return [
        {"apiVersion": "v1", "kind": "Pod", **TEMPLATE, "metadata": {"name": f"w{number}"}}
        for number in range(10)
    ]


@pytest.fixture(scope="module")
def four_virtual_nodes(injected, until):
    nodes = {"own-0": False, **{f"virtual-{number}": True for number in range(4)}}
    injected.kubectl("delete", "nodes", "--all")  # those of other tests
    injected.apply(
        *(lease(name) for name in nodes), *(node(name, virtual=kind) for name, kind in nodes.items())
    )

    def untainted():
        found = injected.get("nodes")
        return len(found) == len(nodes) and not any(
            taint["key"] == "node.kubernetes.io/not-ready"
            for each in found
            for taint in each["spec"].get("taints", ())
        )

    until(untainted, what="nodes without the not-ready taint")
    return injected


# What the scheduler makes of it does not depend on who added it.
@pytest.mark.parametrize("injected", ["policy"], indirect=True)
@pytest.mark.parametrize("workload", [deployment, job, pods_by_themselves])
def test_ten_pods_over_four_virtual_nodes_are_two_or_three_each(four_virtual_nodes, until, workload):
    cluster = four_virtual_nodes
    name = f"spread-{workload.__name__.replace('_', '-')}"
    namespace(cluster, name, until, **{"virtual-node-affinity-injection": "enabled"})
    cluster.apply(*({**each, "metadata": {**each["metadata"], "namespace": name}} for each in workload()))

    def placed():
        nodes = [each["spec"].get("nodeName") for each in cluster.get("pods", "-n", name)]
        return collections.Counter(nodes) if len(nodes) == 10 and all(nodes) else None

    counts = until(placed, what="ten pods with a node")
    assert set(counts) == {f"virtual-{number}" for number in range(4)}
    assert set(counts.values()) == {2, 3}
