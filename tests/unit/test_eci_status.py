"""What ECI tells of a group becomes an observation, whatever the case of its keys."""

import json

import pytest
from msgspec import structs

from overspill.backends.eci.answers import GroupEntry, StatusEntry
from overspill.backends.eci.specs import DEFAULT, Size, round_up
from overspill.backends.eci.status import Group, observe, provision_reason
from overspill.backends.eci.wire import decode
from overspill.model.observation import Running, Terminated, Waiting
from overspill.model.podstatus import phase_of, seconds
from overspill.model.work import Identity

WHO = Identity("cluster", "vn-0", "default", "web", "uid-1")
GROUP = Group(id="eci-1", identity=WHO, containers=(("web", "nginx:1"),), created_at=100.0)
WITH_INIT = structs.replace(GROUP, init_containers=(("prepare", "busybox"),))
START = "2026-11-23T09:16:48Z"


def entry(status="Running", state=None, *, conditions=(), **more) -> StatusEntry:
    """As the service writes it, in its own mix of cases."""
    statuses = [{"Name": "web", "Image": "nginx:1", "Ready": True, "State": state, **more}] if state else None
    body = {
        "ContainerGroupId": "eci-1",
        "Name": "default-web",
        "uuid": None,
        "Status": status,
        "PodStatus": {
            "PodIp": "10.0.0.5",
            "PodIps": [{"Ip": "10.0.0.5"}],
            "StartTime": START,
            "Conditions": list(conditions),
            "ContainerStatuses": statuses,
        },
    }
    return decode(json.dumps(body).encode(), StatusEntry)


def detail(current=None, *, status="Pending", **more) -> GroupEntry:
    init = [{"Name": "prepare", "CurrentState": current or {}, "RestartCount": 0}]
    body = {"ContainerGroupId": "eci-1", "Status": status, "InitContainers": init, **more}
    return decode(json.dumps(body).encode(), GroupEntry)


RUNNING = {"Running": {"StartedAt": START}}
ENDED = {"Terminated": {"ExitCode": 3, "StartedAt": START, "FinishedAt": START, "Message": "bye"}}
DONE = {"Terminated": {"ExitCode": 0, "Reason": "Completed", "StartedAt": START, "FinishedAt": START}}
NO_STOCK = {
    "type": "ContainerInstanceCreated",
    "status": "False",
    "Reason": "ContainerGroup.NoStock",
    "Message": "m",
}

PHASES = {
    "asked for": (GROUP, None, None, "Pending"),
    "scheduling": (GROUP, entry("Scheduling"), None, "Pending"),
    "pulling": (GROUP, entry("Pending", {"Waiting": {"Reason": "ContainerCreating"}}), None, "Pending"),
    "running": (GROUP, entry("Running", RUNNING), None, "Running"),
    "being updated, containers run on": (GROUP, entry("Updating", RUNNING), None, "Running"),
    "ended, starts again": (GROUP, entry("Running", ENDED), None, "Running"),
    "never again": (
        structs.replace(GROUP, restart_policy="Never"),
        entry("Failed", ENDED),
        None,
        "Failed",
    ),
    "completed": (
        structs.replace(GROUP, restart_policy="Never"),
        entry("Succeeded", DONE),
        None,
        "Succeeded",
    ),
    "spot taken back": (GROUP, entry("Expired", RUNNING), None, "Failed"),
    "no stock, tried again": (GROUP, entry("ScheduleFailed", conditions=[NO_STOCK]), None, "Pending"),
    "no stock, fails fast": (
        structs.replace(GROUP, fail_fast=True),
        entry("ScheduleFailed", conditions=[NO_STOCK]),
        None,
        "Failed",
    ),
    "init container runs": (WITH_INIT, entry("Pending"), detail({"State": "Running"}), "Pending"),
    "init container failed for good": (
        structs.replace(WITH_INIT, restart_policy="Never"),
        entry("Failed"),
        detail({"State": "Terminated", "ExitCode": 1}, status="Failed"),
        "Failed",
    ),
    "init container done, told late": (
        WITH_INIT,
        entry("Running", RUNNING),
        detail({"State": "Running"}),
        "Running",
    ),
    "init containers not told at all": (WITH_INIT, entry("Running", RUNNING), None, "Running"),
}


@pytest.mark.parametrize(("group", "told", "more", "phase"), PHASES.values(), ids=PHASES)
def test_phase(group, told, more, phase):
    assert phase_of(observe(group, told, more)) == phase


@pytest.mark.parametrize("key", ["StartedAt", "startedAt", "StartedAtstartedAt"])
def test_start_in_every_spelling(key):
    seen = observe(GROUP, entry("Running", {"Running": {key: START}}))
    assert seen.containers[0].state == Running(seconds(START))


def test_start_that_is_not_told_is_the_groups():
    seen = observe(GROUP, entry("Running", {"Running": {}}))
    assert seen.containers[0].state == Running(seconds(START))


def test_what_a_running_container_is():
    seen = observe(GROUP, entry("Running", RUNNING, ImageID="sha256:1", RestartCount=2, LastState=ENDED))
    container = seen.containers[0]
    assert (container.ready, container.started, container.restarts) == (True, True, 2)
    assert container.image_id == "sha256:1"
    assert container.container_id.startswith("eci://")
    assert isinstance(container.last_state, Terminated)
    assert container.last_state.exit_code == 3
    assert container.last_state.message == "bye"
    assert seen.ips == ("10.0.0.5",)
    assert seen.provisioned is True


def test_ready_needs_a_running_container():
    assert not observe(GROUP, entry("Running", ENDED)).containers[0].ready


def test_a_container_that_is_not_told_waits():
    assert observe(GROUP, entry("Pending")).containers[0].state == Waiting("ContainerCreating")
    waiting = observe(WITH_INIT, entry("Pending"), detail({"State": "Running"}))
    assert waiting.containers[0].state == Waiting("PodInitializing")


PROVISIONED = {
    "scheduling": (entry("Scheduling"), (None, "")),
    "no stock": (entry("ScheduleFailed", conditions=[NO_STOCK]), (False, "NoStock")),
    "no stock yet": (entry("Scheduling", conditions=[NO_STOCK]), (False, "NoStock")),
    "taken back": (entry("Expired"), (False, "SpotInterrupted")),
    "about to be taken back": (
        entry("Running", RUNNING, conditions=[{"type": "ContainerInstanceExpired", "status": "True"}]),
        (False, "SpotInterrupted"),
    ),
    "ready": (
        entry("Running", RUNNING, conditions=[{"type": "Ready", "status": "True"}]),
        (True, ""),
    ),
}


@pytest.mark.parametrize(("told", "expected"), PROVISIONED.values(), ids=PROVISIONED)
def test_provisioned(told, expected):
    seen = observe(GROUP, told)
    assert (seen.provisioned, seen.reason) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ContainerGroup.NoStock", "NoStock"),
        ("StockExhaust", "NoStock"),
        ("Zone.NotOnSale", "NoStock"),
        ("Spot.NotMatched", "NoStock"),
        ("QuotaExceeded", "QuotaExceeded"),
        ("Throttling.Vcpu.PerDay", "QuotaExceeded"),
        ("SecurityGroupInstanceLimitExceed", "QuotaExceeded"),
        ("InvalidVSwitchId.IpNotEnough", "NoAddress"),
        ("SpotToBeReleased", "SpotInterrupted"),
        ("FailedScheduling", "ScheduleFailed"),
    ],
)
def test_reason(text, reason):
    assert provision_reason(text) == reason


def test_deadline_comes_from_the_events():
    events = [{"Type": "Warning", "Reason": "DeadlineExceeded", "Message": "Pod was active too long"}]
    seen = observe(GROUP, entry("Failed", RUNNING), detail(status="Failed", Events=events))
    assert (seen.failed, seen.reason) == (True, "DeadlineExceeded")


def test_on_failure_restarts_only_what_failed():
    group = structs.replace(GROUP, restart_policy="OnFailure")
    assert observe(group, entry("Running", ENDED)).containers[0].will_restart
    assert not observe(group, entry("Running", DONE)).containers[0].will_restart


SIZES = [
    ((7, 13), False, (8, 16)),
    ((7, 13), True, (8, 14)),
    ((0.1, 0.1), False, (0.25, 0.5)),
    ((0.25, 3), False, (1, 4)),
    ((2, 5), False, (2, 8)),
    ((2, 5), True, (2, 6)),
    ((5, 5), True, (6, 6)),
    ((33, 1), False, (52, 96)),
    ((64, 512), False, (64, 512)),
]


@pytest.mark.parametrize(("asked", "regional", "size"), SIZES)
def test_round_up(asked, regional, size):
    assert round_up(Size(*map(float, asked)), regional=regional) == Size(*map(float, size))


def test_nothing_is_large_enough():
    assert round_up(Size(64.0, 513.0)) is None
    assert round_up(Size(65.0, 1.0)) is None


def test_sizes_are_written_as_alibaba_writes_them():
    assert (str(DEFAULT), str(Size(0.25, 0.5))) == ("2.0-4.0Gi", "0.25-0.5Gi")
