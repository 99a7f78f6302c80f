"""What a process in the pod sees of what was asked for: variables, files, names."""

import asyncio
import time

import pytest
from harness import PATIENCE, Play, Stage

from overspill.model.work import POD_IP, EmptyDir, EnvVar, ExecAction, File, Files, Mount, Probe


@pytest.fixture(autouse=True)
def _can_look_in(stage: Stage):
    stage.needs("exec")


async def test_variables(stage: Stage):
    env = (EnvVar("PLAIN", "a value"), EnvVar("ADDRESS", POD_IP))
    work = await stage.start(Play(fields={"env": env}))
    seen = await stage.listed(work)
    assert seen
    assert await stage.run(work, "sh", "-c", "echo $PLAIN") == (0, "a value\n", "")
    assert await stage.run(work, "sh", "-c", "echo $ADDRESS") == (0, f"{seen.ips[0]}\n", "")


async def test_the_address_in_a_longer_value(stage: Stage):
    stage.same("address in a text")
    work = await stage.start(Play(fields={"env": (EnvVar("URL", f"http://{POD_IP}:80"),)}))
    seen = await stage.listed(work)
    assert seen
    assert await stage.run(work, "sh", "-c", "echo $URL") == (0, f"http://{seen.ips[0]}:80\n", "")


async def test_host_name(stage: Stage):
    work = await stage.start(name="web-0")
    assert await stage.run(work, "hostname") == (0, "web-0\n", "")


async def test_files_of_a_volume(stage: Stage):
    volume = Files((File("plain.txt", b"text"), File("deep/er.txt", b"more")))
    mounts = (Mount("config", "/etc/config", read_only=True),)
    work = await stage.start(Play(fields={"mounts": mounts}), volumes={"config": volume})
    assert await stage.run(work, "cat", "/etc/config/plain.txt") == (0, "text", "")
    assert await stage.run(work, "cat", "/etc/config/deep/er.txt") == (0, "more", "")
    assert await stage.run(work, "ls", "/etc/config") == (0, "deep\nplain.txt\n", "")
    code, _, trouble = await stage.run(work, "sh", "-c", "echo x > /etc/config/new")
    assert code != 0
    assert "Read-only file system" in trouble


async def test_refreshed_files_replace_the_old_ones(stage: Stage):
    mounts = (Mount("config", "/etc/config", read_only=True),)
    old = Files((File("stays", b"1"), File("goes", b"1")))
    work = await stage.start(Play(fields={"mounts": mounts}), volumes={"config": old})
    new = Files((File("stays", b"2"), File("comes", b"2")))
    await stage.backend.refresh(work.identity, {"config": new})
    async with asyncio.timeout(PATIENCE):
        while await stage.run(work, "cat", "/etc/config/stays") != (0, "2", ""):
            pass
    assert await stage.run(work, "ls", "/etc/config") == (0, "comes\nstays\n", "")
    seen = await stage.listed(work)
    assert seen
    assert seen.containers[0].restarts == 0


async def test_an_empty_dir_is_shared_by_the_containers_of_a_pod(stage: Stage):
    mounted = {"mounts": (Mount("scratch", "/scratch"),)}
    work = await stage.start(
        Play(name="writer", fields=mounted),
        Play(name="reader", fields=mounted),
        volumes={"scratch": EmptyDir()},
    )
    written = await stage.run(work, "sh", "-c", "echo shared > /scratch/note", container="writer")
    assert written == (0, "", "")
    assert await stage.run(work, "cat", "/scratch/note", container="reader") == (0, "shared\n", "")


async def test_an_empty_dir_may_be_in_memory_and_read_only_for_some(stage: Stage):
    work = await stage.start(
        Play(name="writer", fields={"mounts": (Mount("scratch", "/scratch"),)}),
        Play(name="reader", fields={"mounts": (Mount("scratch", "/scratch", read_only=True),)}),
        volumes={"scratch": EmptyDir(medium="Memory", size_limit=1 << 20)},
    )
    assert (await stage.run(work, "sh", "-c", "echo a > /scratch/a", container="writer"))[0] == 0
    assert await stage.run(work, "cat", "/scratch/a", container="reader") == (0, "a\n", "")
    assert (await stage.run(work, "sh", "-c", "echo b > /scratch/b", container="reader"))[0] != 0


async def test_pods_do_not_share_what_is_theirs(stage: Stage):
    mounted = {"mounts": (Mount("scratch", "/scratch"),)}
    one = await stage.start(Play(fields=mounted), volumes={"scratch": EmptyDir()}, name="one")
    two = await stage.start(Play(fields=mounted), volumes={"scratch": EmptyDir()}, name="two")
    await stage.run(one, "sh", "-c", "echo x > /scratch/x")
    assert (await stage.run(two, "cat", "/scratch/x"))[0] != 0


async def test_a_readiness_probe_says_when_a_container_is_ready(stage: Stage):
    stage.honours("containers[].readinessProbe.exec.command")
    stage.same("probes")
    probe = Probe(ExecAction(("test", "-e", "/tmp/ready")), period_seconds=1)
    work = await stage.start(Play(fields={"readiness": probe}))
    seen = await stage.listed(work)
    assert seen
    assert not seen.containers[0].ready
    asked = time.time()
    assert (await stage.run(work, "touch", "/tmp/ready"))[0] == 0
    seen = await stage.until(work, lambda seen: seen.containers[0].ready)
    assert seen.containers[0].changed_at >= int(asked)  # and not since its start; ECI tells whole seconds
