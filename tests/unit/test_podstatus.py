"""A pod's status follows from one observation, by the kubelet's rules."""

import msgspec
import pytest

from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting
from overspill.model.podstatus import (
    encode,
    phase_of,
    refused_status,
    seconds,
    timestamp,
    to_pod_status,
    waiting_status,
)
from overspill.model.work import Identity

WHO = Identity("cluster", "vn-0", "default", "web", "uid-1")
CREATING = Waiting("ContainerCreating")
DONE = Terminated(0, "Completed", 10.0, 20.0)
FAILED = Terminated(3, "Error", 10.0, 25.0)


def container(state, name="c", **more) -> ContainerObservation:
    running = isinstance(state, Running)
    return ContainerObservation(name, state, "img", **{"ready": running, "started": running, **more})


def observed(*containers, init=(), **more) -> Observation:
    return Observation(WHO, 5.0, containers, init_containers=init, **more)


PHASES = {
    "creating": (observed(container(CREATING)), "Pending"),
    "one of two started": (observed(container(Running(6.0)), container(CREATING, "d")), "Pending"),
    "running": (observed(container(Running(6.0))), "Running"),
    "crash loop": (
        observed(container(Waiting("CrashLoopBackOff"), last_state=FAILED, will_restart=True)),
        "Running",
    ),
    "ended, will restart": (observed(container(FAILED, will_restart=True)), "Running"),
    "one ended, one runs": (observed(container(DONE), container(Running(6.0), "d")), "Running"),
    "all completed": (observed(container(DONE), container(DONE, "d")), "Succeeded"),
    "one failed": (observed(container(DONE), container(FAILED, "d")), "Failed"),
    "init runs": (
        observed(container(Waiting("PodInitializing")), init=(container(Running(6.0), "i"),)),
        "Pending",
    ),
    "init retries": (
        observed(container(Waiting("PodInitializing")), init=(container(FAILED, "i", will_restart=True),)),
        "Pending",
    ),
    "init failed for good": (
        observed(container(Waiting("PodInitializing")), init=(container(FAILED, "i"),)),
        "Failed",
    ),
    "init done": (observed(container(Running(9.0)), init=(container(DONE, "i"),)), "Running"),
    "given up by the backend": (
        observed(container(Running(6.0)), failed=True, reason="DeadlineExceeded"),
        "Failed",
    ),
}


@pytest.mark.parametrize(("seen", "phase"), PHASES.values(), ids=PHASES.keys())
def test_phase(seen, phase):
    assert phase_of(seen) == phase


def status(seen):
    return msgspec.json.decode(encode(to_pod_status(seen, host_ip="10.0.0.1")))


def conditions(seen):
    return {condition["type"]: condition for condition in status(seen)["conditions"]}


def test_running_pod_is_ready_since_its_last_container_started():
    got = conditions(observed(container(Running(6.0)), container(Running(9.0), "d"), ips=("10.1.0.2",)))
    assert {kind: c["status"] for kind, c in got.items()} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "ContainersReady": "True",
        "Ready": "True",
    }
    assert got["Ready"]["lastTransitionTime"] == timestamp(9.0)


def test_unready_containers_are_named():
    got = conditions(observed(container(CREATING), container(Running(6.0), "d")))
    assert got["Ready"]["status"] == "False"
    assert got["Ready"]["reason"] == "ContainersNotReady"
    assert got["Ready"]["message"] == "containers with unready status: [c]"


def test_becoming_ready_clears_the_reason_even_under_a_merge():
    # A strategic merge keeps fields that are absent, so the empty reason has to be written.
    ready = conditions(observed(container(Running(6.0)), ips=("10.1.0.2",)))["Ready"]
    assert ready["reason"] == ""
    assert ready["message"] == ""


def test_incomplete_init_containers_are_named():
    got = conditions(
        observed(container(Waiting("PodInitializing")), init=(container(Running(6.0), "prepare"),))
    )
    assert got["Initialized"]["message"] == "containers with incomplete status: [prepare]"


def test_completed_pod():
    got = conditions(observed(container(DONE), ips=("10.1.0.2",)))
    assert (got["Ready"]["status"], got["Ready"]["reason"]) == ("False", "PodCompleted")


def test_addresses_and_container_details():
    seen = observed(
        container(Running(6.0), container_id="podman://abc", image_id="sha", restarts=2, last_state=FAILED),
        ips=("10.1.0.2", "fd00::2"),
    )
    got = status(seen)
    assert got["podIP"] == "10.1.0.2"
    # The apiserver merges these lists by ip, unless it is told to replace them.
    assert got["podIPs"] == [{"$patch": "replace"}, {"ip": "10.1.0.2"}, {"ip": "fd00::2"}]
    assert got["hostIPs"] == [{"$patch": "replace"}, {"ip": "10.0.0.1"}]
    assert got["hostIP"] == "10.0.0.1"
    assert got["startTime"] == "1970-01-01T00:00:05Z"
    assert got["containerStatuses"] == [
        {
            "name": "c",
            "state": {"running": {"startedAt": "1970-01-01T00:00:06Z"}},
            "lastState": {
                "terminated": {
                    "exitCode": 3,
                    "reason": "Error",
                    "startedAt": "1970-01-01T00:00:10Z",
                    "finishedAt": "1970-01-01T00:00:25Z",
                }
            },
            "ready": True,
            "started": True,
            "restartCount": 2,
            "image": "img",
            "imageID": "sha",
            "containerID": "podman://abc",
        }
    ]


def test_no_address_is_left_out():
    assert "podIP" not in status(observed(container(CREATING)))


def test_reason_only_of_a_failed_pod():
    assert (
        status(observed(container(Running(6.0)), failed=True, reason="DeadlineExceeded"))["reason"]
        == "DeadlineExceeded"
    )
    assert "reason" not in status(observed(container(CREATING), reason="NoStock"))


def test_same_observation_same_bytes():
    make = lambda: observed(container(Running(6.7)), ips=("10.1.0.2",))  # noqa: E731 - two equal values
    assert encode(to_pod_status(make(), host_ip="h")) == encode(to_pod_status(make(), host_ip="h"))


def test_waiting_status_shows_the_reason_in_every_container():
    got = msgspec.json.decode(
        encode(waiting_status(WHO, [("c", "i"), ("d", "j")], since=5.0, host_ip="h", reason="X", message="y"))
    )
    assert got["phase"] == "Pending"
    assert [c["state"] for c in got["containerStatuses"]] == [
        {"waiting": {"reason": "X", "message": "y"}}
    ] * 2


def test_refused_status_is_terminal():
    got = msgspec.json.decode(encode(refused_status(since=5.0, reason="OutOfpods", message="m")))
    assert (got["phase"], got["reason"], got["message"]) == ("Failed", "OutOfpods", "m")


def test_times_round_trip_in_whole_seconds():
    assert seconds(timestamp(1_700_000_000.9)) == 1_700_000_000


def test_no_room_is_a_condition():
    full = observed(
        container(CREATING), provisioned=False, reason="NoStock", message="none of cn-hangzhou-b left"
    )
    condition = to_pod_status(full, host_ip="10.0.0.1").conditions[-1]
    assert (condition.type, condition.status, condition.reason) == ("InstanceProvisioned", "False", "NoStock")
    room = to_pod_status(observed(container(Running(6.0)), provisioned=True), host_ip="10.0.0.1")
    assert [c.status for c in room.conditions if c.type == "InstanceProvisioned"] == ["True"]
    silent = to_pod_status(observed(container(Running(6.0))), host_ip="10.0.0.1")
    assert all(c.type != "InstanceProvisioned" for c in silent.conditions)
