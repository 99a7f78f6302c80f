"""What comes next for a pod follows from what is seen of it alone; each row is a state a restart may find."""

import pytest
from msgspec import structs

from overspill.backends.podman.observe import observe
from overspill.backends.podman.plan import (
    CreateRun,
    CreateSandbox,
    Discard,
    Pull,
    RemoveEverything,
    RemoveSandbox,
    Signal,
    StartRun,
    StartSandbox,
    StopSandbox,
    Wait,
    next_step,
)
from overspill.backends.podman.seen import Deletion, Eviction, PulledImage, Run, Sandbox, Seen, Trouble
from overspill.backends.podman.turns import completed, next_delay, restart_at
from overspill.model.observation import Running, Terminated, Waiting
from overspill.model.work import Container, Identity, WorkSpec

WHO = Identity("cluster", "vn-0", "default", "web", "uid-1")
A, B, INIT = Container("a", "image-a"), Container("b", "image-b"), Container("i", "image-i")
UP = Sandbox("pod", "infra", running=True, ips=("10.0.0.2",))
DOWN = Sandbox("pod", "infra")
NOW = 1000.0


def work(*containers: Container, init=(), policy="Always", **more) -> WorkSpec:
    return WorkSpec(
        identity=WHO,
        containers=containers or (A,),
        init_containers=init,
        restart_policy=policy,
        hostname="web",
        **more,
    )


def running(name="a", number=0, **more) -> Run:
    return Run(f"{name}{number}", name, number, "running", started_at=900.0, **more)


def exited(name="a", number=0, code=1, at=990.0, start=980.0, **more) -> Run:
    return Run(
        f"{name}{number}", name, number, "exited", exit_code=code, started_at=start, finished_at=at, **more
    )


def made(name="a", number=0) -> Run:
    return Run(f"{name}{number}", name, number, "created")


def seen(*runs: Run, sandbox=UP, **more) -> Seen:
    return Seen(taken_at=more.pop("taken_at", 890.0), sandbox=sandbox, runs=runs, **more)


def have(name="a", number=0) -> dict[str, PulledImage]:
    return {name: PulledImage(number, f"image-{name}", "image", "id")}


def trouble(at=999.0, delay=10.0, reason="ErrImagePull", key="a") -> dict[str, Trouble]:
    return {key: Trouble(reason, "why", at, delay)}


STEPS = {
    "nothing there": (work(), seen(sandbox=None), CreateSandbox()),
    "making of the pod was cut short": (work(), seen(sandbox=Sandbox("pod")), RemoveSandbox()),
    "sandbox made": (work(), seen(sandbox=DOWN), StartSandbox()),
    "sandbox could not be made": (
        work(),
        seen(sandbox=None, troubles=trouble(key="")),
        Wait(1009.0),
    ),
    "sandbox is tried again": (
        work(),
        seen(sandbox=None, troubles=trouble(key="", at=980.0)),
        CreateSandbox(),
    ),
    "sandbox without an address": (
        work(),
        seen(sandbox=Sandbox("pod", "infra", running=True)),
        StartSandbox(),
    ),
    "sandbox lost under a running container": (
        work(),
        seen(running(), sandbox=DOWN),
        Signal((running(),), kill=True),
    ),
    "waiting for the cut-off container's end": (
        work(),
        seen(running(), sandbox=DOWN, signalled={"a0": 9}),
        Wait(),
    ),
    "sandbox up": (work(), seen(), Pull(A, 0)),
    "image at hand": (work(), seen(images=have()), CreateRun(A, 0, 0.0)),
    "image of an earlier run": (
        work(),
        seen(exited(), images=have(number=0)),
        Pull(A, 1),
    ),
    "pull failed": (work(), seen(troubles=trouble()), Wait(1001.0)),
    "pull failed a while ago": (work(), seen(troubles=trouble(at=995.0)), Wait(1005.0)),
    "pull is due again": (work(), seen(troubles=trouble(at=990.0)), Pull(A, 0)),
    "image name is no name": (work(), seen(troubles=trouble(at=990.0, delay=None)), Wait(None)),
    "a failed pull does not hold up the other": (work(A, B), seen(troubles=trouble()), Pull(B, 0)),
    "made, not started": (work(), seen(made()), StartRun(made())),
    "runs": (work(), seen(running()), Wait(None)),
    "second container": (work(A, B), seen(running()), Pull(B, 0)),
    "first restart is immediate": (work(), seen(exited(), images=have(number=1)), CreateRun(A, 1, 0.0)),
    "second restart waits": (work(), seen(exited(number=1)), Wait(1000.0 - 10 + 10)),
    "later restarts wait longer": (work(), seen(exited(number=4, backoff=40.0)), Wait(990.0 + 80)),
    "never longer than five minutes": (work(), seen(exited(number=9, backoff=300.0)), Wait(990.0 + 300)),
    "a good run starts from scratch": (
        work(),
        seen(exited(number=9, backoff=300.0, start=300.0), images=have(number=10)),
        CreateRun(A, 10, 0.0),
    ),
    "old runs are cleared away": (
        work(),
        seen(running(number=3), exited(number=2), exited(number=1), exited(number=0)),
        Discard((exited(number=1), exited(number=0))),
    ),
    "never: done, sandbox ends": (work(policy="Never"), seen(exited()), StopSandbox()),
    "never: done, sandbox ended": (work(policy="Never"), seen(exited(), sandbox=DOWN), Wait(None)),
    "on failure: failed": (
        work(policy="OnFailure"),
        seen(exited(), images=have(number=1)),
        CreateRun(A, 1, 0.0),
    ),
    "on failure: succeeded": (work(policy="OnFailure"), seen(exited(code=0)), StopSandbox()),
    "one done, one runs": (work(A, B, policy="Never"), seen(exited(), running("b")), Wait(None)),
    "init first": (work(init=(INIT,)), seen(), Pull(INIT, 0)),
    "init runs": (work(init=(INIT,)), seen(running("i")), Wait(None)),
    "init succeeded": (work(init=(INIT,)), seen(exited("i", code=0)), Pull(A, 0)),
    "init failed": (
        work(init=(INIT,)),
        seen(exited("i"), images=have("i", 1)),
        CreateRun(INIT, 1, 0.0),
    ),
    "init failed for good": (work(init=(INIT,), policy="Never"), seen(exited("i")), StopSandbox()),
    "deadline ahead": (work(active_deadline_seconds=200), seen(running()), Wait(1090.0)),
    "deadline passed": (
        work(active_deadline_seconds=110),
        seen(running()),
        Signal((running(),), kill=False),
    ),
    "deadline passed, stopped": (work(active_deadline_seconds=110), seen(exited()), StopSandbox()),
    "evicted": (
        work(),
        seen(running(), eviction=Eviction(NOW, "Evicted", "why")),
        Signal((running(),), kill=False),
    ),
    "deleted: asked to stop": (
        work(A, B),
        seen(running(), running("b"), deletion=Deletion(NOW, 30)),
        Signal((running(), running("b")), kill=False),
    ),
    "deleted: too young to hear": (
        work(),
        seen(structs.replace(running(), started_at=999.9), deletion=Deletion(NOW, 30)),
        Wait(999.9 + 0.25),
    ),
    "deleted: grace runs": (
        work(),
        seen(running(), signalled={"a0": 15}, deletion=Deletion(NOW, 30)),
        Wait(NOW + 30),
    ),
    "deleted: no less than two seconds": (
        work(),
        seen(running(), signalled={"a0": 15}, deletion=Deletion(NOW - 1, 0)),
        Wait(NOW + 1),
    ),
    "deleted: grace is over": (
        work(),
        seen(running(), signalled={"a0": 15}, deletion=Deletion(NOW - 30, 30)),
        Signal((running(),), kill=True),
    ),
    "deleted: it is asked, however late": (
        work(),
        seen(running(), deletion=Deletion(NOW - 60, 5)),
        Signal((running(),), kill=False),
    ),
    "deleted: asked late, it has two seconds": (
        work(),
        seen(running(), signalled={"a0": 15}, asked={"a0": NOW - 1}, deletion=Deletion(NOW - 60, 5)),
        Wait(NOW + 1),
    ),
    "deleted: what cannot be asked is killed": (
        work(),
        seen(running(), asked={"a0": NOW - 3}, deletion=Deletion(NOW - 60, 5)),
        Signal((running(),), kill=True),
    ),
    "deleted: killed": (
        work(),
        seen(running(), signalled={"a0": 9}, deletion=Deletion(NOW - 30, 30)),
        Wait(None),
    ),
    "deleted: nothing runs": (work(), seen(exited(), deletion=Deletion(NOW, 30)), RemoveEverything()),
    "deleted before anything was made": (
        work(),
        seen(sandbox=None, deletion=Deletion(NOW, 30)),
        RemoveEverything(),
    ),
    "remains without a record": (None, seen(running()), Wait(None)),
    "remains that are deleted": (None, seen(exited(), deletion=Deletion(NOW, 0)), RemoveEverything()),
    "remains that went away": (None, seen(sandbox=None), RemoveEverything()),
}


@pytest.mark.parametrize(("spec", "state", "step"), STEPS.values(), ids=STEPS.keys())
def test_next_step(spec, state, step):
    now = 999.0 if step == Wait(1000.0) else NOW  # a restart that is due at this very moment is no wait
    assert next_step(spec, state, now) == step


def test_back_off_doubles_up_to_five_minutes():
    delays, delay = [], None
    for _ in range(7):
        delay = next_delay(delay)
        delays.append(delay)
    assert delays == [10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(
    ("policy", "name", "code", "restarts"),
    [
        ("Always", "a", 0, True),
        ("Always", "a", 1, True),
        ("OnFailure", "a", 0, False),
        ("OnFailure", "a", 1, True),
        ("Never", "a", 1, False),
        ("Always", "i", 0, False),
        ("Always", "i", 1, True),
        ("OnFailure", "i", 1, True),
        ("Never", "i", 1, False),
    ],
)
def test_who_is_restarted(policy, name, code, restarts):
    due = restart_at(work(init=(INIT,), policy=policy), exited(name, code=code))
    assert due == ((990.0, 0.0) if restarts else None)


def test_a_command_that_cannot_start_is_tried_ever_more_seldom():
    assert restart_at(work(policy="Always"), exited(number=3, start=0.0, backoff=40.0)) == (1070.0, 80.0)


def test_completed_only_when_all_have_ended_for_good():
    assert completed(work(A, B, policy="Never"), seen(exited(), exited("b", code=0)))
    assert not completed(work(A, B, policy="Never"), seen(exited()))
    assert not completed(work(A, policy="OnFailure"), seen(exited()))


# --- and what is told of it ---


def of(spec, state, now=NOW):
    return observe(WHO, spec, state, now)


def test_told_before_anything_runs():
    told = of(work(init=(INIT,)), seen(sandbox=None))
    assert told.containers[0].state == Waiting("PodInitializing")
    assert told.init_containers[0].state == Waiting("PodInitializing")
    assert of(work(), seen(sandbox=None)).containers[0].state == Waiting("ContainerCreating")


def test_told_of_a_running_container():
    told = of(work(), seen(running(number=2, image_id="i@d"), exited(number=1)))
    container = told.containers[0]
    assert container.state == Running(900.0)
    assert container.last_state == Terminated(1, "Error", 980.0, 990.0)
    assert (container.restarts, container.ready, container.started) == (2, True, True)
    assert container.container_id == "podman://a2"
    assert told.ips == ("10.0.0.2",)


def test_told_of_a_crash_loop():
    container = of(work(), seen(exited(number=3, backoff=160.0))).containers[0]
    assert container.state == Waiting(
        "CrashLoopBackOff", "back-off 5m0s restarting failed container=a pod=web_default(uid-1)"
    )
    assert container.last_state == Terminated(1, "Error", 980.0, 990.0)
    assert container.will_restart


def test_told_of_an_end():
    container = of(work(policy="Never"), seen(exited(code=0))).containers[0]
    assert container.state == Terminated(0, "Completed", 980.0, 990.0)
    assert not container.will_restart
    killed = of(work(policy="Never"), seen(exited(code=137, oom_killed=True))).containers[0]
    assert killed.state == Terminated(137, "OOMKilled", 980.0, 990.0)
    refused = of(work(policy="Never"), seen(exited(code=128, failure="no such file"))).containers[0]
    assert refused.state == Terminated(128, "StartError", 990.0, 990.0, message="no such file")


def test_told_of_a_failed_pull_and_then_of_the_wait():
    state = seen(troubles=trouble(at=999.0))
    assert of(work(), state).containers[0].state == Waiting("ErrImagePull", "why")
    assert of(work(), state, now=1001.0).containers[0].state == Waiting(
        "ImagePullBackOff", 'Back-off pulling image "image-a": ErrImagePull: why'
    )


def test_told_of_a_failed_pull_before_a_restart():
    container = of(work(), seen(exited(), troubles=trouble())).containers[0]
    assert container.state == Waiting("ErrImagePull", "why")
    assert container.last_state == Terminated(1, "Error", 980.0, 990.0)


def test_nothing_restarts_in_a_pod_that_ends():
    for ending in ({"deletion": Deletion(NOW, 1)}, {"eviction": Eviction(NOW, "Evicted", "why")}):
        told = of(work(), seen(exited(number=3), **ending))
        assert told.containers[0].state == Terminated(1, "Error", 980.0, 990.0)
        assert not told.containers[0].will_restart


def test_told_why_the_backend_gave_up():
    told = of(work(active_deadline_seconds=100), seen(exited()))
    assert (told.failed, told.reason) == (True, "DeadlineExceeded")
    in_time = seen(exited(at=989.0))
    assert not of(work(policy="Never", active_deadline_seconds=100), in_time).failed
    told = of(work(), seen(eviction=Eviction(NOW, "Evicted", "too much")))
    assert (told.failed, told.reason, told.message) == (True, "Evicted", "too much")


def test_address_is_known_when_the_sandbox_has_ended():
    told = of(work(policy="Never"), seen(exited(address="10.0.0.9"), sandbox=DOWN))
    assert told.ips == ("10.0.0.9",)


def test_told_of_remains():
    told = observe(WHO, None, seen(running("x", image="img"), exited("y"), taken_at=5.0), NOW)
    assert [(c.name, c.image) for c in told.containers] == [("x", "img"), ("y", "")]
