"""Requests and limits of running containers changed on a real Podman: in place, by a restart, after a kill."""

import asyncio

import pytest
from podman_pods import SLEEP, Stage, Witness, backend_of, pod, run_in, shell, staged, waits

from overspill.backends.podman.folder import Record, folders
from overspill.backends.podman.resizing import with_resources
from overspill.errors import NotFound
from overspill.model.observation import Happened, Observation, Running, Sighting
from overspill.model.work import Identity, Resources
from podman_service import PodmanService

pytestmark = pytest.mark.podman

SMALL = Resources(cpu_request=0.1, cpu_limit=0.5, memory_request=32 << 20, memory_limit=64 << 20)
LARGE = Resources(cpu_request=0.2, cpu_limit=1.0, memory_request=64 << 20, memory_limit=128 << 20)
V1 = "cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes"
V2 = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max"


async def limits_of(stage: Stage, work, *, container: str = "main") -> list[str]:
    """What the kernel holds a container to, as it reads it in its own cgroup."""
    script = f"if test -e /sys/fs/cgroup/memory; then {V1}; else {V2}; fi"
    return (await run_in(stage.backend, work, ["sh", "-c", script], container=container)).split()


def has(resources: Resources, *, restarts: int = 0):
    def condition(sighting: Sighting) -> bool:
        if not isinstance(sighting, Observation):
            return False
        main = sighting.containers[0]
        return isinstance(main.state, Running) and (main.allocated, main.resources, main.restarts) == (
            resources,
            resources,
            restarts,
        )

    return condition


async def test_a_running_container_gets_other_limits_and_loses_them(stage: Stage):
    work = pod(shell(SLEEP, resources=SMALL), shell(SLEEP, name="other", resources=SMALL))
    await stage.backend.create(work)
    await stage.witness.until(work, has(SMALL))
    before = await limits_of(stage, work)
    await stage.backend.resize(work.identity, {"main": LARGE})
    seen = await stage.witness.until(work, has(LARGE))
    assert str(128 << 20) in await limits_of(stage, work)
    assert isinstance(seen, Observation)
    assert (seen.containers[1].allocated, seen.containers[1].resources) == (SMALL, SMALL)
    assert await limits_of(stage, work, container="other") == before
    await stage.backend.resize(work.identity, {"main": Resources()})
    await stage.witness.until(work, has(Resources()))
    free = await limits_of(stage, work)
    assert "max" in free or int(free[2]) > 1 << 60


async def test_a_container_that_has_to_be_restarted_for_it(stage: Stage):
    container = shell(SLEEP, resources=SMALL, restart_on_resize=("memory",))
    work = pod(container, restart_policy="OnFailure")
    await stage.backend.create(work)
    await stage.witness.until(work, has(SMALL))
    cpu_only = Resources(
        cpu_request=0.2, cpu_limit=1.0, memory_request=SMALL.memory_request, memory_limit=SMALL.memory_limit
    )
    await stage.backend.resize(work.identity, {"main": cpu_only})
    await stage.witness.until(work, has(cpu_only))
    await stage.backend.resize(work.identity, {"main": LARGE})
    await stage.witness.until(work, has(LARGE, restarts=1))
    await stage.backend.resize(work.identity, {"main": SMALL})
    await stage.witness.until(work, has(SMALL, restarts=2))
    assert not any(waits("CrashLoopBackOff")(each) for each in stage.witness.history)
    assert str(64 << 20) in await limits_of(stage, work)
    told = [s for s in stage.witness.history if isinstance(s, Happened) and s.reason == "Killing"]
    assert told[0].message == "Container main resize requires restart"


async def test_what_podman_refuses_is_told_and_tried_again(stage: Stage):
    work = pod(shell(SLEEP, resources=SMALL))
    await stage.backend.create(work)
    await stage.witness.until(work, has(SMALL))
    await stage.backend.resize(work.identity, {"main": Resources(memory_limit=4096)})
    await stage.witness.until(
        work, lambda s: isinstance(s, Observation) and bool(s.containers[0].resize_trouble)
    )
    (seen,) = await stage.backend.list()
    assert seen.containers[0].allocated == Resources(memory_limit=4096)
    assert seen.containers[0].resources == SMALL
    await stage.backend.resize(work.identity, {"main": LARGE})
    seen = await stage.witness.until(work, has(LARGE))
    assert isinstance(seen, Observation)
    assert seen.containers[0].resize_trouble == ""


async def test_an_agent_that_was_killed_goes_on_with_it(podman: PodmanService):
    work = pod(shell(SLEEP, resources=SMALL))
    async with staged(podman) as stage:
        await stage.backend.create(work)
        await stage.witness.until(work, has(SMALL))
        await stage.backend.resize(work.identity, {"main": LARGE})
        await stage.witness.until(work, has(LARGE))
        folder = stage.backend._node.find(work.identity).pod.folder
        record = next(record for other, record in folders(folder.path.parent) if other.path == folder.path)
        # As if it had been killed between recording the next resize and doing it.
        folder.rewrite(Record(record.taken_at, with_resources(record.work, {"main": SMALL})))
        async with backend_of(podman) as successor, asyncio.TaskGroup() as group:
            witness = Witness(successor)
            watching = group.create_task(witness.run())
            await witness.until(work, has(SMALL))
            watching.cancel()


async def test_nobody_is_resized_who_is_not_here(stage: Stage):
    with pytest.raises(NotFound):
        await stage.backend.resize(Identity("c", "n", "default", "x", "uid-x"), {"main": SMALL})
