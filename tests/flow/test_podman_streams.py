"""Logs, exec, attach, port-forward and usage of pods on a real Podman."""

import asyncio
from contextlib import aclosing, suppress
from unittest.mock import AsyncMock

import pytest
from podman_pods import (
    SLEEP,
    Stage,
    ended,
    first_output,
    is_running,
    log_of,
    output_of,
    pod,
    run_in,
    shell,
    waits,
)

from overspill.backends import connections
from overspill.backends.base import LogOptions
from overspill.backends.podman.streams import Hijacked
from overspill.errors import NotFound, Rejected
from overspill.model.observation import Observation
from overspill.model.work import Container, EmptyDir, Mount, Resources

pytestmark = pytest.mark.podman


async def test_exec_keeps_streams_apart_and_gives_the_exit_code(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    script = "cat; echo problem >&2; exit 7"
    process = await stage.backend.exec(work.identity, "main", ["sh", "-c", script], stdin=True, tty=False)
    await process.write(b"some input")
    await process.close_stdin()
    assert await output_of(process) == (b"some input", b"problem\n")
    assert await process.wait() == 7
    await process.close()


async def test_a_megabyte_goes_through_exec_both_ways(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    data = bytes(range(256)) * 4096
    process = await stage.backend.exec(work.identity, "main", ["cat"], stdin=True, tty=False)

    async def feed() -> None:
        for start in range(0, len(data), 50_000):
            await process.write(data[start : start + 50_000])
        await process.close_stdin()

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        result = group.create_task(output_of(process))
    assert result.result() == (data, b"")
    assert await process.wait() == 0
    await process.close()


async def test_exec_on_a_terminal(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    process = await stage.backend.exec(work.identity, "main", ["sh"], stdin=True, tty=True)
    await process.resize(width=99, height=33)
    await process.write(b"stty size; exit 3\n")
    out, err = await output_of(process)
    assert b"33 99" in out
    assert err == b""
    assert await process.wait() == 3
    await process.close()


async def test_letting_go_of_exec_kills_the_process(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    process = await stage.backend.exec(
        work.identity, "main", ["sh", "-c", "echo up; exec sleep 12345"], stdin=False, tty=False
    )
    async with aclosing(process.output()) as pieces:
        assert await anext(pieces) == (1, b"up\n")
    await process.close()
    async with asyncio.timeout(20):
        while "12345" in await run_in(stage.backend, work, ["ps"]):
            pass


async def test_letting_go_of_a_process_that_reads_nothing_of_what_it_is_sent(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    process = await stage.backend.exec(work.identity, "main", ["sleep", "12345"], stdin=True, tty=False)
    writing = asyncio.ensure_future(process.write(b"x" * (8 << 20)))
    done, _ = await asyncio.wait({writing}, timeout=1)
    assert not done
    writing.cancel()
    async with asyncio.timeout(20):
        await process.close()
        while "12345" in await run_in(stage.backend, work, ["ps"]):
            pass


async def test_letting_go_of_a_connection_of_which_nothing_is_read(stage: Stage, monkeypatch):
    monkeypatch.setattr(connections, "FLUSH", 0.1)
    work = pod(shell(f"nc -l -p 90 -e sleep 12345 & {SLEEP}"))
    await stage.backend.create(work)
    await stage.witness.running(work)
    async with asyncio.timeout(20):
        while True:
            with suppress(NotFound):
                forwarded = await stage.backend.port_forward(work.identity, 90)
                break
        writing = asyncio.ensure_future(forwarded.write(b"x" * (32 << 20)))
        done, _ = await asyncio.wait({writing}, timeout=1)
        assert not done
        writing.cancel()
        await forwarded.close()


async def test_letting_go_is_broken_off_and_its_connection_ends():
    leaving = asyncio.Event()

    async def leave() -> None:
        leaving.set()
        await asyncio.Event().wait()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.close()
        served.set()

    served = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        process = Hijacked(
            reader, writer, tty=False, ends_stdin=True, finish=AsyncMock(), leave=leave, resizer=AsyncMock()
        )
        closing = asyncio.ensure_future(process.close())
        await leaving.wait()
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        await served.wait()


async def test_letting_go_kills_the_process_also_where_others_come_and_go(stage: Stage):
    work = pod(shell("trap 'exit 0' TERM; while :; do (:) & (:) & (:) & wait; done"))
    await stage.backend.create(work)
    await stage.witness.running(work)
    command = ["sh", "-c", "echo up; exec sleep 12345"]
    for _ in range(10):  # Podman mentions such a process in every second look
        process = await stage.backend.exec(work.identity, "main", command, stdin=False, tty=False)
        async with aclosing(process.output()) as pieces:
            assert await anext(pieces) == (1, b"up\n")
        await process.close()
    async with asyncio.timeout(20):
        while "12345" in await run_in(stage.backend, work, ["ps"]):
            pass


async def test_attach_reads_and_writes_and_lets_the_container_run_on(stage: Stage):
    script = f"while read -r line; do echo got $line; done; {SLEEP}"
    work = pod(shell(script, stdin=True, stdin_once=True))
    await stage.backend.create(work)
    await stage.witness.running(work)
    process = await stage.backend.attach(work.identity, "main", stdin=True, tty=False)
    await process.write(b"this\n")
    async with asyncio.timeout(20), aclosing(process.output()) as pieces:
        assert await anext(pieces) == (1, b"got this\n")
    await process.close_stdin()
    await process.close()
    assert (await stage.backend.list())[0].containers[0].ready


async def test_stdin_outlives_its_clients_unless_it_is_for_one(stage: Stage):
    work = pod(shell("while read -r line; do echo got $line; done; echo end of input", stdin=True))
    await stage.backend.create(work)
    await stage.witness.running(work)
    for number in range(3):
        typist = await stage.backend.attach(work.identity, "main", stdin=True, tty=False)
        onlooker = await stage.backend.attach(work.identity, "main", stdin=False, tty=False)
        await typist.write(b"%d\n" % number)
        for client in (typist, onlooker):
            async with asyncio.timeout(20), aclosing(client.output()) as pieces:
                assert await anext(pieces) == (1, b"got %d\n" % number)
            await client.close_stdin()
            await client.close()
    assert await log_of(stage.backend, work) == b"got 0\ngot 1\ngot 2\n"
    assert (await stage.backend.list())[0].containers[0].restarts == 0


async def test_whoever_looks_on_does_not_end_the_stdin_of_another(stage: Stage):
    work = pod(shell("cat; echo end >&2", stdin=True, stdin_once=True), restart_policy="Never")
    await stage.backend.create(work)
    await stage.witness.running(work)
    typist = await stage.backend.attach(work.identity, "main", stdin=True, tty=False)
    onlooker = await stage.backend.attach(work.identity, "main", stdin=False, tty=False)
    await onlooker.close()
    onlooker = await stage.backend.attach(work.identity, "main", stdin=False, tty=False)
    await typist.write(b"typed")
    await typist.close_stdin()
    assert await output_of(typist) == (b"typed", b"end\n")
    assert await output_of(onlooker) == (b"typed", b"end\n")
    assert (await typist.wait(), await onlooker.wait()) == (0, 0)
    await typist.close()
    await onlooker.close()


async def test_attach_to_a_terminal_until_the_end(stage: Stage):
    work = pod(Container("main", "localhost/busybox:1", stdin=True, tty=True), restart_policy="Never")
    await stage.backend.create(work)
    await stage.witness.running(work)
    process = await stage.backend.attach(work.identity, "main", stdin=True, tty=True)
    await process.write(b"echo $((40 + 2)); exit 6\n")
    out, _ = await output_of(process)
    assert b"42\r\n" in out
    assert await process.wait() == 6
    await process.close()


@pytest.mark.parametrize("terminal", [True, False])
async def test_attach_goes_by_the_containers_own_terminal(stage: Stage, terminal):
    typed = shell("read -r line; echo got $line", stdin=True, stdin_once=True, tty=terminal)
    work = pod(typed, restart_policy="Never")
    await stage.backend.create(work)
    await stage.witness.running(work)
    process = await stage.backend.attach(work.identity, "main", stdin=True, tty=not terminal)
    await process.write(b"this\n")
    out, _ = await output_of(process)
    assert out.endswith(b"got this\r\n" if terminal else b"got this\n")
    await process.close()


async def test_no_process_in_a_container_that_does_not_run(stage: Stage):
    work = pod(shell("exit 1"))
    await stage.backend.create(work)
    await stage.witness.until(work, waits("CrashLoopBackOff"))
    with pytest.raises(NotFound, match="does not run"):
        await stage.backend.exec(work.identity, "main", ["true"], stdin=False, tty=False)
    with pytest.raises(NotFound, match="does not run"):
        await stage.backend.attach(work.identity, "main", stdin=False, tty=False)


async def test_port_forward_reaches_the_loopback_of_the_pod(stage: Stage):
    work = pod(shell("echo hello >/tmp/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp"))
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert await run_in(stage.backend, work, ["wget", "-qO-", "http://127.0.0.1:8080"]) == "hello\n"
    forwarded = await stage.backend.port_forward(work.identity, 8080)
    await forwarded.write(b"GET / HTTP/1.0\r\n\r\n")
    out, _ = await output_of(forwarded)
    assert out.endswith(b"\r\n\r\nhello\n")
    assert await forwarded.wait() == 0
    await forwarded.close()
    with pytest.raises(NotFound, match="nothing listens on port 8081"):
        await stage.backend.port_forward(work.identity, 8081)


async def test_logs_in_all_their_ways(stage: Stage):
    work = pod(shell("echo one; sleep 0.2; echo two >&2; sleep 0.2; echo -n three"), restart_policy="Never")
    await stage.backend.create(work)
    await stage.witness.until(work, ended)
    assert await log_of(stage.backend, work) == b"one\ntwo\nthree"
    assert await log_of(stage.backend, work, LogOptions(tail_lines=1)) == b"three"
    assert await log_of(stage.backend, work, LogOptions(tail_lines=0)) == b""
    assert await log_of(stage.backend, work, LogOptions(limit_bytes=5)) == b"one\nt"
    stamped = await log_of(stage.backend, work, LogOptions(timestamps=True, tail_lines=3))
    assert [line.split(b" ")[1] for line in stamped.splitlines()] == [b"one", b"two", b"three"]
    assert stamped.splitlines()[0].split(b" ")[0].endswith(b"Z")
    assert await log_of(stage.backend, work, LogOptions(since_time=4e9)) == b""
    with pytest.raises(NotFound, match="container other is not valid for pod pod"):
        await log_of(stage.backend, work, container="other")
    with pytest.raises(NotFound, match='previous terminated container "main" in pod "pod" not found'):
        await log_of(stage.backend, work, LogOptions(previous=True))


async def test_followed_log_ends_with_its_container(stage: Stage):
    work = pod(shell("echo first; sleep 1; echo last"), restart_policy="Never")
    await stage.backend.create(work)
    await stage.witness.running(work)
    async with asyncio.timeout(20):
        assert await log_of(stage.backend, work, LogOptions(follow=True)) == b"first\nlast\n"


async def test_logs_of_this_and_the_previous_run(stage: Stage):
    mounts = (Mount("scratch", "/scratch"),)
    script = f"if test -e /scratch/x; then echo second; {SLEEP}; fi; echo first; touch /scratch/x; exit 1"
    work = pod(shell(script, mounts=mounts), volumes={"scratch": EmptyDir()})
    await stage.backend.create(work)
    await stage.witness.until(
        work, lambda s: is_running(s) and isinstance(s, Observation) and s.containers[0].restarts == 1
    )
    assert await first_output(stage.backend, work) == b"second\n"
    assert await log_of(stage.backend, work, LogOptions(previous=True)) == b"first\n"


async def test_previous_log_of_a_container_between_two_runs(stage: Stage):
    work = pod(shell("echo run; exit 1"))
    await stage.backend.create(work)
    await stage.witness.until(work, waits("CrashLoopBackOff"))
    assert await log_of(stage.backend, work) == b"run\n"
    assert await log_of(stage.backend, work, LogOptions(previous=True)) == b"run\n"


async def test_log_of_a_container_that_has_not_started(stage: Stage):
    work = pod(Container("main", "localhost/absent:1", pull_policy="Never"))
    await stage.backend.create(work)
    await stage.witness.until(work, waits("ErrImageNeverPull"))
    with pytest.raises(
        Rejected, match='container "main" in pod "pod" is waiting to start: ErrImageNeverPull'
    ):
        await log_of(stage.backend, work)


async def test_usage_of_what_runs(stage: Stage):
    busy = shell("while :; do :; done", name="busy", resources=Resources(cpu_limit=0.2))
    work = pod(shell(SLEEP), busy)
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    (usage,) = await stage.backend.usage()
    assert usage.identity == work.identity
    assert {used.name for used in usage.containers} == {"main", "busy"}
    assert all(used.memory_bytes > 0 and used.cpu_seconds > 0 for used in usage.containers)
    started = {c.name: c.state.started_at for c in seen.containers}
    assert {used.name: used.started_at for used in usage.containers} == started


async def test_page_cache_is_not_memory_in_use(stage: Stage):
    work = pod(shell("dd if=/dev/zero of=/cached bs=1M count=64; echo done; " + SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    await first_output(stage.backend, work)
    (usage,) = await stage.backend.usage()
    assert usage.containers[0].memory_bytes < 32 << 20


async def test_one_container_that_has_just_gone_hides_no_other(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    (supervisor,) = stage.backend._node.supervisors()
    (run,) = supervisor.pod.seen.live
    stats = await stage.backend._podman.stats([run.id, "f" * 64])
    assert run.id in {stat.container_id for stat in stats}
