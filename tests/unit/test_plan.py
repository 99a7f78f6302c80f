"""`plan` decides from state alone; each row is a situation that a restart may find."""

import math

import msgspec
import pytest

from overspill.agent.deadline import EXCEEDED, seconds_left, shortened, spent
from overspill.agent.plan import (
    Create,
    Delete,
    Fail,
    Finalize,
    Forget,
    Memory,
    Nothing,
    Recall,
    Report,
    plan,
)
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting
from overspill.model.pods import Pod
from overspill.model.podstatus import seconds
from overspill.model.work import Identity, WorkSpec

WHO = Identity("cluster", "vn-0", "default", "web", "uid-1")


def pod(
    *, phase="Pending", deleting=None, finalizers=(), restart_policy="Always", generation=1, start=None
) -> Pod:
    meta = {
        "name": "web",
        "namespace": "default",
        "uid": "uid-1",
        "generation": generation,
        "finalizers": finalizers,
    }
    if deleting is not None:
        meta |= {"deletionTimestamp": "2026-11-23T20:00:00Z", "deletionGracePeriodSeconds": deleting}
    spec = {"containers": [{"name": "c", "image": "i"}], "restartPolicy": restart_policy}
    return msgspec.convert(
        {
            "metadata": meta,
            "spec": msgspec.Raw(msgspec.json.encode(spec)),
            "status": {"phase": phase, "startTime": start},
        },
        Pod,
    )


def seen(state=None, *, will_restart=False, **fields) -> Observation:
    container = ContainerObservation("c", state or Running(1.0), "i", will_restart=will_restart)
    return Observation(WHO, 1.0, (container,), **fields)


STARTED = "2026-11-23T20:00:00Z"
ENDED, FAILED = Terminated(0, "Completed", 1.0, 2.0), Terminated(1, "Error", 1.0, 2.0)
ENDED_TO_STAY = Fail(
    "ContainersLost", "its containers are gone from the backend, and one that had ended is not to run again"
)


def two(first, *, initial=False) -> Observation:
    """A pod of which something runs beside the container `c`, or waits for it."""
    one = ContainerObservation("c", first, "i")
    other = ContainerObservation("d", Waiting("PodInitializing") if initial else Running(1.0), "i")
    return Observation(WHO, 1.0, (other,), (one,)) if initial else Observation(WHO, 1.0, (one, other))


def job(*, phase="Running", rules=(), own=None) -> Pod:
    container = {"name": "c", "image": "i", "restartPolicyRules": rules, "restartPolicy": own}
    made = {
        "metadata": {"name": "web", "namespace": "default", "uid": "uid-1", "generation": 1},
        "spec": {"containers": [container, {"name": "d"}], "restartPolicy": "OnFailure"},
        "status": {"phase": phase},
    }
    return msgspec.json.decode(msgspec.json.encode(made), type=Pod).kept()


AGAIN = {"action": "Restart", "exitCodes": {"operator": "In", "values": [0]}}

CASES = {
    "new pod": (pod(), None, Memory(), Create(0)),
    "already at the backend": (pod(), seen(), Memory(attempt=0), Nothing()),
    "waiting at the backend": (pod(), seen(Waiting("ContainerCreating")), Memory(attempt=0), Nothing()),
    "vanished from the backend": (pod(phase="Running"), None, Memory(attempt=0), Create(1)),
    "vanished while the agent was away": (pod(phase="Running"), None, Memory(), Create(0)),
    "vanished, must not run twice": (
        pod(phase="Running", restart_policy="Never"),
        None,
        Memory(attempt=0),
        Fail("ContainersLost", "its containers are gone from the backend, and restartPolicy is Never"),
    ),
    "vanished after all had succeeded, and it is not told yet": (
        pod(phase="Running", restart_policy="OnFailure"),
        None,
        Memory(0, last=seen(ENDED)),
        Report(),
    ),
    "vanished after it had failed, and it is not told yet": (
        pod(phase="Running", restart_policy="Never"),
        None,
        Memory(0, last=seen(FAILED)),
        Report(),
    ),
    "vanished as its containers ended, and all run again": (
        pod(phase="Running", restart_policy="OnFailure"),
        None,
        Memory(0, last=seen(FAILED)),
        Create(1),
    ),
    "vanished, a container had succeeded": (job(), None, Memory(0, last=two(ENDED)), ENDED_TO_STAY),
    "vanished, a container had failed": (
        job(),
        None,
        Memory(0, last=two(FAILED)),
        Create(1),
    ),
    "vanished after an init container": (job(), None, Memory(0, last=two(ENDED, initial=True)), Create(1)),
    "vanished before the other began": (
        job(phase="Pending"),
        None,
        Memory(0, last=two(ENDED)),
        ENDED_TO_STAY,
    ),
    "vanished while the agent was away, and one may have succeeded": (job(), None, Memory(), Recall()),
    "vanished while the agent was away and it was starting": (
        pod(restart_policy="OnFailure", start=STARTED),
        None,
        Memory(),
        Recall(),
    ),
    "vanished while the agent was away and it was starting, and must not run twice": (
        pod(restart_policy="Never", start=STARTED),
        None,
        Memory(),
        Recall(),
    ),
    "never started, must not run twice": (pod(restart_policy="Never"), None, Memory(), Create(0)),
    "vanished while the agent was away, all ran": (job(), None, Memory(exit_codes={}), Create(0)),
    "vanished while the agent was away, one had succeeded": (
        job(),
        None,
        Memory(exit_codes={"c": 0}),
        ENDED_TO_STAY,
    ),
    "vanished while the agent was away, one had failed": (
        job(),
        None,
        Memory(exit_codes={"c": 1}),
        Create(0),
    ),
    "vanished, and a rule has it run again": (
        job(rules=[AGAIN]),
        None,
        Memory(exit_codes={"c": 0}),
        Create(0),
    ),
    "vanished, and its own policy has it run again": (
        job(own="Always"),
        None,
        Memory(exit_codes={"c": 0}),
        Create(0),
    ),
    "vanished, and its own policy lets it end": (
        job(own="Never"),
        None,
        Memory(exit_codes={"c": 1}),
        ENDED_TO_STAY,
    ),
    "vanished after the backend had given it up": (
        pod(phase="Running"),
        None,
        Memory(0, last=seen(FAILED, failed=True, reason="Spot")),
        Report(),
    ),
    "vanished while the backend ended it": (
        pod(phase="Running"),
        None,
        Memory(0, last=seen(failed=True, ending=True, reason="Spot", message="taken back")),
        Fail("Spot", "taken back"),
    ),
    "vanished as its init container had failed for good": (
        pod(restart_policy="Never", start=STARTED),
        None,
        Memory(0, last=two(FAILED, initial=True)),
        Report(),
    ),
    "vanished before anything was known of it": (
        pod(phase="Running", restart_policy="Never"),
        None,
        Memory(0, last=Observation(WHO, 1.0, ())),
        Fail("ContainersLost", "its containers are gone from the backend, and restartPolicy is Never"),
    ),
    "refused in a word of its spec by the agent before this one": (
        pod(restart_policy="Sometimes", start=STARTED),
        None,
        Memory(),
        Create(0),
    ),
    "refused for good": (pod(), None, Memory(held=1), Nothing()),
    "refused, then edited": (pod(generation=2), None, Memory(held=1), Create(0)),
    "ended and kept for its logs": (pod(phase="Succeeded"), seen(ENDED), Memory(), Nothing()),
    "ended and forgotten by the backend": (pod(phase="Failed"), None, Memory(attempt=0), Nothing()),
    "declared failed by somebody else while it runs": (pod(phase="Failed"), seen(), Memory(), Delete(2)),
    "declared failed while a container waits to restart": (
        pod(phase="Failed"),
        seen(ENDED, will_restart=True),
        Memory(),
        Delete(2),
    ),
    "declared failed while the backend stops it": (
        pod(phase="Failed"),
        seen(failed=True, ending=True),
        Memory(),
        Nothing(),
    ),
    "deleted": (pod(deleting=30), seen(), Memory(), Delete(30)),
    "deleted, end under way": (pod(deleting=30), seen(deleting=True), Memory(asked_grace=30), Nothing()),
    "deleted again with a shorter grace": (
        pod(deleting=1),
        seen(deleting=True),
        Memory(asked_grace=30),
        Delete(1),
    ),
    "deleted, asked by the agent before this one": (
        pod(deleting=30),
        seen(deleting=True),
        Memory(),
        Delete(30),
    ),
    "deleted before it was ever started": (pod(deleting=0), None, Memory(), Finalize()),
    "deleted and gone": (pod(deleting=30, phase="Running"), None, Memory(asked_grace=30), Finalize()),
    "removed, its event on the way": (pod(deleting=0), None, Memory(removed=True), Nothing()),
    "ended and gone, but finalizers hold it": (
        pod(deleting=0, finalizers=("x/y",), phase="Failed"),
        None,
        Memory(),
        Nothing(),
    ),
    "gone without having ended, and finalizers hold it": (
        pod(deleting=0, finalizers=("x/y",), phase="Running"),
        None,
        Memory(),
        Finalize(),
    ),
    "deleted gracefully with finalizers": (pod(deleting=30, finalizers=("x/y",)), None, Memory(), Finalize()),
    "force deleted": (None, seen(), Memory(), Delete(2)),
    "force deleted, end under way": (None, seen(deleting=True), Memory(asked_grace=2), Nothing()),
    "unknown to both": (None, None, Memory(attempt=0), Forget()),
}


@pytest.mark.parametrize(("desired", "observed", "memory", "action"), CASES.values(), ids=CASES.keys())
def test_plan(desired, observed, memory, action):
    assert plan(desired, observed, memory) == action


EXPIRED = {
    "runs": (pod(phase="Running"), seen(), Memory(attempt=0), Delete(30)),
    "the backend stops it": (
        pod(phase="Running"),
        seen(failed=True, ending=True),
        Memory(attempt=0),
        Nothing(),
    ),
    "its end is under way": (pod(phase="Running"), seen(deleting=True), Memory(asked_grace=30), Nothing()),
    "is gone": (pod(phase="Running"), None, Memory(attempt=0), EXCEEDED),
    "is gone, and the agent is a new one": (pod(phase="Running"), None, Memory(), EXCEEDED),
    "was never taken on": (pod(), None, Memory(), EXCEEDED),
    "was refused": (pod(), None, Memory(held=1), EXCEEDED),
    "was refused in a word of its spec": (
        pod(restart_policy="Sometimes"),
        None,
        Memory(held=1),
        EXCEEDED,
    ),
    "ended in time": (pod(phase="Running"), seen(ENDED), Memory(attempt=0), Nothing()),
    "is told to have ended": (pod(phase="Failed"), seen(ENDED), Memory(attempt=0), Nothing()),
    "is deleted": (pod(deleting=10), seen(), Memory(), Delete(10)),
}


@pytest.mark.parametrize(("desired", "observed", "memory", "action"), EXPIRED.values(), ids=EXPIRED.keys())
def test_plan_after_the_deadline(desired, observed, memory, action):
    assert plan(desired, observed, memory, exceeded=EXCEEDED) == action


@pytest.mark.parametrize(
    ("spec", "phase", "told", "left"),
    [
        ({"activeDeadlineSeconds": 60}, "Running", 60, 80.0),
        ({"activeDeadlineSeconds": 60}, "Running", 0, 80.0),
        ({"activeDeadlineSeconds": 60}, "Running", 600, 25.0),
        ({"activeDeadlineSeconds": 60}, "Running", math.inf, 25.0),
        ({"activeDeadlineSeconds": 60}, "Failed", 60, None),
        ({}, "Running", math.inf, None),
    ],
)
def test_a_backend_gets_some_time_to_see_to_a_deadline_itself(spec, phase, told, left):
    raw = msgspec.Raw(msgspec.json.encode({"containers": [{"name": "c", "image": "i"}]} | spec))
    desired = msgspec.convert({"metadata": {"name": "web"}, "spec": raw, "status": {"phase": phase}}, Pod)
    assert seconds_left(desired, since=100.0, now=140.0, told=told) == left


@pytest.mark.parametrize(
    ("deadline", "start", "left"),
    [
        (600, "2026-11-23T20:00:00Z", 50),
        (600, None, 600),
        (550, "2026-11-23T20:00:00Z", 1),
        (None, "2026-11-23T20:00:00Z", None),
    ],
)
def test_a_backend_is_given_what_is_left_of_a_deadline(deadline, start, left):
    spec = {"containers": [{"name": "c", "image": "i"}], "activeDeadlineSeconds": deadline}
    raw = msgspec.Raw(msgspec.json.encode(spec))
    late = msgspec.convert({"metadata": {"name": "web"}, "spec": raw, "status": {"startTime": start}}, Pod)
    work = WorkSpec(identity=WHO, containers=(), hostname="web", active_deadline_seconds=deadline)
    now = seconds("2026-11-23T20:09:10Z")
    assert shortened(work, spent(late, now=now)).active_deadline_seconds == left
