"""Room on nodes, as it is reckoned before a pod is sent there."""

import pytest

import placing
from overspill.model.affinity import Taint
from overspill.placement.capacity import Capacity, request_of
from placing import node

BASE = placing.policy().spec.pools[0]


def requesting(name, cpu, **fields):
    return placing.gated(name, containers=[{"name": "c", "resources": {"requests": {"cpu": cpu}}}], **fields)


@pytest.mark.parametrize(
    ("nodes", "pods", "fits"),
    [
        pytest.param([node("n")], [], True, id="empty"),
        pytest.param(
            [node("n", cpu="2")], [requesting("a", "1500m", gated=False, node="n")], False, id="no cpu left"
        ),
        pytest.param(
            [node("n", pods="1")], [requesting("a", "0", gated=False, node="n")], False, id="no pod more"
        ),
        pytest.param(
            [node("n", pods="1")],
            [requesting("a", "0", gated=False, node="n", phase="Succeeded")],
            True,
            id="ended",
        ),
        pytest.param([node("n", cordoned=True)], [], False, id="cordoned"),
        pytest.param([node("n", ready=False)], [], False, id="not ready"),
        pytest.param([node("n", **placing.VIRTUAL)], [], False, id="of another pool"),
        pytest.param([node("n", taints=[Taint("team", "NoSchedule", "x")])], [], False, id="tainted"),
        pytest.param([node("n", taints=[Taint("t", "PreferNoSchedule")])], [], True, id="tainted softly"),
        pytest.param([node("n", taints=[Taint("mine", "NoSchedule")])], [], True, id="tolerated by the pod"),
        pytest.param([node("n", zone="b"), node("m", zone="a")], [], True, id="one that the pod allows"),
        pytest.param([node("n", zone="b")], [], False, id="none that the pod allows"),
    ],
)
def test_capacity(nodes, pods, fits):
    mine = {"key": "mine", "operator": "Exists"}
    in_zone = {"nodeSelector": {"zone": "a"}} if any("zone" in each.metadata.labels for each in nodes) else {}
    assert Capacity(nodes, pods).fits(requesting("p", "1", tolerations=[mine], **in_zone), BASE) == fits


def asking(requests, **more):
    return {"name": "c", "resources": {"requests": requests}, **more}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        pytest.param(
            {"containers": [asking({"cpu": "1", "nvidia.com/gpu": 1}), asking({"cpu": "500m"})]},
            {"cpu": 1500, "nvidia.com/gpu": 1000},
            id="containers together",
        ),
        pytest.param(
            {
                "containers": [asking({"cpu": "1"})],
                "initContainers": [asking({"cpu": "3"}), asking({"cpu": "2"})],
            },
            {"cpu": 3000},
            id="the largest init container",
        ),
        pytest.param(
            {
                "containers": [asking({"cpu": "1"})],
                "initContainers": [asking({"cpu": "2"}, restartPolicy="Always"), asking({"cpu": "2"})],
            },
            {"cpu": 4000},
            id="an init container beside a sidecar",
        ),
        pytest.param(
            {"containers": [asking({"cpu": "1"})], "overhead": {"cpu": "250m", "memory": "1"}},
            {"cpu": 1250, "memory": 1000},
            id="overhead",
        ),
        pytest.param(
            {"containers": [asking({"cpu": "1", "memory": "1"})], "resources": {"requests": {"cpu": "4"}}},
            {"cpu": 4000, "memory": 1000},
            id="the pod's own resources",
        ),
    ],
)
def test_what_a_pod_takes_of_its_node(spec, wanted):
    assert request_of(placing.gated("p", **spec)) == {**wanted, "pods": 1000}


def test_a_resource_that_no_node_has_fits_nowhere():
    pod = placing.gated("p", containers=[asking({"nvidia.com/gpu": 1})])
    assert not Capacity([node("n")], []).fits(pod, BASE)
    gpu = Capacity([node("n", more={"nvidia.com/gpu": "1"})], [])
    assert [gpu.take(pod, BASE), gpu.take(pod, BASE)] == [True, False]


def test_capacity_that_was_given_is_gone():
    left = Capacity([node("n", cpu="3"), node("m", cpu="1")], [])
    assert [left.take(requesting(name, "2"), BASE) for name in "ab"] == [True, False]
    assert left.take(requesting("c", "1"), BASE)
