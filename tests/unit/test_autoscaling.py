"""What the walkthrough reads of an autoscaler and its pods."""

import pytest

from overspill.local.autoscaling import Moment, Pool, moment


def pod(pool="base", node="worker-0", revision="new", *, ready=True):
    labels = {"pod-template-hash": revision} | ({"placement.overspill.dev/pool": pool} if pool else {})
    return {
        "metadata": {"name": f"web-{pool}", "labels": labels},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "containerStatuses": [{"ready": ready}]},
    }


def elastic(**what):
    return pod("elastic", "virtual-node-eci-0", **what)


def hpa(usage=None, wanted=3):
    current = {} if usage is None else {"averageUtilization": usage}
    return {
        "spec": {"metrics": [{"resource": {"name": "cpu", "target": {"averageUtilization": 50}}}]},
        "status": {"desiredReplicas": wanted, "currentMetrics": [{"resource": {"current": current}}]},
    }


def test_pods_are_counted_by_pool_and_revision():
    pods = [
        pod(),
        pod(revision="old"),
        pod(revision="old"),
        elastic(),
        elastic(ready=False),
        pod(None),  # not placed yet
    ]
    now = moment(hpa(120, 6), pods, worker="worker-0", old="old")
    assert now == Moment("120/50 %", 6, 6, Pool(1, 2), Pool(1))
    assert now.cells() == ("120/50 %", "6", "2 old, 1 new", "1")


def test_an_autoscaler_that_knows_nothing_yet():
    assert moment({"spec": hpa()["spec"]}, [], worker="worker-0").cells() == ("-/50 %", "0", "0", "0")


@pytest.mark.parametrize("wrong", [pod(node="virtual-node-eci-0"), pod("elastic")])
def test_a_pod_on_nodes_of_another_pool_is_told(wrong):
    found = moment(hpa(), [pod(), elastic(), wrong], worker="worker-0")
    assert found.misplaced == (wrong["metadata"]["name"],)
    assert "not on the nodes of their pool" in found.wrong


@pytest.mark.parametrize(
    ("base", "wrong"),
    [
        (Pool(3), ""),
        (Pool(3, 3), ""),
        (Pool(2, 1), ""),
        (Pool(2), "2 run in the base, which is to have 3"),
        (Pool(4), "4 run in the base, which has room for 3 of each revision"),
        (Pool(1, 4), "4 old, 1 new run in the base, which has room for 3 of each revision"),
    ],
)
def test_the_base_is_never_short_and_never_over(base, wrong):
    assert Moment("", 12, 12, base, Pool(9)).wrong == wrong


@pytest.mark.parametrize(
    ("now", "settled"),
    [
        (Moment("", 12, 12, Pool(3), Pool(9)), True),
        (Moment("", 11, 12, Pool(3), Pool(9)), False),  # one is to go
        (Moment("", 12, 13, Pool(3), Pool(9)), False),  # one is on its way out
        (Moment("", 12, 12, Pool(3), Pool(8)), False),  # one does not run yet
        (Moment("", 12, 12, Pool(2), Pool(10)), False),  # one is missing from the base
        (Moment("", 12, 12, Pool(2, 1), Pool(9)), False),  # one is of the old revision
    ],
)
def test_settled_is_what_is_wanted_where_it_is_wanted(now, settled):
    assert now.settled(12) is settled
