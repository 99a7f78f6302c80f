"""What the walkthrough reads of an autoscaler, its pods and its worker."""

import pytest

from overspill.local.autoscaling import Moment, moment, room_beside


def pod(node="worker-0", cpu="50m", phase="Running", *, ready=True):
    return {
        "metadata": {"name": "burn"},
        "spec": {"nodeName": node, "containers": [{"resources": {"requests": {"cpu": cpu}} if cpu else {}}]},
        "status": {"phase": phase, "containerStatuses": [{"ready": ready}]},
    }


def hpa(usage=None, wanted=1):
    current = {} if usage is None else {"averageUtilization": usage}
    return {
        "spec": {"metrics": [{"resource": {"name": "cpu", "target": {"averageUtilization": 50}}}]},
        "status": {"desiredReplicas": wanted, "currentMetrics": [{"resource": {"current": current}}]},
    }


def test_pods_are_counted_where_they_run():
    pods = [
        pod(),
        pod("virtual-node-eci-0"),
        pod("virtual-node-eci-1"),
        pod("virtual-node-eci-1", ready=False),
    ]
    assert moment(hpa(120, 4), pods, worker="worker-0") == Moment("120/50 %", 4, 4, 1, 2)


def test_an_autoscaler_that_knows_nothing_yet():
    assert moment({"spec": hpa()["spec"]}, [], worker="worker-0") == Moment("-/50 %", 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("now", "settled"),
    [
        (Moment("", 3, 3, 1, 2), True),
        (Moment("", 4, 3, 1, 2), False),  # one is to come
        (Moment("", 3, 4, 1, 2), False),  # one is on its way out
        (Moment("", 3, 3, 1, 1), False),  # one does not run yet
    ],
)
def test_settled_is_what_is_wanted(now, settled):
    assert now.settled is settled


def test_room_is_what_nobody_has_requested():
    node = {"status": {"allocatable": {"cpu": "2"}}}
    assert room_beside(node, [pod(), pod(cpu="0.25"), pod(cpu=""), pod(phase="Succeeded")]) == 1700
