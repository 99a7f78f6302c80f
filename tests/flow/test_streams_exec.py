"""exec and attach over SPDY, against processes of this machine."""

import asyncio
import hashlib
import json
import random

import pytest
from stream_client import V1, V2, V3, V4, Exec, Refused, SpdyClient, exec_target, run
from stream_node import Node, Subprocess, until

from overspill.errors import NotFound, Rejected, Retry
from overspill.serve.request import Request
from overspill.serve.streams import Limits, Wanted, wanted

MIB = 1 << 20


@pytest.fixture
async def node():
    async with Node() as made:
        yield made


async def test_streams_are_kept_apart_and_success_is_said(node):
    out, err, outcome = await run(node, "sh", "-c", "echo out; echo err >&2")
    assert (out, err) == (b"out\n", b"err\n")
    assert outcome == {"metadata": {}, "status": "Success"}
    assert await node.end() is None


@pytest.mark.parametrize("code", [1, 7, 137, 255])
async def test_exit_codes(node, code):
    _, _, outcome = await run(node, "sh", "-c", f"exit {code}")
    assert outcome["status"] == "Failure"
    assert outcome["reason"] == "NonZeroExitCode"
    assert outcome["details"] == {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    assert outcome["message"] == f"command terminated with non-zero exit code: exit status {code}"


async def test_death_by_a_signal_is_128_plus_its_number(node):
    _, _, outcome = await run(node, "sh", "-c", "kill -9 $$")
    assert outcome["details"]["causes"][0]["message"] == "137"


async def test_stdin_is_read_to_its_end(node):
    assert (await run(node, "wc", "-c", stdin=b"x" * 100_000))[0].strip() == b"100000"


async def test_empty_stdin_ends_too(node):
    assert (await run(node, "cat", stdin=b""))[0] == b""


async def test_what_was_not_asked_for_is_not_sent(node):
    out, err, outcome = await run(node, "sh", "-c", "echo out; echo err >&2", stderr=False)
    assert (out, err, outcome["status"]) == (b"out\n", b"", "Success")


async def test_64_mib_both_ways(node):
    data = random.Random(5).randbytes(64 * MIB)
    session = await Exec.begin(node, "cat", stdin=True)

    async def type_in():
        await session.stdin.write(data)
        await session.stdin.close()

    typing = asyncio.ensure_future(type_in())
    out, _, outcome = await session.result()
    await typing
    assert outcome["status"] == "Success"
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


async def test_ping_is_answered_while_the_command_runs_and_after(node):
    session = await Exec.begin(node, "cat", stdin=True)
    await session.client.ping()
    await session.stdin.close()
    assert json.loads(await session.error.read_all())["status"] == "Success"
    await session.client.ping()
    assert not node.ended.qsize(), "the client leaves first, or the end of its output is at risk"
    await session.client.close()
    assert await node.end() is None


async def test_terminal_sizes(node):
    session = await Exec.begin(node, "cat", stdin=True, tty=True)
    await session.resize.write(b'{"Width":81,"Height":25}\n{"Wid')
    await session.resize.write(b'th":80,"Height":24}\n')
    await until(lambda: node.processes and node.processes[0].resizes == [(81, 25), (80, 24)])
    await session.stdin.close()
    assert (await session.result())[2]["status"] == "Success"


async def test_what_is_no_size_does_not_end_the_session(node):
    session = await Exec.begin(node, "cat", stdin=True, tty=True)
    await session.resize.write(b'{"Width":"wide"}')
    await session.stdin.write(b"still here")
    await session.stdin.close()
    assert (await session.result())[0] == b"still here"


@pytest.mark.parametrize("error", [NotFound, Rejected, Retry, ConnectionError])
async def test_a_process_that_cannot_start_says_why(error):
    async def start(*_):
        raise error("no container main in pod web")

    async with Node(start=start) as node:
        out, err, outcome = await run(node, "true")
    assert (out, err) == (b"", b"")
    assert outcome == {
        "metadata": {},
        "status": "Failure",
        "reason": "InternalError",
        "code": 500,
        "message": "Internal error occurred: error executing command in container: no container main in pod web",
    }


async def test_a_defect_of_ours_is_no_success():
    async def start(*_):
        raise ZeroDivisionError

    async with Node(start=start) as node:
        outcome = (await run(node, "true"))[2]
        assert outcome["status"] == "Failure"
        assert "defect" in outcome["message"]
        assert await node.end() is None


async def test_attach_tells_no_exit_code(node):
    assert (await run(node, "sh", "-c", "exit 5", verb="attach"))[2]["status"] == "Success"


async def test_the_process_starts_when_all_streams_are_there(node):
    client = await SpdyClient.connect(node, exec_target("true", stderr=False), V4)
    error = await client.begin(streamtype="error")
    await client.ping()
    assert not node.processes
    await client.begin(streamtype="stdout")
    assert json.loads(await error.read_all())["status"] == "Success"
    await client.close()


async def test_streams_that_do_not_come(node):
    node.limits = Limits(creation=0.05)
    client = await SpdyClient.connect(node, exec_target("true", stdin=True), V4)
    error = await client.begin(streamtype="error")
    outcome = json.loads(await error.read_all())
    assert outcome["message"].endswith(
        "timed out waiting for client to create streams: stderr, stdin, stdout"
    )
    assert not node.processes
    await client.close()


@pytest.mark.parametrize("kind", ["error", "banana", ""])
async def test_streams_that_should_not_come_are_refused(node, kind):
    client = await SpdyClient.connect(node, exec_target("true"), V4)
    await client.begin(streamtype="error")
    with pytest.raises(ConnectionResetError):
        await client.begin(streamtype=kind)
    await client.ping()
    await client.close()


@pytest.mark.parametrize("protocol", [V3, V2, V1])
async def test_old_protocols_fail_in_plain_text(node, protocol):
    out, _, outcome = await run(node, "sh", "-c", "echo out; exit 3", protocols=[protocol])
    assert out == b"out\n"
    assert outcome == "command terminated with non-zero exit code: exit status 3"


@pytest.mark.parametrize("protocol", [V3, V2, V1])
async def test_old_protocols_are_silent_about_success(node, protocol):
    assert await run(node, "echo", "out", protocols=[protocol]) == (b"out\n", b"", "")


@pytest.mark.parametrize("protocol", [V2, V1])
async def test_terminals_of_old_protocols_have_no_sizes(node, protocol):
    assert await run(node, "echo", "out", protocols=[protocol], tty=True) == (b"out\n", b"", "")


async def test_version_1_ends_the_clients_stdin_at_once(node):
    session = await Exec.begin(node, "cat", stdin=True, protocols=[V1])
    assert await session.stdin.read() == b""
    await session.stdin.write(b"typed")
    await session.stdin.close()
    assert (await session.result())[0] == b"typed"


async def test_the_best_protocol_of_the_client_is_taken(node):
    for offered, taken in (((V3, V4), V3), ((f"{V2}, {V4}",), V2), (("unknown", V4), V4)):
        client = await SpdyClient.connect(node, exec_target("true"), *offered)
        assert f"X-Stream-Protocol-Version: {taken}\r\n" in client.answer
        await client.close()


async def test_no_common_protocol(node):
    with pytest.raises(Refused) as refused:
        await SpdyClient.connect(node, exec_target("true"), "v9.channel.k8s.io")
    answer, text = refused.value.args
    assert answer.startswith("HTTP/1.1 403 Forbidden\r\n")
    assert f"X-Accepted-Stream-Protocol-Versions: {V4}\r\n" in answer
    assert "client supports [v9.channel.k8s.io], server accepts [v4.channel.k8s.io" in text
    assert await node.end() is None


async def test_no_protocol_at_all(node):
    with pytest.raises(Refused, match="400 Bad Request") as refused:
        await SpdyClient.connect(node, exec_target("true"))
    assert "X-Stream-Protocol-Version" in refused.value.args[1]


async def test_fifty_at_once(node):
    async def one(number):
        return (await run(node, "sh", "-c", f"cat; exit {number}", stdin=b"%d" % number))[::2]

    for number, (out, outcome) in enumerate(await asyncio.gather(*(one(number) for number in range(50)))):
        assert out == b"%d" % number
        assert outcome["status"] == ("Failure" if number else "Success")


@pytest.mark.parametrize("way", ["kill", "close"])
async def test_the_process_goes_with_its_client(node, way):
    before = asyncio.all_tasks()
    session = await Exec.begin(node, "cat", stdin=True)
    await session.stdin.write(b"x")
    assert await session.stdout.read() == b"x"
    await getattr(session.client, way)()
    assert await node.end() is None
    assert node.processes[0].closed
    assert node.processes[0].inner.returncode is not None
    await until(lambda: asyncio.all_tasks() <= before)


async def test_a_client_killed_under_a_flood(node):
    session = await Exec.begin(node, "yes")
    await session.stdout.read()
    await session.client.kill()
    assert await node.end() is None
    assert node.processes[0].closed


async def test_a_stopping_agent_tells_its_clients(node):
    session = await Exec.begin(node, "cat", stdin=True)
    await session.stdin.write(b"x")
    await session.stdout.read()
    next(iter(node.handlers)).cancel()
    outcome = json.loads(await session.error.read_all())
    assert outcome["status"] == "Failure", "an empty error stream would read as success"
    assert "stopping" in outcome["message"]
    assert isinstance(await node.end(), asyncio.CancelledError)
    assert node.processes[0].closed
    await session.client.gone.wait()
    assert session.client.goaway is not None
    await session.client.kill()


async def test_an_idle_session_ends_and_says_so(node):
    node.limits = Limits(idle=1.5)
    session = await Exec.begin(node, "cat", stdin=True)
    outcome = json.loads(await session.error.read_all())
    assert "nothing was sent or received for 1.5 seconds" in outcome["message"]
    assert await node.end() is None
    assert node.processes[0].closed
    await session.client.kill()


async def test_output_is_activity(node):
    node.limits = Limits(idle=1.0)
    script = "for i in 1 2 3 4 5 6 7; do sleep 0.2; echo $i; done"
    assert (await run(node, "sh", "-c", script))[0].split() == [b"%d" % i for i in range(1, 8)]


class Still:
    """A process that says nothing and reads stdin when it is let."""

    def __init__(self):
        self.may_read = asyncio.Event()
        self.ended = asyncio.Event()
        self.read = 0
        self.pending = lambda: 0
        self.most_pending = 0

    async def write(self, data):
        await self.may_read.wait()
        self.most_pending = max(self.most_pending, self.pending())
        self.read += len(data)

    async def close_stdin(self):
        self.ended.set()

    async def output(self):
        await self.ended.wait()
        yield 1, b"%d" % self.read

    async def resize(self, **_):
        raise AssertionError

    async def wait(self):
        return 0

    async def close(self):
        self.closed = True


async def test_stdin_that_is_not_read_is_held_back():
    process = Still()

    async def start(*_):
        return process

    async with Node(start=start) as node:
        session = await Exec.begin(node, "x", stdin=True, buffers=64 << 10)
        process.pending = lambda: session.client.sent - process.read
        await session.stdin.write(b"x" * MIB)
        await session.client.ping()  # a mebibyte does not yet stop the reading

        async def type_in():
            await session.stdin.write(b"x" * (31 * MIB))
            await session.stdin.close()

        typing = asyncio.ensure_future(type_in())
        await until(lambda: session.client.sent > MIB + 256 * 1024)
        process.may_read.set()
        assert (await session.result())[0] == b"%d" % (32 * MIB)
        await typing
    assert process.most_pending < 8 * MIB


async def test_a_slow_reader_holds_the_process_back(node):
    session = await Exec.begin(node, "sh", "-c", "head -c 33554432 /dev/zero", buffers=64 << 10)
    session.client.reading.clear()
    most = total = 0
    while not session.stdout.ended.is_set() or not session.stdout._pieces.empty():
        session.client.reading.set()
        total += len(await session.stdout.read())
        session.client.reading.clear()
        most = max(most, node.processes[0].yielded - session.client.received)
    session.client.reading.set()
    assert total == 32 * MIB
    assert most < 8 * MIB
    assert json.loads(await session.error.read_all())["status"] == "Success"
    await session.client.close()


async def test_the_end_of_the_output_waits_for_a_slow_reader(node):
    """The process is over and its outcome said before the client has read a byte."""
    session = await Exec.begin(node, "sh", "-c", "head -c 1000000 /dev/zero; echo end")
    session.client.reading.clear()
    await until(lambda: node.processes and node.processes[0].closed)
    session.client.reading.set()
    out, _, outcome = await session.result()
    assert len(out) == 1_000_004
    assert out.endswith(b"end\n")
    assert outcome["status"] == "Success"


async def test_stdin_after_the_end_stops_nobody(node):
    session = await Exec.begin(node, "true", stdin=True)
    await session.stdin.write(b"x" * (4 * MIB))
    assert (await session.result())[2]["status"] == "Success"
    assert await node.end() is None


async def test_a_reset_stdin_is_its_end(node):
    session = await Exec.begin(node, "sh", "-c", "cat >/dev/null; echo over", stdin=True)
    await session.stdin.reset()
    assert (await session.result())[0] == b"over\n"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            {"input": ["1"], "output": ["1"], "error": ["1"]},
            Wanted(stdin=True, stdout=True, stderr=True, tty=False),
        ),
        (
            {"output": ["1"], "error": ["1"], "tty": ["1"]},
            Wanted(stdin=False, stdout=True, stderr=False, tty=True),
        ),
        ({"output": ["true"], "error": ["1"]}, Wanted(stdin=False, stdout=False, stderr=True, tty=False)),
    ],
)
def test_wanted(query, expected):
    assert wanted(Request("POST", "/exec/ns/web/main", query)) == expected


@pytest.mark.parametrize("query", [{}, {"tty": ["1"], "error": ["1"]}, {"output": ["0"]}])
def test_wanting_nothing_is_refused(query):
    with pytest.raises(Rejected, match="you must specify at least 1 of stdin, stdout, stderr"):
        wanted(Request("POST", "/exec/ns/web/main", query))


def test_processes_are_what_the_contract_says():
    assert {"write", "close_stdin", "output", "resize", "wait", "close"} <= set(dir(Subprocess))
