"""A pod's status follows from one observation, by the kubelet's rules."""

import msgspec
import pytest

from overspill.model.gates import readiness_gates
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting
from overspill.model.pods import Pod
from overspill.model.podstatus import (
    Gate,
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
    "nothing is known of its containers": (observed(), "Pending"),
    "given up by the backend": (
        observed(container(Running(6.0)), failed=True, reason="DeadlineExceeded"),
        "Failed",
    ),
    "given up, and still being stopped": (
        observed(container(Running(6.0)), failed=True, ending=True, reason="DeadlineExceeded"),
        "Running",
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


def test_waiting_status_shows_the_reason_in_a_condition_and_in_every_container():
    got = msgspec.json.decode(
        encode(waiting_status(WHO, [("c", "i"), ("d", "j")], since=5.0, host_ip="h", reason="X", message="y"))
    )
    assert got["phase"] == "Pending"
    assert [c["state"] for c in got["containerStatuses"]] == [
        {"waiting": {"reason": "X", "message": "y"}}
    ] * 2
    told = {c["type"]: (c["status"], c["reason"], c["message"]) for c in got["conditions"]}
    assert told["PodReadyToStartContainers"] == ("False", "X", "y")


def test_a_long_reason_is_cut_since_each_container_repeats_it():
    images = [(f"c{number}", "i") for number in range(100)]
    told = encode(waiting_status(WHO, images, since=5.0, host_ip="h", reason="X", message="y" * 100_000))
    assert len(told) < 200_000
    waiting = msgspec.json.decode(told)["containerStatuses"][0]["state"]["waiting"]
    assert waiting["message"] == "y" * 1022 + " …"


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


# --- sidecars, gates, ephemeral containers ---


def sidecar(state, **more) -> ContainerObservation:
    return container(state, "s", sidecar=True, **more)


SIDECAR_PHASES = {
    "starting": (
        observed(container(Waiting("PodInitializing")), init=(sidecar(Running(6.0), started=False),)),
        "Pending",
        "False",
    ),
    "started": (observed(container(CREATING), init=(sidecar(Running(6.0)),)), "Pending", "True"),
    "beside the app": (observed(container(Running(7.0)), init=(sidecar(Running(6.0)),)), "Running", "True"),
    "restarting beside the app": (
        observed(
            container(Running(7.0)),
            init=(sidecar(Waiting("CrashLoopBackOff"), last_state=FAILED, will_restart=True),),
        ),
        "Running",
        "True",
    ),
    "outlives the app": (observed(container(DONE), init=(sidecar(Running(6.0)),)), "Running", "True"),
    "outlives a failed app": (observed(container(FAILED), init=(sidecar(Running(6.0)),)), "Running", "True"),
    "failed after the app": (observed(container(DONE), init=(sidecar(FAILED),)), "Succeeded", "True"),
    "fine after a failed app": (observed(container(FAILED), init=(sidecar(DONE),)), "Failed", "True"),
    "an init container failed for good": (
        observed(container(Waiting("PodInitializing")), init=(sidecar(Running(6.0)), container(FAILED, "i"))),
        "Pending",
        "False",
    ),
    "… and the sidecar has ended": (
        observed(container(Waiting("PodInitializing")), init=(sidecar(DONE), container(FAILED, "i"))),
        "Failed",
        "False",
    ),
}


def told_conditions(seen, **more):
    return {c.type: c for c in to_pod_status(seen, host_ip="192.0.2.1", **more).conditions}


@pytest.mark.parametrize(("seen", "phase", "initialized"), SIDECAR_PHASES.values(), ids=SIDECAR_PHASES.keys())
def test_sidecars_put_off_the_end_and_do_not_decide_it(seen, phase, initialized):
    assert phase_of(seen) == phase
    assert told_conditions(seen)["Initialized"].status == initialized


def test_sidecars_count_for_ready():
    seen = observed(container(Running(7.0)), init=(sidecar(Running(6.0), ready=False),))
    ready = told_conditions(seen)["Ready"]
    assert (ready.status, ready.reason) == ("False", "ContainersNotReady")
    assert ready.message == "containers with unready status: [s]"
    seen = observed(
        container(Running(7.0)), init=(sidecar(Running(6.0), changed_at=30.0), container(DONE, "i"))
    )
    ready = told_conditions(seen)["Ready"]
    assert (ready.status, ready.last_transition_time) == ("True", "1970-01-01T00:00:30Z")


def test_ready_since_the_probe_said_so():
    seen = observed(container(Running(7.0), changed_at=42.0))
    assert told_conditions(seen)["Ready"].last_transition_time == "1970-01-01T00:00:42Z"
    assert told_conditions(seen)["ContainersReady"].last_transition_time == "1970-01-01T00:00:42Z"


def test_readiness_gates_hold_back_ready_and_nothing_else():
    seen = observed(container(Running(7.0)))
    gates = (
        Gate("example.test/one"),
        Gate("example.test/two", "False", 9.0),
        Gate("example.test/three", "True"),
    )
    told = told_conditions(seen, gates=gates)
    assert told["ContainersReady"].status == "True"
    ready = told["Ready"]
    assert (ready.status, ready.reason) == ("False", "ReadinessGatesNotReady")
    assert ready.message == (
        'corresponding condition of pod readiness gate "example.test/one" does not exist., '
        'the status of pod readiness gate "example.test/two" is not "True", but False'
    )
    opened = told_conditions(seen, gates=(Gate("example.test/one", "True", 50.0),))["Ready"]
    assert (opened.status, opened.last_transition_time) == ("True", "1970-01-01T00:00:50Z")


def test_gates_do_not_hide_why_containers_are_not_ready():
    ready = told_conditions(observed(container(CREATING)), gates=(Gate("example.test/one"),))["Ready"]
    assert ready.reason == "ContainersNotReady"


def test_ephemeral_containers_have_statuses_of_their_own():
    seen = observed(container(Running(7.0)), ephemeral_containers=(container(FAILED, "debug"),))
    status = msgspec.json.decode(encode(to_pod_status(seen, host_ip="192.0.2.1")))
    assert status["phase"] == "Running"
    assert [one["name"] for one in status["ephemeralContainerStatuses"]] == ["debug"]
    assert "ephemeralContainerStatuses" not in msgspec.json.decode(
        encode(to_pod_status(observed(container(DONE)), host_ip="192.0.2.1"))
    )


# --- readiness gates of a pod as the cache keeps it ---


def gated(spec, *found) -> Pod:
    status = {"phase": "Running", "conditions": list(found)}
    pod = {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec, "status": status}
    return msgspec.json.decode(msgspec.json.encode(pod), type=Pod).kept()


def test_gates_are_read_from_the_pods_own_conditions():
    spec = {"containers": [], "readinessGates": [{"conditionType": "example.test/a"}, {"conditionType": "b"}]}
    found = {"type": "example.test/a", "status": "True", "lastTransitionTime": "1970-01-01T00:01:00Z"}
    assert readiness_gates(gated(spec, {"type": "Ready", "status": "False"}, found)) == (
        Gate("example.test/a", "True", 60.0),
        Gate("b"),
    )
    assert readiness_gates(gated(spec)) == (Gate("example.test/a"), Gate("b"))


def test_conditions_are_kept_of_pods_with_gates_only():
    pod = gated({"containers": []}, {"type": "Ready", "status": "True"})
    assert bytes(pod.status.conditions) == b""
    assert readiness_gates(pod) == ()
    assert pod.status.phase == "Running"


def test_a_container_that_waits_for_its_next_run_is_unready_since_its_last_one_ended():
    crashed = Terminated(1, "Error", 6.0, 90.0)
    waiting = container(Waiting("CrashLoopBackOff"), ready=False, last_state=crashed)
    ready = told_conditions(observed(waiting))["Ready"]
    assert (ready.status, ready.last_transition_time) == ("False", "1970-01-01T00:01:30Z")
