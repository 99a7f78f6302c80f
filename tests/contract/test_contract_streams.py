"""Logs, exec, attach, port-forward, usage, and what a backend says that it can do."""

import asyncio
import re
import time

import pytest
from harness import PATIENCE, Play, Stage, ended, first_output, outputs, runs, waits

from overspill.errors import NotFound, Rejected, Unsupported
from overspill.model.work import ExecAction, Nfs, Port, Probe, Resources

VERBS = {"logs", "exec", "attach", "debug", "port-forward", "metrics"}
LINES = ("one", "two", "three")


@pytest.fixture
def logs(stage: Stage) -> Stage:
    stage.needs("logs")
    return stage


async def test_log_of_a_running_container(logs: Stage):
    work = await logs.start(Play(prints=LINES))
    await logs.printed(work, "one\ntwo\nthree\n")
    assert await logs.log(work) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tail_lines": 0}, ""),
        ({"tail_lines": 2}, "two\nthree\n"),
        ({"tail_lines": 9}, "one\ntwo\nthree\n"),
        ({"limit_bytes": 6}, "one\ntw"),
        ({"limit_bytes": 99}, "one\ntwo\nthree\n"),
        ({"since_time": 4e9}, ""),
        ({"since_time": 1.0}, "one\ntwo\nthree\n"),
        ({"tail_lines": 2, "limit_bytes": 3}, "two"),
    ],
)
async def test_log_options(logs: Stage, options, text):
    work = logs.pod(Play(prints=LINES, seconds=0), restart_policy="Never")
    await logs.backend.create(work)
    await logs.until(work, lambda seen: ended(seen.containers[0]))
    assert await logs.log(work, **options) == text


async def test_log_of_one_stream(logs: Stage):
    logs.same("streams of a log")
    work = logs.pod(Play(prints=LINES, seconds=0), restart_policy="Never")
    await logs.backend.create(work)
    await logs.until(work, lambda seen: ended(seen.containers[0]))
    assert await logs.log(work, stream="Stdout") == "one\ntwo\nthree\n"
    assert await logs.log(work, stream="Stderr", follow=True) == ""


async def test_log_with_timestamps(logs: Stage):
    work = await logs.start(Play(prints=LINES))
    await logs.printed(work, "one\ntwo\nthree\n")
    lines = (await logs.log(work, timestamps=True)).splitlines()
    stamps = [line.split(" ")[0] for line in lines]
    assert [line.split(" ")[1] for line in lines] == list(LINES)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)
    assert stamps == sorted(stamps)
    assert stamps[0][:10] == time.strftime("%Y-%m-%d", time.gmtime())


async def test_a_followed_log_ends_with_its_container(logs: Stage):
    work = logs.pod(Play(prints=LINES, seconds=1), restart_policy="Never")
    await logs.backend.create(work)
    await logs.until(work, lambda seen: runs(seen.containers[0]) or ended(seen.containers[0]))
    assert await logs.log(work, follow=True) == "one\ntwo\nthree\n"
    seen = await logs.listed(work)
    assert seen
    assert ended(seen.containers[0])


async def test_log_of_the_previous_run(logs: Stage):
    work = logs.pod(Play(prints=("run",), seconds=0, code=1))
    await logs.backend.create(work)
    await logs.until(work, lambda seen: waits(seen.containers[0], "CrashLoopBackOff"))
    assert await logs.log(work, previous=True) == "run\n"
    assert await logs.log(work) == "run\n", "between two runs the last one counts"


async def test_log_of_an_init_container(logs: Stage):
    work = await logs.start(init=[Play(name="init", prints=("prepared",), seconds=0)])
    assert await logs.log(work, "init") == "prepared\n"


async def test_logs_that_are_not_there_say_why(logs: Stage):
    work = await logs.start()
    with pytest.raises(NotFound, match='previous terminated container "main" in pod "pod" not found'):
        await logs.log(work, previous=True)
    with pytest.raises(NotFound, match="absent"):
        await logs.log(work, "absent")


async def test_log_of_a_container_that_has_not_started(logs: Stage):
    work = logs.pod(Play(absent_image=True))
    await logs.backend.create(work)
    await logs.until(work, lambda seen: waits(seen.containers[0], "ImagePullBackOff"))
    with pytest.raises(
        Rejected, match='container "main" in pod "pod" is waiting to start: trying and failing to pull image'
    ):
        await logs.log(work)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
async def test_exec_gives_the_exit_code(stage: Stage, code):
    stage.needs("exec")
    work = await stage.start()
    assert (await stage.run(work, "sh", "-c", f"exit {code}"))[0] == code


async def test_exec_keeps_the_streams_apart(stage: Stage):
    stage.needs("exec")
    work = await stage.start()
    assert await stage.run(work, "sh", "-c", "echo out; echo err >&2") == (0, "out\n", "err\n")


async def test_exec_reads_stdin_to_its_end(stage: Stage):
    stage.needs("exec")
    work = await stage.start()
    assert await stage.run(work, "cat", stdin=b"in and out") == (0, "in and out", "")


async def test_exec_of_a_command_that_is_not_there(stage: Stage):
    stage.needs("exec")
    work = await stage.start()
    code, _, trouble = await stage.run(work, "sh", "-c", "no-such-command")
    assert code == 127
    assert "not found" in trouble


async def test_no_exec_in_what_does_not_run(stage: Stage):
    stage.needs("exec")
    work = stage.pod(Play(seconds=0), restart_policy="Never")
    await stage.backend.create(work)
    await stage.until(work, lambda seen: ended(seen.containers[0]))
    for container in ("main", "absent"):
        with pytest.raises(NotFound, match=container):
            await stage.backend.exec(work.identity, container, ["true"], stdin=False, tty=False)


async def test_exec_ends_with_its_container(stage: Stage):
    stage.needs("exec")
    work = await stage.start()
    process = await stage.backend.exec(work.identity, "main", ["sleep", "3600"], stdin=False, tty=False)
    try:
        await stage.backend.delete(work.identity, grace_seconds=0)
        assert await outputs(process) == (b"", b"")
        assert await process.wait() != 0
    finally:
        await process.close()


async def test_attach_reads_and_writes_and_lets_go(stage: Stage):
    stage.needs("attach")
    work = await stage.start(Play(echoes=True))
    process = await stage.backend.attach(work.identity, "main", stdin=True, tty=False)
    await process.write(b"hello\n")
    assert await first_output(process, 6) == b"hello\n"
    await process.close()
    seen = await stage.listed(work)
    assert seen
    assert seen.containers[0].ready


async def test_attach_ends_with_its_container(stage: Stage):
    stage.needs("attach")
    work = await stage.start(Play(seconds=4, code=4), restart_policy="Never")
    process = await stage.backend.attach(work.identity, "main", stdin=False, tty=False)
    assert await outputs(process) == (b"", b"")
    assert await process.wait() == 4
    await process.close()


async def test_no_attach_to_what_does_not_run(stage: Stage):
    stage.needs("attach")
    work = stage.pod(Play(absent_image=True))
    await stage.backend.create(work)
    await stage.until(work, lambda seen: bool(seen.ips))
    with pytest.raises(NotFound, match="main"):
        await stage.backend.attach(work.identity, "main", stdin=False, tty=False)


async def test_port_forward(stage: Stage):
    stage.needs("port-forward")
    stage.same("network")
    work = await stage.start(Play(serves=7007))
    process = await _connected(stage, work.identity, 7007)
    await process.write(b"ping")
    assert await first_output(process, 4) == b"ping"
    await process.close()
    with pytest.raises(NotFound, match="7008"):
        await stage.backend.port_forward(work.identity, 7008)


async def test_usage_is_of_what_runs(stage: Stage):
    stage.needs("metrics")
    before = time.time()
    work = stage.pod(Play(name="runs"), Play(name="ends", seconds=0), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: runs(seen.containers[0]) and ended(seen.containers[1]))
    (usage,) = await _usage(stage)
    (used,) = usage.containers
    assert usage.identity == work.identity
    assert before - 1 <= usage.sampled_at <= time.time() + 1
    assert used.name == "runs"
    assert used.started_at == seen.containers[0].state.started_at
    assert used.cpu_seconds >= 0
    assert used.memory_bytes > 0
    assert (await _usage(stage))[0].containers[0].cpu_seconds >= used.cpu_seconds


async def test_a_verb_that_is_not_listed_is_refused(stage: Stage):
    capabilities = stage.backend.capabilities
    assert capabilities.verbs <= VERBS
    work = await stage.start()
    calls = {
        "logs": lambda: stage.log(work),
        "exec": lambda: stage.backend.exec(work.identity, "main", ["true"], stdin=False, tty=False),
        "attach": lambda: stage.backend.attach(work.identity, "main", stdin=False, tty=False),
        "port-forward": lambda: stage.backend.port_forward(work.identity, 80),
        "metrics": stage.backend.usage,
        "debug": lambda: stage.backend.add_ephemeral(work.identity, work.containers),
    }
    words = {"debug": "containers"}  # kubectl's verb; the refusal speaks of what it would add
    for verb in VERBS - capabilities.verbs:
        with pytest.raises(Unsupported, match=words.get(verb, verb)):
            await calls[verb]()


PROBE = Probe(ExecAction(("true",)))


@pytest.mark.parametrize(
    ("path", "container", "volumes"),
    [
        ("containers[].livenessProbe.exec.command", {"liveness": PROBE}, {}),
        ("containers[].readinessProbe.exec.command", {"readiness": PROBE}, {}),
        ("containers[].lifecycle.preStop.exec.command", {"pre_stop": ExecAction(("true",))}, {}),
        ("containers[].lifecycle.postStart.exec.command", {"post_start": ExecAction(("true",))}, {}),
        ("containers[].ports[].hostPort", {"ports": (Port(80, host_port=80),)}, {}),
        ("containers[].resources.limits[nvidia.com/gpu]", {"resources": Resources(gpus=1)}, {}),
        ("volumes[].nfs.server", {}, {"share": Nfs("192.0.2.1", "/")}),
    ],
)
async def test_what_cannot_be_honoured_is_refused_before_anything_is_made(
    stage: Stage, path, container, volumes
):
    fields = stage.backend.capabilities.pod_fields
    if path in fields or any(f.endswith(".*") and path.startswith(f[:-1]) for f in fields):
        pytest.skip(f"the backend honours {path}")
    work = stage.pod(Play(fields=container), volumes=volumes)
    with pytest.raises(Unsupported) as refused:
        await stage.backend.create(work)
    assert refused.value.fields
    assert await stage.backend.list() == []


async def _connected(stage: Stage, identity, port):
    """A server may need a moment after its container has started."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await stage.backend.port_forward(identity, port)
            except NotFound:
                await asyncio.sleep(0.05)


async def _usage(stage: Stage):
    """Samples may come a moment after the container."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if usage := await stage.backend.usage():
                return usage
            await asyncio.sleep(0.05)
