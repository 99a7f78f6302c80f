"""The life of pods on a real Podman: what they see, how they end, what is left."""

import time

import pytest
from podman_life import eventually_logged
from podman_pods import SLEEP, Stage, ended, first_output, is_running, log_of, pod, run_in, shell, waits

from overspill.backends.podman.backend import PodmanBackend
from overspill.backends.podman.eviction import enforce_once
from overspill.errors import Misconfigured, NotFound, Rejected, Retry, Unsupported
from overspill.model.observation import Observation, Running, Terminated, Waiting
from overspill.model.work import (
    POD_IP,
    Container,
    Dns,
    EmptyDir,
    EnvVar,
    File,
    Files,
    HostAlias,
    Mount,
    Port,
    Resources,
    SecurityContext,
)
from podman_service import IMAGE, NETWORK, PodmanService

pytestmark = pytest.mark.podman


async def test_a_pod_runs_with_its_address_name_and_environment(stage: Stage):
    work = pod(
        shell(
            f'echo "$ADDRESS $(hostname) $HOSTNAME $X"; echo "$1 $2"; pwd; {SLEEP}',
            args=("sh", "one", "$(two)"),
            env=(EnvVar("ADDRESS", POD_IP), EnvVar("X", "a b")),
            working_dir="/not/there/yet",
        ),
        name="web-0",
    )
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    await eventually_logged(stage, work, b"/not/there/yet")
    out = (await log_of(stage.backend, work)).decode().splitlines()
    assert out == [f"{seen.ips[0]} web-0 web-0 a b", "one $(two)", "/not/there/yet"]
    main = seen.containers[0]
    assert (main.ready, main.started, main.restarts) == (True, True, 0)
    assert main.container_id.startswith("podman://")
    assert main.image_id.startswith("localhost/busybox@sha256:")
    assert await stage.backend.list() == [seen]


async def test_create_again_makes_nothing_new(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    first = await stage.witness.running(work)
    await stage.backend.create(work)
    assert await stage.backend.list() == [first]
    assert len(stage.service.containers()) == 2  # the infra container and ours


async def test_containers_share_network_and_name_but_not_processes(stage: Stage):
    server = shell("echo hello >/tmp/index.html; exec httpd -f -p 127.0.0.1:80 -h /tmp", name="server")
    work = pod(shell(SLEEP), server)
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert await run_in(stage.backend, work, ["wget", "-qO-", "http://127.0.0.1"]) == "hello\n"
    assert "httpd" not in await run_in(stage.backend, work, ["ps"])


async def test_end_by_term_within_the_grace(stage: Stage):
    work = pod(shell("trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"))
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert await first_output(stage.backend, work) == b"up\n"
    await stage.backend.delete(work.identity, grace_seconds=30)
    gone = await stage.witness.gone(work)
    assert gone.last
    assert gone.last.deleting
    state = gone.last.containers[0].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, state.reason) == (3, "Error")
    with pytest.raises(NotFound):
        await stage.backend.delete(work.identity, grace_seconds=0)


async def test_a_second_delete_shortens_the_grace(stage: Stage):
    work = pod(shell("trap '' TERM; echo up; while :; do sleep 0.1; done"))
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert await first_output(stage.backend, work) == b"up\n"
    await stage.backend.delete(work.identity, grace_seconds=3600)
    await stage.backend.delete(work.identity, grace_seconds=7200)
    await stage.backend.delete(work.identity, grace_seconds=0)
    gone = await stage.witness.gone(work)
    assert gone.last
    state = gone.last.containers[0].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, state.reason) == (137, "Error")


async def test_completed_pod_frees_its_sandbox_and_keeps_its_log(stage: Stage):
    work = pod(shell("echo done"), shell("exit 4", name="other"), restart_policy="Never")
    await stage.backend.create(work)
    await stage.witness.until(
        work,
        lambda s: isinstance(s, Observation) and all(isinstance(c.state, Terminated) for c in s.containers),
    )
    await stage.service.stopped(f"pod-{work.identity.uid}-0")
    (seen,) = await stage.backend.list()
    assert [c.state.reason for c in seen.containers if isinstance(c.state, Terminated)] == [
        "Completed",
        "Error",
    ]
    assert seen.ips  # the address it had is still known
    assert await log_of(stage.backend, work) == b"done\n"


async def test_init_containers_run_in_order_and_again_until_they_succeed(stage: Stage):
    scratch = {"mounts": (Mount("scratch", "/scratch"),)}
    once = "echo -n {} >>/scratch/order; test $(wc -c </scratch/order) -gt {}"
    work = pod(
        shell(f"cat /scratch/order; {SLEEP}", **scratch),
        init_containers=(
            shell(once.format("a", 1), name="first", **scratch),
            shell(once.format("b", 0), name="second", **scratch),
        ),
        volumes={"scratch": EmptyDir()},
    )
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    assert await first_output(stage.backend, work) == b"aab"
    assert [(c.restarts, c.will_restart) for c in seen.init_containers] == [(1, False), (0, False)]
    assert any(waits("PodInitializing")(s) for s in stage.witness.history)


async def test_failed_init_container_of_a_pod_that_never_restarts(stage: Stage):
    work = pod(shell(SLEEP), init_containers=(shell("exit 9", name="init"),), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.witness.until(
        work, lambda s: isinstance(s, Observation) and isinstance(s.init_containers[0].state, Terminated)
    )
    assert isinstance(seen, Observation)
    assert not seen.init_containers[0].will_restart
    assert isinstance(seen.containers[0].state, Waiting)


async def test_crash_loop_counts_restarts_and_keeps_the_last_state(stage: Stage):
    work = pod(shell("echo run; exit 5"))
    await stage.backend.create(work)
    seen = await stage.witness.until(work, waits("CrashLoopBackOff"))
    assert isinstance(seen, Observation)
    main = seen.containers[0]
    assert main.restarts == 1
    assert main.will_restart
    assert isinstance(main.last_state, Terminated)
    assert main.last_state.exit_code == 5
    assert isinstance(main.state, Waiting)
    assert main.state.message.startswith("back-off 10s restarting failed container=main pod=pod_default(")


@pytest.mark.parametrize(
    ("container", "reason", "message"),
    [
        (Container("main", "localhost/absent:1", pull_policy="Never"), "ErrImageNeverPull", "is not present"),
        (Container("main", "Not An Image"), "InvalidImageName", "invalid reference format"),
        (Container("main", "127.0.0.1:1/absent:1"), "ErrImagePull", "connection refused"),
        (Container("main", "127.0.0.1:1/absent:1"), "ImagePullBackOff", "Back-off pulling image"),
    ],
)
async def test_images_that_cannot_be_had(stage: Stage, container: Container, reason: str, message: str):
    work = pod(container, shell(SLEEP, name="other"))
    await stage.backend.create(work)
    seen = await stage.witness.until(work, waits(reason))
    assert isinstance(seen, Observation)
    state = seen.containers[0].state
    assert isinstance(state, Waiting)
    assert message in state.message
    await stage.witness.until(
        work, lambda s: isinstance(s, Observation) and isinstance(s.containers[1].state, Running)
    )


async def test_command_that_is_not_there_is_a_start_error(stage: Stage):
    work = pod(Container("main", IMAGE, command=("/absent",)), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ended)
    assert isinstance(seen, Observation)
    state = seen.containers[0].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, state.reason) == (128, "StartError")
    assert "/absent" in state.message


async def test_too_much_memory(stage: Stage):
    script = 'x=$(head -c 100000000 /dev/zero | tr "\\0" a)'
    limits = Resources(memory_limit=16 << 20, cpu_limit=0.5, cpu_request=0.25)
    work = pod(shell(script, resources=limits), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ended)
    assert isinstance(seen, Observation)
    state = seen.containers[0].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, state.reason) == (137, "OOMKilled")


async def test_limits_and_user_reach_the_container(stage: Stage):
    work = pod(
        shell(
            SLEEP,
            resources=Resources(cpu_request=0.25, cpu_limit=0.5, memory_limit=64 << 20),
            security=SecurityContext(run_as_user=1000, run_as_group=2000),
        ),
        shell(SLEEP, name="group", security=SecurityContext(run_as_group=3000)),
    )
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    inspected = stage.service.run(
        "inspect",
        "--format",
        "{{.HostConfig.CpuShares}} {{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}} {{.HostConfig.Memory}}",
        seen.containers[0].container_id.removeprefix("podman://"),
    )
    assert inspected.split() == ["256", "50000", "100000", str(64 << 20)]
    ids = "id -u; id -g"
    assert await run_in(stage.backend, work, ["sh", "-c", ids]) == "1000\n2000\n"
    assert await run_in(stage.backend, work, ["sh", "-c", ids], container="group") == "0\n3000\n"


async def test_name_service_and_host_aliases(stage: Stage):
    work = pod(
        shell(SLEEP),
        name="named",
        dns=Dns(("10.0.0.10",), ("a.example", "b.example"), ("ndots:5",)),
        host_aliases=(HostAlias("10.1.2.3", ("one", "two")),),
    )
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    assert await run_in(stage.backend, work, ["cat", "/etc/resolv.conf"]) == (
        "nameserver 10.0.0.10\nsearch a.example b.example\noptions ndots:5\n"
    )
    hosts = await run_in(stage.backend, work, ["cat", "/etc/hosts"])
    assert f"{seen.ips[0]}\tnamed\n" in hosts
    assert "10.1.2.3\tone\ttwo\n" in hosts


async def test_volumes_of_files_are_read_only_and_refreshed_in_one_go(stage: Stage):
    files = Files((File("a", b"1", 0o400), File("d/b", b"2")))
    mounts = (Mount("config", "/config"),)
    work = pod(shell(SLEEP, mounts=mounts), volumes={"config": files})
    await stage.backend.create(work)
    await stage.witness.running(work)
    script = "cd /config; cat a d/b; stat -Lc %a a; touch x 2>&1 | grep -o Read-only"
    assert await run_in(stage.backend, work, ["sh", "-c", script]) == "12400\nRead-only\n"
    await stage.backend.refresh(work.identity, {"config": Files((File("a", b"3"), File("c", b"4")))})
    assert await run_in(stage.backend, work, ["sh", "-c", "cd /config; cat a c; ls"]) == "34a\nc\n"


async def test_memory_volume_is_shared_limited_and_outlives_a_container(stage: Stage):
    memory = {"mounts": (Mount("memory", "/memory"),)}
    script = f"df -Pk /memory | tail -1; if test -e /memory/x; then {SLEEP}; fi; echo kept >/memory/x; exit 1"
    work = pod(
        shell(script, **memory),
        shell(SLEEP, name="other", mounts=(Mount("memory", "/elsewhere", read_only=True),)),
        volumes={"memory": EmptyDir(medium="Memory", size_limit=1 << 20)},
    )
    await stage.backend.create(work)
    await stage.witness.until(
        work, lambda s: is_running(s) and isinstance(s, Observation) and s.containers[0].restarts == 1
    )
    assert await run_in(stage.backend, work, ["cat", "/elsewhere/x"], container="other") == "kept\n"
    failed = await run_in(
        stage.backend, work, ["sh", "-c", "touch /elsewhere/y || echo no"], container="other"
    )
    assert failed == "no\n"
    assert (await first_output(stage.backend, work)).split()[1] == b"1024"


async def test_disk_volume_over_its_limit_ends_the_pod(stage: Stage):
    script = f"head -c 200000 /dev/zero >/scratch/x; echo full; {SLEEP}"
    work = pod(
        shell(script, mounts=(Mount("scratch", "/scratch"),)),
        volumes={"scratch": EmptyDir(size_limit=100_000)},
        termination_grace_period_seconds=0,
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert await first_output(stage.backend, work) == b"full\n"
    await enforce_once(stage.backend._node.supervisors())  # the loop around it runs every ten seconds
    seen = await stage.witness.until(work, lambda s: isinstance(s, Observation) and s.failed)
    assert isinstance(seen, Observation)
    assert seen.reason == "Evicted"
    assert '"scratch" exceeds the limit' in seen.message
    await stage.witness.until(work, ended)


async def test_deadline_ends_the_pod(stage: Stage):
    work = pod(shell(SLEEP), active_deadline_seconds=3)
    node = stage.backend._node
    began = time.time()
    node._clock = lambda: began  # until it runs, however long that takes
    await stage.backend.create(work)
    await stage.witness.running(work)
    node._clock = time.time
    node.find(work.identity).pod.notice()
    seen = await stage.witness.until(work, lambda s: isinstance(s, Observation) and s.failed and ended(s))
    assert isinstance(seen, Observation)
    assert seen.reason == "DeadlineExceeded"


async def test_refusals_by_name(stage: Stage):
    with pytest.raises(Unsupported) as refused:
        await stage.backend.create(pod(shell(SLEEP, ports=(Port(80, host_port=8080),))))
    assert refused.value.fields == ("spec.containers[0].ports[].hostPort",)
    with pytest.raises(Rejected, match="no volume"):
        await stage.backend.create(pod(shell(SLEEP, mounts=(Mount("absent", "/x"),))))
    with pytest.raises(Rejected, match="no path inside"):
        await stage.backend.create(pod(shell(SLEEP), volumes={"v": Files((File("../x", b""),))}))
    assert await stage.backend.list() == []


async def test_settings(podman: PodmanService):
    good = {"socket": podman.socket, "data_dir": podman.data_dir}
    with pytest.raises(Misconfigured, match="sokcet"):
        PodmanBackend(cluster="c", node="n", options={"sokcet": "x"})
    with pytest.raises(Misconfigured, match="network 'absent'"):
        async with PodmanBackend(cluster="c", node="n", options=good | {"network": "absent"}):
            pass
    with pytest.raises(Retry, match="cannot be used"):
        async with PodmanBackend(
            cluster="c", node="n", options=good | {"data_dir": "/dev/null/x", "network": NETWORK}
        ):
            pass
    with pytest.raises(Retry, match="does not answer"):
        async with PodmanBackend(cluster="c", node="n", options=good | {"socket": "/nowhere/sock"}):
            pass
