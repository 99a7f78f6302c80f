"""The injection policy, as a real apiserver and scheduler carry it out."""

import collections
import json
import pathlib
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
REQUIREMENT = {"key": "type", "operator": "In", "values": ["virtual-kubelet"]}
TOLERATION = {"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}
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
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def pod(namespace, *, owner="", labels=None, **spec):
    metadata = {"name": "p", "namespace": namespace, "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "u"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "c", "image": "x"}], **spec},
    }


def admitted(cluster, manifest):
    """The pod's spec as the apiserver would store it."""
    answer = cluster.kubectl(
        "create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest)
    )
    return json.loads(answer)["spec"]


def namespace(cluster, name, until, **labels):
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    until(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", name), what=f"account in {name}")


@pytest.fixture(scope="module")
def injected(control_plane, until):
    """The control plane with the policy in force and the namespaces `labelled`, `off` and `plain`."""
    control_plane.kubectl("apply", "-k", str(DEPLOY / "injection"))
    namespace(control_plane, "labelled", until, **{"virtual-node-affinity-injection": "enabled"})
    namespace(control_plane, "off", until, **{"virtual-node-affinity-injection": "disabled"})
    namespace(control_plane, "plain", until)
    control_plane.kubectl("label", "namespace", "kube-system", "virtual-node-affinity-injection=enabled")
    until(lambda: "affinity" in admitted(control_plane, pod("labelled")), what="policy in force")
    return control_plane


ADDED = {"matchExpressions": [REQUIREMENT]}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param(None, required(ADDED), id="no affinity"),
        pytest.param(ANTI, ANTI | required(ADDED), id="only podAntiAffinity"),
        pytest.param(
            {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": PREFERRED}},
            {
                "nodeAffinity": required(ADDED)["nodeAffinity"]
                | {"preferredDuringSchedulingIgnoredDuringExecution": PREFERRED}
            },
            id="only preferred nodeAffinity",
        ),
        pytest.param(
            required({"matchExpressions": [ZONE_A]}, {"matchExpressions": [ZONE_B]}),
            required(
                {"matchExpressions": [ZONE_A, REQUIREMENT]}, {"matchExpressions": [ZONE_B, REQUIREMENT]}
            ),
            id="every alternative",
        ),
        pytest.param(
            required({"matchFields": [FIELD]}),
            required({"matchFields": [FIELD], "matchExpressions": [REQUIREMENT]}),
            id="only matchFields",
        ),
        pytest.param(
            required({}, {"matchExpressions": [ZONE_A]}),
            required({}, {"matchExpressions": [ZONE_A, REQUIREMENT]}),
            id="an empty term stays empty",
        ),
        pytest.param(
            required({"matchExpressions": [REQUIREMENT, ZONE_A]}),
            required({"matchExpressions": [REQUIREMENT, ZONE_A]}),
            id="required already",
        ),
        pytest.param(
            required({"matchExpressions": [{**REQUIREMENT, "operator": "NotIn"}]}),
            required({"matchExpressions": [{**REQUIREMENT, "operator": "NotIn"}, REQUIREMENT]}),
            id="the opposite is no match",
        ),
    ],
)
def test_affinity(injected, given, wanted):
    spec = admitted(injected, pod("labelled", **({"affinity": given} if given else {})))
    assert spec["affinity"] == json.loads(json.dumps(wanted))
    assert spec["tolerations"].count(TOLERATION) == 1


@pytest.mark.parametrize(
    "own",
    [
        TOLERATION,
        {"key": "virtual-kubelet.io/provider", "operator": "Exists"},
    ],
    ids=["the same", "for every effect"],
)
def test_toleration_that_suffices_is_not_doubled(injected, own):
    spec = admitted(injected, pod("labelled", tolerations=[own]))
    assert [each for each in spec["tolerations"] if each["key"] == own["key"]] == [own]


def test_toleration_of_another_effect_does_not_suffice(injected):
    own = {**TOLERATION, "effect": "NoExecute"}
    assert TOLERATION in admitted(injected, pod("labelled", tolerations=[own]))["tolerations"]


def test_running_twice_changes_nothing(injected):
    first = admitted(injected, pod("labelled", affinity=required({"matchExpressions": [ZONE_A]})))
    kept = {key: first[key] for key in ("affinity", "tolerations", "topologySpreadConstraints")}
    again = admitted(injected, pod("labelled", **kept))
    assert {key: again[key] for key in kept} == kept


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(pod("labelled", nodeName="somewhere"), id="nodeName"),
        pytest.param(pod("labelled", owner="DaemonSet"), id="of a DaemonSet"),
        pytest.param(pod("plain"), id="namespace without the label"),
        pytest.param(pod("off"), id="another value of the label"),
        pytest.param(pod("kube-system"), id="kube-system"),
    ],
)
def test_untouched(injected, manifest):
    spec = admitted(injected, manifest)
    assert "affinity" not in spec
    assert "topologySpreadConstraints" not in spec
    assert TOLERATION not in spec["tolerations"]


@pytest.mark.parametrize("owner", ["ReplicaSet", "StatefulSet"])
def test_spread_is_left_to_the_scheduler_where_it_has_a_default(injected, owner):
    assert "topologySpreadConstraints" not in admitted(injected, pod("labelled", owner=owner))


def test_own_spread_is_kept(injected):
    own = [
        {
            "maxSkew": 2,
            "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}},
        }
    ]
    assert (
        admitted(injected, pod("labelled", topologySpreadConstraints=own))["topologySpreadConstraints"] == own
    )


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
