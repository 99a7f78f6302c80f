"""What becomes of pods when the agent, Podman or a container is killed."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from podman_life import kept, shared
from podman_pods import (
    CLUSTER,
    NODE,
    SLEEP,
    Stage,
    Witness,
    backend_of,
    ended,
    eventually,
    is_running,
    pod,
    run_in,
    shell,
    staged,
    waits,
)

from overspill.backends.podman.api import Podman
from overspill.backends.podman.backend import PodmanBackend
from overspill.backends.podman.client import Client
from overspill.backends.podman.steps import Steps
from overspill.errors import Retry
from overspill.model.observation import Gone, Observation, Running, Terminated
from overspill.model.work import EmptyDir, Mount, WorkSpec
from podman_service import PodmanService

pytestmark = [pytest.mark.podman, pytest.mark.timeout(120)]


async def all_running(backend: PodmanBackend, works: Sequence[WorkSpec], *, seconds: float = 60) -> None:
    """Wait until every pod runs."""
    witness = Witness(backend)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(witness.run())
        witness.history += await backend.list()
        for work in works:
            await witness.until(work, is_running, seconds=seconds)
        task.cancel()


def names_of(service: PodmanService) -> list[str]:
    """The names of all containers but infra containers."""
    found = [container for container in service.containers() if not container["IsInfra"]]
    return sorted(name for container in found for name in container["Names"])


async def test_a_new_agent_goes_on_where_the_old_one_stood(podman: PodmanService):
    steady, crashing = pod(shell(SLEEP), name="steady"), pod(shell("exit 1"), name="crashing")
    async with backend_of(podman) as backend, asyncio.TaskGroup() as group:
        witness = Witness(backend)
        task = group.create_task(witness.run())
        await backend.create(steady)
        await backend.create(crashing)
        await witness.running(steady)
        await witness.until(crashing, waits("CrashLoopBackOff"))
        before = await backend.list()
        task.cancel()
    async with staged(podman) as stage:
        assert sorted(await stage.backend.list(), key=repr) == sorted(before, key=repr)
        await stage.witness.until(
            crashing, lambda s: isinstance(s, Observation) and s.containers[0].restarts == 2
        )
        await eventually(lambda: len(names_of(podman)) == 3)  # the oldest of three runs is cleared away


async def test_what_ended_while_no_agent_looked_is_restarted(podman: PodmanService):
    work = pod(shell(SLEEP))
    async with backend_of(podman) as backend:
        await backend.create(work)
        await all_running(backend, [work])
    podman.run("kill", "--signal", "KILL", *names_of(podman))
    async with staged(podman) as stage:
        seen = await stage.witness.until(
            work, lambda s: is_running(s) and isinstance(s, Observation) and s.containers[0].restarts == 1
        )
        assert isinstance(seen, Observation)
        assert isinstance(seen.containers[0].last_state, Terminated)
        assert seen.containers[0].last_state.exit_code == 137


AGENT = """
import asyncio, sys
sys.path[:0] = [{tests!r}, {flow!r}]
from podman_pods import CLUSTER, NODE, pod, shell, SLEEP
from podman_service import NETWORK
from overspill.backends.podman.backend import PodmanBackend
from overspill.model.work import Identity
from msgspec import structs

async def main():
    options = {{"socket": {socket!r}, "network": NETWORK, "data_dir": {data!r}}}
    async with PodmanBackend(cluster=CLUSTER, node=NODE, options=options) as backend:
        for number in range(10):
            work = pod(shell(SLEEP), name=f"p{{number}}")
            identity = structs.replace(work.identity, uid=f"uid-{{number}}")
            await backend.create(structs.replace(work, identity=identity))
        print("created", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.parametrize("made", [0, 3])
async def test_agent_killed_while_it_makes_pods(podman: PodmanService, made: int):
    here = Path(__file__).parent
    script = AGENT.format(tests=str(here.parent), flow=str(here), socket=podman.socket, data=podman.data_dir)
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert agent.stdout
    assert await agent.stdout.readline() == b"created\n"
    await eventually(lambda: len(names_of(podman)) >= made)
    agent.kill()
    await agent.wait()
    async with staged(podman) as stage:
        observations = await stage.backend.list()
        assert len(observations) == 10
        for observation in observations:
            await stage.witness.until_identity(observation.identity, is_running)
        assert names_of(podman) == sorted(f"pod-uid-{number}-0-main-0" for number in range(10))


async def test_podman_killed_while_it_makes_twenty_pods(stage: Stage):
    works = [pod(shell(SLEEP), name=f"p{number}") for number in range(20)]
    for work in works:
        await stage.backend.create(work)
    # Its last step queues behind the first ones of the others.
    await stage.witness.until(works[0], is_running, seconds=60)
    stage.service.kill(signal.SIGKILL)
    with pytest.raises(Retry):
        await stage.backend.list()
    with pytest.raises(Retry):
        await stage.backend.health()
    stage.service.start()
    for work in works:
        await stage.witness.until(work, is_running, seconds=60)
    assert not [sighting for sighting in stage.witness.history if isinstance(sighting, Gone)]
    observations = await stage.backend.list()
    assert {o.identity for o in observations} == {work.identity for work in works}
    assert [o.containers for o in observations if o.containers[0].restarts] == []
    assert len({o.ips for o in observations}) == 20
    assert names_of(stage.service) == sorted(f"pod-{work.identity.uid}-0-main-0" for work in works)


async def test_podman_killed_while_it_removes_pods(stage: Stage):
    works = [pod(shell(SLEEP), name=f"p{number}") for number in range(6)]
    for work in works:
        await stage.backend.create(work)
    for work in works:
        await stage.witness.running(work)
        await stage.backend.delete(work.identity, grace_seconds=5)
    await stage.witness.gone(works[0])
    stage.service.kill(signal.SIGKILL)
    stage.service.start()
    for work in works:
        await stage.witness.gone(work)


async def test_end_asked_for_while_podman_is_away(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    stage.service.kill(signal.SIGKILL)
    await stage.backend.delete(work.identity, grace_seconds=0)
    assert not [sighting for sighting in stage.witness.history if isinstance(sighting, Gone)]
    stage.service.start()
    await stage.witness.gone(work)


async def test_container_that_dies_while_podman_is_away_is_restarted(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    container = seen.containers[0].container_id.removeprefix("podman://")
    pid = int(stage.service.run("inspect", "--format", "{{.State.Pid}}", container))
    stage.service.kill(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    stage.service.start()
    await stage.witness.until(
        work, lambda s: is_running(s) and isinstance(s, Observation) and s.containers[0].restarts == 1
    )


async def test_a_pull_may_be_given_up_twice():
    """Two containers of a pod are doomed at the same time."""
    steps = Steps(SimpleNamespace(podman=None), None, None)

    async def pull():
        async with asyncio.timeout(None) as steps._pulling:
            steps.interrupt()
            try:
                await asyncio.Event().wait()
            finally:
                steps.interrupt()

    with pytest.raises(TimeoutError):
        await pull()


async def test_lost_sandbox_is_replaced(stage: Stage):
    """With a new network, for which init containers have done nothing yet."""
    mounts = (Mount("memory", "/memory"), Mount("shared", "/shared"))
    volumes = {"memory": EmptyDir(medium="Memory"), "shared": EmptyDir()}
    init = shell("echo $HOSTNAME >>/shared/log", name="init", mounts=mounts)
    beside = shell(SLEEP, name="beside", restart_policy="Always")
    work = pod(shell(SLEEP, mounts=mounts), init_containers=(init, beside), volumes=volumes)
    await stage.backend.create(work)
    await stage.witness.running(work)
    await stage.backend.add_ephemeral(work.identity, [shell(SLEEP, name="debug", target="beside")])
    await stage.witness.until(work, lambda s: isinstance(s, Observation) and _debugs(s, Running))
    infra = next(c for c in stage.service.containers() if c["IsInfra"])
    os.kill(infra["Pid"], signal.SIGKILL)
    seen = await stage.witness.until(
        work, lambda s: is_running(s) and isinstance(s, Observation) and s.containers[0].restarts == 1
    )
    assert isinstance(seen, Observation)
    assert f"{seen.ips[0]}\tpod" in await run_in(stage.backend, work, ["cat", "/etc/hosts"])
    assert seen.ips[0] in await run_in(stage.backend, work, ["ip", "-o", "address", "show", "eth0"])
    assert (await run_in(stage.backend, work, ["cat", "/shared/log"])).splitlines() == ["pod", "pod"]
    assert _debugs(seen, Terminated)


def _debugs(seen: Observation, state: type) -> bool:
    return [type(each.state) for each in seen.ephemeral_containers] == [state]


async def test_what_ended_for_good_stays_so_when_its_container_is_removed(podman: PodmanService):
    """As `podman container prune` does."""
    job = pod(shell("exit 3"), name="job", restart_policy="Never")
    init = shell("echo begun >>/shared/log", name="init")
    served = shared(shell(SLEEP), init_containers=(init,), name="served")
    async with staged(podman) as stage:
        await stage.backend.create(job)
        await stage.backend.create(served)
        await stage.witness.until(job, ended)
        await stage.witness.running(served)
        before = {each.identity: each for each in await stage.backend.list()}
        stage.service.run("rm", f"pod-{job.identity.uid}-0-main-0", f"pod-{served.identity.uid}-0-init-0")
        await stage.backend.list()
        later = pod(shell(SLEEP), name="later")
        await stage.backend.create(later)
        await stage.witness.running(later)
        assert {each.identity: each for each in await stage.backend.list()}.items() >= before.items()
        async with backend_of(podman) as again:
            assert {each.identity: each for each in await again.list()}.items() >= before.items()
        assert kept(stage, served) == ["begun"]
        assert not [name for name in names_of(podman) if job.identity.uid in name]


async def test_pod_without_its_record_is_seen_and_can_be_ended(podman: PodmanService):
    mounts = (Mount("memory", "/memory"),)
    work = pod(shell(SLEEP, mounts=mounts), volumes={"memory": EmptyDir(medium="Memory")})
    async with backend_of(podman) as backend:
        await backend.create(work)
        await all_running(backend, [work])
    shutil.rmtree(Path(podman.data_dir) / CLUSTER / NODE)
    async with staged(podman) as stage:
        (seen,) = await stage.backend.list()
        assert seen.identity == work.identity
        assert isinstance(seen.containers[0].state, Running)
        await stage.witness.end(work)


async def test_nodes_of_one_podman_do_not_see_each_other(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    async with backend_of(stage.service, node="virtual-node-1") as other:
        assert await other.list() == []


async def test_an_event_that_is_too_long_breaks_the_stream_off(tmp_path: Path):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1 << 20) + b"\n")
        writer.close()

    socket = str(tmp_path / "sock")
    async with await asyncio.start_unix_server(answer, socket), Client(socket) as client:
        with pytest.raises(Retry):
            async for _ in Podman(client).events({}):
                pass


async def test_of_two_agents_at_once_one_may_end_the_pod(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    async with backend_of(stage.service) as other:
        await other.delete(work.identity, grace_seconds=30)
        await stage.witness.gone(work)
        assert await stage.backend.list() == []
        await eventually(lambda: not stage.service.leftovers())
