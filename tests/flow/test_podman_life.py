"""Hooks, sidecars, ephemeral containers and last words on a real Podman, as NodeConformance asks for them."""

import asyncio

import pytest
from podman_life import (
    cat,
    eventually_logged,
    kept,
    last_words_of,
    main,
    ready,
    restarted,
    shared,
    told,
    volume,
)
from podman_pods import (
    SLEEP,
    Stage,
    Witness,
    backend_of,
    ended,
    eventually,
    first_output,
    is_running,
    log_of,
    pod,
    run_in,
    shell,
    waits,
)

from overspill.errors import Unsupported
from overspill.model.observation import Observation, Running, Terminated, Waiting
from overspill.model.podstatus import phase_of
from overspill.model.work import (
    EnvVar,
    ExecAction,
    HttpGetAction,
    RestartRule,
    SecurityContext,
    SleepAction,
    TcpSocketAction,
)
from podman_service import PodmanService

pytestmark = pytest.mark.podman

FAIL = ExecAction(("false",))


# --- hooks ---

LOG_TERM = "trap 'echo term >>/shared/log; exit 0' TERM; while :; do sleep 0.1; done"


async def test_a_container_runs_once_its_post_start_hook_has_returned(stage: Stage):
    hook = ExecAction(("sh", "-c", "while ! test -e /shared/go; do sleep 0.1; done; echo hook >>/shared/log"))
    work = shared(
        shell(f"echo main >>/shared/log; {SLEEP}", post_start=hook),
        shell(f"echo other >>/shared/log; {SLEEP}", name="other"),
    )
    await stage.backend.create(work)

    def hooking(sighting) -> bool:
        c = main(sighting)
        return bool(c and c.container_id and c.state == Waiting("ContainerCreating"))

    await stage.witness.until(work, hooking)
    (volume(stage, work) / "go").touch()
    await stage.witness.running(work)
    await eventually(lambda: kept(stage, work) == ["main", "hook", "other"])


async def test_a_failed_post_start_hook_kills_the_container(stage: Stage):
    work = pod(shell(SLEEP, post_start=ExecAction(("sh", "-c", "echo secret; exit 1"))))
    await stage.backend.create(work)
    await stage.witness.until(work, waits("CrashLoopBackOff"))
    happened = told(stage, work)
    assert happened[:2] == [
        ("FailedPostStartHook", "PostStartHook failed"),
        ("Killing", "FailedPostStartHook"),
    ]
    assert any(waits("PostStartHookError")(s) for s in stage.witness.history)


async def test_hooks_call_another_pod_over_http(stage: Stage):
    server = pod(shell("mkdir /tmp/www; cd /tmp/www; exec httpd -f -vv -p 80 -h /tmp/www"), name="server")
    await stage.backend.create(server)
    address = (await stage.witness.running(server)).ips[0]
    work = pod(
        shell(
            SLEEP,
            post_start=HttpGetAction(80, "/hook-start", host=address),
            pre_stop=HttpGetAction(80, "/hook-stop", host=address),
        )
    )
    await stage.backend.create(work)
    await stage.witness.running(work)  # any answer will do, such as 404
    await stage.witness.end(work, grace=30)
    await eventually_logged(stage, server, b"url:/hook-start")
    await eventually_logged(stage, server, b"url:/hook-stop")
    assert told(stage, work) == []


async def test_the_pre_stop_hook_runs_before_the_signal_and_once(stage: Stage):
    hook = ExecAction(("sh", "-c", "sleep 1; echo hook >>/shared/log"))
    work = shared(shell(f"echo main >>/shared/log; {LOG_TERM}", pre_stop=hook))
    await stage.backend.create(work)
    await stage.witness.running(work)
    await eventually(lambda: kept(stage, work) == ["main"])
    assert await last_words_of(stage, work, grace=30) == ["main", "hook", "term"]


async def test_a_pre_stop_hook_that_lasts_too_long_leaves_two_seconds(stage: Stage):
    work = shared(shell(f"echo main >>/shared/log; {LOG_TERM}", pre_stop=SleepAction(3600)))
    await stage.backend.create(work)
    await stage.witness.running(work)
    await eventually(lambda: kept(stage, work) == ["main"])
    assert await last_words_of(stage, work, grace=1) == ["main", "term"]


async def test_hooks_may_sleep_for_no_time(stage: Stage):
    work = pod(shell(SLEEP, post_start=SleepAction(0), pre_stop=SleepAction(0)))
    await stage.backend.create(work)
    await stage.witness.running(work)
    await stage.witness.end(work, grace=30)
    assert told(stage, work) == []


async def test_a_failed_pre_stop_hook_is_told_and_the_end_goes_on(stage: Stage):
    work = pod(shell(SLEEP, pre_stop=FAIL))
    await stage.backend.create(work)
    await stage.witness.running(work)
    await stage.witness.end(work, grace=30)
    assert told(stage, work) == [("FailedPreStopHook", "PreStopHook failed")]


async def test_a_stop_signal_of_the_pods_own(stage: Stage):
    script = "trap 'exit 7' USR1; trap '' TERM; echo up; while :; do sleep 0.1; done"
    work = pod(shell(script, stop_signal="SIGUSR1"))
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    assert seen.containers[0].stop_signal == "SIGUSR1"
    assert await first_output(stage.backend, work) == b"up\n"
    await stage.backend.delete(work.identity, grace_seconds=30)
    gone = await stage.witness.gone(work)
    assert gone.last
    assert gone.last.containers[0].state.exit_code == 7


async def test_hooks_do_not_run_again_after_a_restart_of_the_agent(podman: PodmanService):
    hook = ExecAction(("sh", "-c", "echo hook; echo hook >>/tmp/hooks"))
    work = pod(shell(SLEEP, post_start=hook))
    async with backend_of(podman) as backend, asyncio.TaskGroup() as group:
        witness = Witness(backend)
        task = group.create_task(witness.run())
        await backend.create(work)
        await witness.running(work)
        task.cancel()
    async with backend_of(podman) as backend, asyncio.TaskGroup() as group:
        witness = Witness(backend)
        task = group.create_task(witness.run())
        (seen,) = await backend.list()
        assert is_running(seen)
        assert await run_in(backend, work, ["cat", "/tmp/hooks"]) == "hook\n"
        await witness.end(work)
        task.cancel()


async def test_no_tcp_hooks_and_no_unknown_signals(stage: Stage):
    for fields in ({"pre_stop": TcpSocketAction(80)}, {"stop_signal": "SIGNOT"}):
        with pytest.raises(Unsupported):
            await stage.backend.create(pod(shell(SLEEP, **fields)))


# --- sidecars ---


def sidecar(script: str, name: str, **fields):
    return shell(script, name=name, restart_policy="Always", **fields)


def logs_itself(name: str) -> str:
    """A script that tells of its begin and its end."""
    trap = f"trap 'echo -{name} >>/shared/log; exit 0' TERM"
    return f"{trap}; echo +{name} >>/shared/log; touch /tmp/up; while :; do sleep 0.1; done"


async def test_sidecars_start_in_order_and_stop_in_reverse(stage: Stage):
    up = cat("/tmp/up", failure_threshold=60)
    work = shared(
        shell(logs_itself("main")),
        init_containers=(
            sidecar(logs_itself("one"), "one", startup=up),
            shell("echo +init >>/shared/log", name="init"),
            sidecar(logs_itself("two"), "two", startup=up),
        ),
    )
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ready)
    assert phase_of(seen) == "Running"
    assert [c.ready for c in seen.init_containers] == [True, True, True]
    await eventually(lambda: "+main" in kept(stage, work))
    words = await last_words_of(stage, work, grace=30)
    assert words == ["+one", "+init", "+two", "+main", "-main", "-two", "-one"]


async def test_a_sidecar_does_not_keep_a_job_from_completing(stage: Stage):
    work = shared(
        shell("echo done"), init_containers=(sidecar(logs_itself("one"), "one"),), restart_policy="Never"
    )
    await stage.backend.create(work)
    seen = await stage.witness.until(
        work, lambda s: isinstance(s, Observation) and phase_of(s) in {"Succeeded", "Failed"}
    )
    assert phase_of(seen) == "Succeeded"
    assert isinstance(seen.init_containers[0].state, Terminated)
    assert seen.init_containers[0].restarts == 0
    phases = {phase_of(s) for s in stage.witness.history if isinstance(s, Observation) and ended(s)}
    assert phases == {"Running", "Succeeded"}  # not before the sidecar had ended


async def test_a_sidecar_that_ends_is_started_again(stage: Stage):
    script = "test -e /shared/once || { touch /shared/once; exit 0; }; " + SLEEP
    work = shared(shell(SLEEP), init_containers=(sidecar(script, "one"),), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.witness.until(
        work,
        lambda s: isinstance(s, Observation) and s.init_containers[0].restarts == 1 and s.containers[0].ready,
    )
    assert isinstance(seen.init_containers[0].last_state, Terminated)
    assert seen.init_containers[0].last_state.exit_code == 0


async def test_a_containers_own_restart_rules(stage: Stage):
    script = "test -e /shared/once || { touch /shared/once; exit 42; }; exit 1"
    rules = (RestartRule("In", (42,)),)
    work = shared(shell(script, restart_policy="Never", restart_rules=rules))
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ended)
    assert (seen.containers[0].restarts, seen.containers[0].state.exit_code) == (1, 1)


# --- ephemeral containers ---


def debugger(script: str = SLEEP, name: str = "debug", **fields):
    return shell(script, name=name, **fields)


def debugs(name: str = "debug", state: type = Running):
    """An ephemeral container runs, or is in another state."""

    def condition(sighting) -> bool:
        told = sighting.ephemeral_containers if isinstance(sighting, Observation) else ()
        return any(c.name == name and isinstance(c.state, state) for c in told)

    return condition


async def test_an_ephemeral_container_joins_a_running_pod(stage: Stage):
    work = pod(shell(f"echo up; {SLEEP}", env=(EnvVar("MARK", "here"),)))
    await stage.backend.create(work)
    before = await stage.witness.running(work)
    await stage.backend.add_ephemeral(work.identity, [debugger(target="main")])
    await stage.backend.add_ephemeral(work.identity, [debugger("false", target="main")])  # known already
    seen = await stage.witness.until(work, debugs())
    assert seen.containers == before.containers  # nothing has happened to them
    assert seen.ips == before.ips
    processes = await run_in(stage.backend, work, ["ps"], container="debug")
    assert "echo up;" in processes  # it sees the processes of its target
    environment = await run_in(stage.backend, work, ["cat", "/proc/1/environ"], container="debug")
    assert "MARK=here" in environment
    assert "echo up;" not in await run_in(stage.backend, work, ["hostname"], container="debug")


async def test_an_ephemeral_container_of_its_own_ends_once_and_keeps_its_log(stage: Stage):
    work = pod(shell(f"echo up; {SLEEP}"), restart_policy="Always")
    await stage.backend.create(work)
    await stage.witness.running(work)
    await stage.backend.add_ephemeral(work.identity, [debugger("ps; exit 3", name="once")])
    seen = await stage.witness.until(work, debugs("once", Terminated))
    state = seen.ephemeral_containers[0].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, seen.ephemeral_containers[0].will_restart) == (3, False)
    assert b"echo up" not in await log_of(stage.backend, work, container="once")
    assert phase_of(seen) == "Running"
    await stage.backend.add_ephemeral(work.identity, [debugger(name="later")])
    seen = await stage.witness.until(work, debugs("later"))
    assert [c.name for c in seen.ephemeral_containers] == ["once", "later"]
    assert seen.ephemeral_containers[0].restarts == 0


async def test_ephemeral_containers_outlive_the_agent_and_not_the_pod(podman: PodmanService):
    work = pod(shell(SLEEP), restart_policy="Never")
    async with backend_of(podman) as backend, asyncio.TaskGroup() as group:
        witness = Witness(backend)
        task = group.create_task(witness.run())
        await backend.create(work)
        await witness.running(work)
        await backend.add_ephemeral(work.identity, [debugger()])
        before = await witness.until(work, debugs())
        task.cancel()
    async with backend_of(podman) as backend, asyncio.TaskGroup() as group:
        witness = Witness(backend)
        task = group.create_task(witness.run())
        (after,) = await backend.list()
        assert after.ephemeral_containers == before.ephemeral_containers
        await witness.end(work, grace=30)
        task.cancel()
    assert podman.leftovers() == []


# --- last words ---


async def test_termination_messages(stage: Stage):
    lines = "i=0; while test $i -lt 100; do echo line-$i; i=$((i+1)); done"
    fallback = {"termination_message_policy": "FallbackToLogsOnError"}
    scripts = {
        "file": ("echo -n DONE >/dev/termination-log; exit 1", {}),
        "path": (
            "echo -n DONE >/tmp/why",
            {"termination_message_path": "/tmp/why", "security": SecurityContext(run_as_user=1234)},
        ),
        "none": (f"{lines}; exit 1", {}),
        "logs": (f"{lines}; exit 1", fallback),
        "fine": (f"{lines}; exit 0", fallback),
        "both": (f"{lines}; echo -n OK >/dev/termination-log; exit 1", fallback),
    }
    work = pod(
        *(shell(script, name=name, **fields) for name, (script, fields) in scripts.items()),
        restart_policy="Never",
    )
    await stage.backend.create(work)

    def over(sighting) -> bool:
        return isinstance(sighting, Observation) and all(
            isinstance(c.state, Terminated) for c in sighting.containers
        )

    seen = await stage.witness.until(work, over)
    words = {c.name: c.state.message for c in seen.containers if isinstance(c.state, Terminated)}
    last = "".join(f"line-{n}\n" for n in range(20, 100))
    assert words == {"file": "DONE", "path": "DONE", "none": "", "logs": last, "fine": "", "both": "OK"}


async def test_a_termination_message_is_kept_with_the_last_state(stage: Stage):
    script = "test -s /shared/once && { sleep 1000; }; echo x >/shared/once; echo -n why >/dev/termination-log; exit 1"
    work = shared(shell(script))
    await stage.backend.create(work)
    seen = await stage.witness.until(work, restarted)
    assert seen.containers[0].last_state.message == "why"
    assert await run_in(stage.backend, work, ["cat", "/dev/termination-log"]) == ""
