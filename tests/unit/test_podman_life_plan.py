"""Hooks, sidecars and doomed containers: what comes next, from what is seen alone."""

import pytest
from msgspec import structs

from overspill.backends.podman.observe import observe
from overspill.backends.podman.plan import (
    PAUSE,
    Discard,
    Pull,
    RemoveEverything,
    RunHooks,
    Signal,
    StopSandbox,
    Wait,
    end_unseen,
    next_step,
)
from overspill.backends.podman.seen import Deletion, Hook, Marks, Run, Sandbox, Seen
from overspill.backends.podman.turns import due_containers, restart_at
from overspill.model.observation import Running, Terminated, Waiting
from overspill.model.podstatus import phase_of
from overspill.model.work import Container, ExecAction, Identity, Probe, RestartRule, SleepAction, WorkSpec

WHO = Identity("cluster", "vn-0", "default", "web", "uid-1")
DO = ExecAction(("true",))
A, B = Container("a", "image-a"), Container("b", "image-b")
HOOKED = structs.replace(A, post_start=DO, pre_stop=DO)
S1, S2 = (Container(name, "image-s", restart_policy="Always") for name in ("s1", "s2"))
INIT = Container("i", "image-i")
DEBUG = Container("d", "image-d", target="a")
UP = Sandbox("pod", "infra", running=True, ips=("10.0.0.2",))
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


def exited(name="a", number=0, code=1, at=990.0, **more) -> Run:
    return Run(
        f"{name}{number}", name, number, "exited", exit_code=code, started_at=980.0, finished_at=at, **more
    )


def seen(*runs: Run, sandbox=UP, marks=None, **more) -> Seen:
    return Seen(taken_at=890.0, sandbox=sandbox, runs=runs, marks=marks or {}, **more)


def marks(run="a0", **fields) -> dict[str, Marks]:
    return {run: Marks(**fields)}


def hook(at=NOW, ended=None, **more) -> Hook:
    return Hook(at, ended, **more)


DELETED = Deletion(NOW, 30)
STEPS = {
    # --- postStart ---
    "postStart begins": (work(HOOKED), seen(running()), RunHooks((running(),), "post_start")),
    "the next container waits for it": (
        work(HOOKED, B),
        seen(running(), marks=marks(post_start=hook())),
        Wait(None),
    ),
    "and begins after it": (
        work(HOOKED, B),
        seen(running(), marks=marks(post_start=hook(ended=NOW))),
        Pull(B, 0),
    ),
    "postStart failed": (
        work(HOOKED),
        seen(
            running(),
            marks=marks(post_start=hook(ended=NOW, failed=True), doomed="PostStart", doomed_at=NOW),
        ),
        RunHooks((running(),), "pre_stop"),
    ),
    # --- preStop ---
    "preStop comes first": (
        work(HOOKED),
        seen(running(), deletion=DELETED, marks=marks(post_start=hook(ended=NOW))),
        RunHooks((running(),), "pre_stop"),
    ),
    "the signal waits for it": (
        work(HOOKED),
        seen(running(), deletion=DELETED, marks=marks(pre_stop=hook())),
        Wait(NOW + 30),
    ),
    "the signal follows it": (
        work(HOOKED),
        seen(running(), deletion=DELETED, marks=marks(pre_stop=hook(ended=NOW))),
        Signal((running(),), kill=False),
    ),
    "what it took counts": (
        work(HOOKED),
        seen(
            running(),
            deletion=Deletion(NOW - 20, 30),
            marks=marks(pre_stop=hook(NOW - 20, ended=NOW)),
            signalled={"a0": 15},
        ),
        Wait(NOW + 10),
    ),
    "it outlasts the grace: the signal": (
        work(HOOKED),
        seen(running(), deletion=Deletion(NOW - 30, 30), marks=marks(pre_stop=hook(NOW - 30))),
        Signal((running(),), kill=False),
    ),
    "it outlasts the grace: two seconds more": (
        work(HOOKED),
        seen(
            running(),
            deletion=Deletion(NOW - 30, 30),
            marks=marks(pre_stop=hook(NOW - 30)),
            signalled={"a0": 15},
        ),
        Wait(NOW + 2),
    ),
    "it ended just in time: two seconds more": (
        work(HOOKED),
        seen(
            running(),
            deletion=Deletion(NOW - 29, 30),
            marks=marks(pre_stop=hook(NOW - 29, ended=NOW)),
            signalled={"a0": 15},
        ),
        Wait(NOW + 2),
    ),
    "without grace there is no preStop": (
        work(HOOKED),
        seen(running(), deletion=Deletion(NOW, 0), marks=marks(post_start=hook(ended=NOW))),
        Signal((running(),), kill=False),
    ),
    "a container without one does not wait": (
        work(HOOKED, B),
        seen(running(), running("b"), deletion=DELETED, marks=marks(pre_stop=hook())),
        Signal((running("b"),), kill=False),
    ),
    # --- doomed by a probe ---
    "unhealthy: asked to stop": (
        work(),
        seen(running(), marks=marks(doomed="Liveness", doomed_at=NOW)),
        Signal((running(),), kill=False),
    ),
    "unhealthy: the pod's grace": (
        work(A, termination_grace_period_seconds=20),
        seen(running(), marks=marks(doomed="Liveness", doomed_at=NOW), signalled={"a0": 15}),
        Wait(NOW + 20),
    ),
    "unhealthy: the probe's grace": (
        work(structs.replace(A, liveness=Probe(DO, termination_grace_period_seconds=5))),
        seen(running(), marks=marks(doomed="Liveness", doomed_at=NOW), signalled={"a0": 15}),
        Wait(NOW + 5),
    ),
    "unhealthy: grace is over": (
        work(A, termination_grace_period_seconds=20),
        seen(running(), marks=marks(doomed="Liveness", doomed_at=NOW - 20), signalled={"a0": 15}),
        Signal((running(),), kill=True),
    ),
    "unhealthy and ended well: again all the same": (
        work(policy="OnFailure"),
        seen(exited(code=0), marks=marks(doomed="Liveness", doomed_at=980.0)),
        Pull(A, 1),
    ),
    # --- sidecars ---
    "sidecar first": (work(init=(S1, INIT)), seen(), Pull(S1, 0)),
    "the next init container after it has started": (
        work(init=(S1, INIT)),
        seen(running("s1")),
        Pull(INIT, 0),
    ),
    "… which its startup probe says": (
        work(init=(structs.replace(S1, startup=Probe(DO)), INIT)),
        seen(running("s1")),
        Wait(None),
    ),
    "app containers after all sidecars": (work(init=(S1, S2)), seen(running("s1")), Pull(S2, 0)),
    "app containers at last": (work(init=(S1, S2)), seen(running("s1"), running("s2")), Pull(A, 0)),
    "a sidecar is restarted beside an init container": (
        work(init=(S1, INIT), policy="Never"),
        seen(exited("s1", code=0), running("i")),
        Pull(S1, 1),
    ),
    "… and holds it up no more": (
        work(init=(structs.replace(S1, startup=Probe(DO)), INIT)),
        seen(running("s1", 1), exited("i", code=1)),
        Pull(INIT, 1),
    ),
    "a sidecar is restarted beside the app": (
        work(init=(S1,), policy="Never"),
        seen(exited("s1"), running()),
        Pull(S1, 1),
    ),
    "the app is done: the last sidecar is asked first": (
        work(init=(S1, S2), policy="Never"),
        seen(running("s1"), running("s2"), exited(code=0, at=NOW)),
        Signal((running("s2"),), kill=False),
    ),
    "… the first one then": (
        work(init=(S1, S2), policy="Never"),
        seen(running("s1"), exited("s2", code=143, at=NOW), exited(code=0)),
        Signal((running("s1"),), kill=False),
    ),
    "… and none comes back": (
        work(init=(S1, S2), policy="Never"),
        seen(exited("s1", code=143), exited("s2", code=143), exited(code=0)),
        StopSandbox(),
    ),
    "deleted: the app is asked first": (
        work(init=(S1,)),
        seen(running("s1"), running(), deletion=DELETED),
        Signal((running(),), kill=False),
    ),
    "deleted: sidecars wait for it": (
        work(init=(S1,)),
        seen(running("s1"), running(), deletion=DELETED, signalled={"a0": 15}),
        Wait(NOW + 30),
    ),
    "deleted: the grace is shared": (
        work(init=(S1,)),
        seen(running("s1"), exited(at=NOW), deletion=Deletion(NOW - 20, 30), signalled={"s10": 15}),
        Wait(NOW + 10),
    ),
    "deleted: no grace is left, but two seconds": (
        work(init=(S1,)),
        seen(
            running("s1"),
            exited(at=NOW),
            deletion=Deletion(NOW - 30, 30),
            signalled={"s10": 15},
        ),
        Wait(NOW + 2),
    ),
    "deleted: a sidecar's preStop waits for nobody": (
        work(init=(structs.replace(S1, pre_stop=SleepAction(5)),)),
        seen(running("s1"), running(), deletion=DELETED),
        RunHooks((running("s1"),), "pre_stop"),
    ),
    "a lost init container ends sidecars": (
        work(init=(S1, INIT), policy="Never"),
        seen(running("s1"), exited("i", at=NOW)),
        Signal((running("s1"),), kill=False),
    ),
    # --- ephemeral containers ---
    "an ephemeral container begins beside the others": (
        work(ephemeral_containers=(DEBUG,)),
        seen(running()),
        Pull(DEBUG, 0),
    ),
    "and before them": (
        work(init=(INIT,), ephemeral_containers=(DEBUG,)),
        seen(running("i")),
        Pull(DEBUG, 0),
    ),
    "it never begins again": (work(ephemeral_containers=(DEBUG,)), seen(running(), exited("d")), Wait(None)),
    "the old run that it joined stays, the one before goes": (
        work(ephemeral_containers=(DEBUG,)),
        seen(
            *(exited(number=number, created_at=number) for number in (0, 1, 2)),
            running(number=3, created_at=3),
            exited("d", created_at=1.5),
        ),
        Discard((exited(number=0, created_at=0),)),
    ),
    "and holds up nothing": (
        work(ephemeral_containers=(DEBUG,)),
        seen(
            *(exited(number=number, created_at=number) for number in (1, 2)),
            running(number=3, created_at=3),
            exited("d", created_at=1.5),
        ),
        Wait(None),
    ),
    "it keeps no pod alive": (
        work(ephemeral_containers=(DEBUG,), policy="Never"),
        seen(exited(code=0, at=NOW), running("d")),
        Signal((running("d"),), kill=False),
    ),
    "all have ended": (
        work(init=(S1,), ephemeral_containers=(DEBUG,)),
        seen(exited("s1"), exited(), exited("d"), deletion=DELETED),
        RemoveEverything(),
    ),
}


@pytest.mark.parametrize(("spec", "state", "step"), STEPS.values(), ids=STEPS.keys())
def test_next_step(spec, state, step):
    assert next_step(spec, state, NOW) == step


@pytest.mark.parametrize(
    ("state", "since", "step"),
    [
        (seen(running()), 0, Signal((running(),), kill=False)),
        (seen(running(), signalled={"a0": 15}), 0, Wait(NOW + PAUSE)),
        (seen(running(), signalled={"a0": 15}), 27, Wait(NOW + 3)),
        (seen(running(), signalled={"a0": 15}), 30, Signal((running(),), kill=True)),
        (seen(running(), signalled={"a0": 9}), 30, Wait(NOW + 2)),
        (seen(running()), 32, RemoveEverything()),
        (seen(), 0, Wait(NOW + PAUSE)),
        (seen(), 30, Wait(NOW + 2)),
        (seen(), 32, RemoveEverything()),
    ],
)
def test_a_deleted_pod_that_cannot_be_looked_at_has_its_grace_and_ends(state, since, step):
    state = structs.replace(state, deletion=Deletion(NOW - since, 30))
    assert end_unseen(work(), state, NOW) == step


@pytest.mark.parametrize(
    ("container", "policy", "code", "restarts"),
    [
        (structs.replace(A, restart_policy="Never"), "Always", 1, False),
        (structs.replace(A, restart_policy="OnFailure"), "Never", 1, True),
        (structs.replace(A, restart_policy="OnFailure"), "Always", 0, False),
        (structs.replace(A, restart_rules=(RestartRule("In", (42,)),)), "Never", 42, True),
        (structs.replace(A, restart_rules=(RestartRule("In", (42,)),)), "Never", 41, False),
        (structs.replace(A, restart_rules=(RestartRule("NotIn", (42,)),)), "Never", 1, True),
        (structs.replace(A, restart_rules=(RestartRule("NotIn", (42,)),)), "Never", 42, False),
    ],
)
def test_a_containers_own_rules_go_before_the_pods(container, policy, code, restarts):
    due = restart_at(work(container, policy=policy), exited(code=code))
    assert due == ((990.0, 0.0) if restarts else None)


def test_a_sidecar_is_restarted_whatever_it_ended_with():
    assert restart_at(work(init=(S1,), policy="Never"), exited("s1", code=0)) == (990.0, 0.0)


def test_a_sidecar_that_failed_before_the_next_began_is_waited_for():
    spec = work(init=(S1, INIT))
    assert due_containers(spec, seen(exited("s1"))) == (S1,)
    assert due_containers(spec, seen(running("s1", 1), exited("s1"))) == (S1, INIT)


# --- and what is told of it ---


def of(spec, state):
    return observe(WHO, spec, state, NOW)


def test_a_container_does_not_run_before_its_hook_has_returned():
    told = of(work(HOOKED), seen(running(), marks=marks(post_start=hook()))).containers[0]
    assert told.state == Waiting("ContainerCreating")
    assert (told.started, told.ready) == (False, False)
    told = of(work(HOOKED), seen(running(), marks=marks(post_start=hook(ended=NOW)))).containers[0]
    assert told.state == Running(900.0)
    assert (told.started, told.ready) == (True, True)


def test_a_failed_hook_is_told_until_the_next_run():
    doomed = marks(post_start=hook(ended=NOW, failed=True), doomed="PostStart", doomed_at=NOW)
    failed = Waiting("PostStartHookError", "PostStartHook failed")
    assert of(work(HOOKED), seen(running(), marks=doomed)).containers[0].state == failed
    ended = of(work(HOOKED), seen(exited(), marks=doomed)).containers[0]
    assert ended.state == failed
    assert ended.last_state == Terminated(1, "Error", 980.0, 990.0)
    final = of(work(HOOKED, policy="Never"), seen(exited(), marks=doomed)).containers[0]
    assert final.state == Terminated(1, "Error", 980.0, 990.0)


def test_readiness_and_when_it_changed():
    probed = structs.replace(A, readiness=Probe(DO))
    told = of(work(probed), seen(running())).containers[0]
    assert (told.started, told.ready) == (True, False)
    told = of(work(probed), seen(running(), marks=marks(ready=True, changed_at=950.0))).containers[0]
    assert (told.ready, told.changed_at) == (True, 950.0)


def test_an_init_container_is_ready_when_it_has_succeeded_a_sidecar_while_it_runs():
    told = of(work(init=(INIT, S1)), seen(exited("i", code=0), running("s1")))
    assert [(c.ready, c.started, c.sidecar) for c in told.init_containers] == [
        (True, False, False),
        (True, True, True),
    ]


@pytest.mark.parametrize(
    ("runs", "phase"),
    [
        ([running("s1")], "Pending"),
        ([running("s1"), running()], "Running"),
        ([running("s1"), exited(code=0)], "Running"),
        ([exited("s1", code=143), exited(code=0)], "Succeeded"),
        ([exited("s1", code=0), exited(code=1)], "Failed"),
        ([exited("s1", code=1), running()], "Running"),
    ],
)
def test_the_app_containers_decide_how_a_pod_ends(runs, phase):
    assert phase_of(of(work(init=(S1,), policy="Never"), seen(*runs))) == phase


def test_no_sidecar_is_restarted_once_the_app_is_done():
    told = of(work(init=(S1,), policy="Never"), seen(exited("s1", code=137), exited(code=0)))
    assert told.init_containers[0].state == Terminated(137, "Error", 980.0, 990.0)


def test_ephemeral_containers_are_told_apart():
    told = of(work(init=(INIT,), ephemeral_containers=(DEBUG,)), seen(running("i")))
    assert [(c.name, c.state) for c in told.ephemeral_containers] == [("d", Waiting("ContainerCreating"))]


def test_messages_share_what_a_pod_may_say():
    spec = work(*(Container(f"c{n}", "image") for n in range(6)), policy="Never")
    told = of(spec, seen(exited("c0", message="x" * 4096)))
    state = told.containers[0].state
    assert isinstance(state, Terminated)
    assert state.message == "x" * 2048
