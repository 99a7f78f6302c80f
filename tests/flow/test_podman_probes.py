"""Probes on a real Podman, as NodeConformance asks for them."""

import asyncio

import pytest
from podman_life import cat, happens, main, ready, restarted, told
from podman_pods import SLEEP, Stage, Witness, backend_of, ended, pod, run_in, shell

from overspill.model.observation import Terminated
from overspill.model.work import ExecAction, HttpGetAction, Probe, TcpSocketAction, WorkSpec
from podman_service import PodmanService

pytestmark = pytest.mark.podman

SERVE = "mkdir -p /tmp/www; echo fine >/tmp/www/ok; exec httpd -f -p 80 -h /tmp/www"
FAIL = ExecAction(("false",))


async def touch(stage: Stage, work: WorkSpec, path: str) -> None:
    await run_in(stage.backend, work, ["touch", path])


async def test_readiness_comes_and_goes_without_a_restart(stage: Stage):
    work = pod(shell(SLEEP, readiness=cat("/tmp/ready")))
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    assert (seen.containers[0].started, seen.containers[0].ready) == (True, False)
    missing = "Readiness probe failed: cat: can't open '/tmp/ready'"
    await stage.witness.until(work, happens("Unhealthy", missing))
    await touch(stage, work, "/tmp/ready")
    seen = await stage.witness.until(work, ready)
    assert seen.containers[0].changed_at >= seen.containers[0].state.started_at
    await run_in(stage.backend, work, ["rm", "/tmp/ready"])
    before = len(stage.witness.history)

    def unready(sighting) -> bool:
        late = sighting in stage.witness.history[before:]
        return late and not ready(sighting) and main(sighting) is not None

    seen = await stage.witness.until(work, unready)
    assert seen.containers[0].restarts == 0
    (count,) = stage.backend.probe_counts()
    assert (count.identity, count.container, count.kind) == (work.identity, "main", "Readiness")
    assert count.successful >= 1
    assert count.failed >= 2
    assert sum(count.took) == count.successful
    assert count.seconds > 0


async def test_no_probe_before_its_initial_delay(stage: Stage):
    work = pod(shell(SLEEP, readiness=Probe(ExecAction(("true",)), initial_delay_seconds=3)))
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ready)
    assert seen.containers[0].changed_at >= seen.containers[0].state.started_at + 3


async def test_a_failed_liveness_probe_restarts_the_container(stage: Stage):
    work = pod(
        shell(
            f"touch /tmp/alive; {SLEEP}",
            liveness=cat("/tmp/alive", failure_threshold=2, initial_delay_seconds=1),
        )
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    await run_in(stage.backend, work, ["rm", "/tmp/alive"])
    seen = await stage.witness.until(work, restarted)
    assert isinstance(seen.containers[0].last_state, Terminated)
    assert seen.containers[0].restarts == 1
    happened = told(stage, work)
    assert [reason for reason, _ in happened] == ["Unhealthy", "Unhealthy", "Killing"]
    assert happened[-1][1] == "Container main failed liveness probe, will be restarted"


async def test_a_probe_has_a_grace_of_its_own(stage: Stage):
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    probe = cat("/nothing", termination_grace_period_seconds=2)
    work = pod(shell(stubborn, liveness=probe), termination_grace_period_seconds=600, restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ended)
    assert seen.containers[0].state.exit_code == 137
    assert told(stage, work)[-1] == ("Killing", "Container main failed liveness probe")


async def test_http_probes_read_the_status(stage: Stage):
    alive, gone = HttpGetAction(80, "/ok"), HttpGetAction(80, "/gone")
    work = pod(
        shell(SERVE, readiness=Probe(alive, period_seconds=1)),
        shell(SLEEP, name="other", readiness=Probe(gone, period_seconds=1, failure_threshold=1)),
        shell(SLEEP, name="third", readiness=Probe(HttpGetAction(81), period_seconds=1, failure_threshold=1)),
    )
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ready)
    await stage.witness.until(
        work, happens("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404")
    )
    url = f"http://{seen.ips[0]}:81/"
    refused = f'Get "{url}": dial tcp {seen.ips[0]}:81: connect: connection refused'
    await stage.witness.until(work, happens("Unhealthy", f"Readiness probe failed: {refused}"))
    assert [c.ready for c in seen.containers[1:]] == [False, False]


async def test_tcp_probes_reach_the_pods_address_and_not_its_loopback(stage: Stage):
    listen = "nc -ll -p {} -e cat"
    work = pod(
        shell(listen.format("90"), readiness=Probe(TcpSocketAction(90), period_seconds=1)),
        shell(
            "httpd -f -p 127.0.0.1:91",
            name="loopback",
            readiness=Probe(TcpSocketAction(91), period_seconds=1, failure_threshold=1),
        ),
    )
    await stage.backend.create(work)
    seen = await stage.witness.until(work, ready)
    refused = f"Readiness probe failed: dial tcp {seen.ips[0]}:91: connect: connection refused"
    await stage.witness.until(work, happens("Unhealthy", refused))
    asked = ["sh", "-c", "wget -qO- http://127.0.0.1:91/none 2>&1 || true"]
    assert "404" in await run_in(stage.backend, work, asked, container="loopback")


async def test_the_other_probes_wait_for_the_startup_probe(stage: Stage):
    work = pod(
        shell(
            SLEEP,
            startup=cat("/tmp/started", failure_threshold=60),
            readiness=Probe(ExecAction(("true",)), period_seconds=60),
            liveness=cat("/tmp/started"),
        )
    )
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    assert (seen.containers[0].started, seen.containers[0].ready) == (False, False)
    await stage.witness.until(work, happens("Unhealthy", "Startup probe failed"))
    await touch(stage, work, "/tmp/started")
    seen = await stage.witness.until(work, ready)  # at once, not a minute later
    assert seen.containers[0].started
    assert seen.containers[0].restarts == 0
    assert {reason for reason, _ in told(stage, work)} == {"Unhealthy"}


async def test_a_container_that_does_not_start_is_restarted(stage: Stage):
    work = pod(shell(SLEEP, startup=Probe(FAIL, period_seconds=1, failure_threshold=2)))
    await stage.backend.create(work)
    await stage.witness.until(work, restarted)
    message = "Container main failed startup probe, will be restarted"
    assert ("Killing", message) in told(stage, work)


async def test_a_probe_that_takes_too_long_has_failed(stage: Stage):
    work = pod(shell(SLEEP, readiness=Probe(ExecAction(("sleep", "1000")), failure_threshold=1)))
    await stage.backend.create(work)
    await stage.witness.until(
        work, happens("Unhealthy", 'Readiness probe failed: command "sleep 1000" timed out')
    )
    async with asyncio.timeout(10):
        # Nothing of it is left.
        while "sleep 1000" in await run_in(stage.backend, work, ["ps"]):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.1)


async def test_an_agent_that_comes_back_knows_who_was_ready(podman: PodmanService):
    work = pod(
        shell(
            f"touch /tmp/alive; {SLEEP}",
            startup=cat("/tmp/alive"),
            readiness=cat("/tmp/alive", period_seconds=60),
        )
    )
    async with backend_of(podman) as backend, asyncio.TaskGroup() as group:
        witness = Witness(backend)
        task = group.create_task(witness.run())
        await backend.create(work)
        before = await witness.until(work, ready)
        task.cancel()
    async with backend_of(podman) as backend, asyncio.TaskGroup() as group:
        witness = Witness(backend)
        task = group.create_task(witness.run())
        (after,) = await backend.list()
        assert after.containers == before.containers
        await witness.end(work)
        task.cancel()
