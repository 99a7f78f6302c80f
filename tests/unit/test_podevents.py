"""What is told as Events when a pod changes at the backend."""

import pytest

from overspill.agent.podevents import Told, changes
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting
from overspill.model.work import Identity

WHO = Identity("cluster", "vn-0", "default", "web", "uid-1")
CREATING = Waiting("ContainerCreating")


def seen(state, *, init=None, **more) -> Observation:
    inits = (ContainerObservation("prepare", init, "img"),) if init else ()
    return Observation(WHO, 1.0, (ContainerObservation("c", state, "img"),), init_containers=inits, **more)


def warning(reason, message):
    return Told(warning=True, reason=reason, message=message, field_path="spec.containers{c}")


NO_SANDBOX = {"reason": "FailedCreatePodSandBox", "message": "Failed to create pod sandbox: no network"}
CASES = {
    "no sandbox": (
        seen(CREATING),
        seen(CREATING, **NO_SANDBOX),
        [Told(warning=True, **NO_SANDBOX)],
    ),
    "its containers have failed, which they say themselves": (
        seen(Running(2.0)),
        seen(Terminated(1, "Error", 2.0, 3.0), failed=True),
        [],
    ),
    "still no sandbox": (seen(CREATING, **NO_SANDBOX), seen(CREATING, **NO_SANDBOX), []),
    "a backend's own reason to wait": (seen(CREATING), seen(CREATING, reason="NoStock", message="m"), []),
    "first seen, nothing to tell": (None, seen(CREATING), []),
    "started": (
        seen(CREATING),
        seen(Running(2.0)),
        [
            Told(
                warning=False,
                reason="Started",
                message="Container started",
                field_path="spec.containers{c}",
            )
        ],
    ),
    "nothing changed": (seen(Running(2.0)), seen(Running(2.0)), []),
    "image cannot be pulled": (
        seen(CREATING),
        seen(Waiting("ErrImagePull", "no such image")),
        [warning("Failed", "no such image")],
    ),
    "back-off keeps counting": (
        seen(Waiting("ImagePullBackOff", "in 10s")),
        seen(Waiting("ImagePullBackOff", "in 20s")),
        [],
    ),
    "crash loop": (
        seen(Terminated(1, "Error", 1.0, 2.0)),
        seen(Waiting("CrashLoopBackOff", "back-off 10s restarting failed container")),
        [warning("BackOff", "back-off 10s restarting failed container")],
    ),
    "out of memory": (
        seen(Running(1.0)),
        seen(Terminated(137, "OOMKilled", 1.0, 2.0)),
        [warning("OOMKilling", "Container c ran out of memory")],
    ),
    "init containers too": (
        seen(CREATING, init=CREATING),
        seen(CREATING, init=Running(2.0)),
        [
            Told(
                warning=False,
                reason="Started",
                message="Container started",
                field_path="spec.initContainers{prepare}",
            )
        ],
    ),
    "no room": (
        seen(CREATING),
        seen(CREATING, provisioned=False, reason="NoAddress", message="all full"),
        [Told(warning=True, reason="NoAddress", message="all full")],
    ),
    "still no room": (
        seen(CREATING, provisioned=False, reason="NoAddress", message="all full"),
        seen(CREATING, provisioned=False, reason="NoAddress", message="all full, still"),
        [],
    ),
    "given up": (
        seen(Running(1.0)),
        seen(Running(1.0), failed=True, reason="DeadlineExceeded", message="too long"),
        [Told(warning=True, reason="DeadlineExceeded", message="too long")],
    ),
}


@pytest.mark.parametrize(("before", "after", "told"), CASES.values(), ids=CASES.keys())
def test_changes(before, after, told):
    assert list(changes(before, after)) == told
