"""Streams that are many, long or slow, through a real apiserver, and what they leave in the agent."""

import asyncio
import hashlib
import subprocess
import time

import pytest
from kubectl_world import MIB, SPACE, forwarded, gauge, pod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MEMORY, DESCRIPTORS = "process_resident_memory_bytes", "process_open_fds"
LISTENS = {"tcpSocket": {"port": 7000}, "periodSeconds": 1}
ECHO = pod("echo", "nc", "-ll", "-p", "7000", "-e", "cat", readinessProbe=LISTENS)


def ready(streaming, *pods):
    """Have pods running."""
    streaming.apply(*pods)
    for each in pods:
        name = each["metadata"]["name"]
        streaming.kubectl("-n", SPACE, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=90s")


# --- port-forward ---


async def echoed(port, number, data):
    """What comes back over connections that are all open at the same time, after all have sent."""
    everybody = asyncio.Barrier(number)
    few = asyncio.Semaphore(4)  # the pod's server has room for few that wait to be accepted

    async def one(which):
        async with few:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"!")
            await reader.readexactly(1)
        await everybody.wait()
        sent = b"%d:%b" % (which, data)
        writer.write(sent)
        await writer.drain()
        got = await reader.readexactly(len(sent))
        await everybody.wait()
        writer.close()
        await writer.wait_closed()
        return got == sent

    async with asyncio.timeout(180), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(which)) for which in range(number)]
    return [task.result() for task in tasks]


def test_two_hundred_forwarded_connections(kubectl, streaming, until):
    ready(streaming, ECHO)
    before = gauge(kubectl, DESCRIPTORS)
    with forwarded(kubectl, "echo", 7000) as port:
        assert all(asyncio.run(echoed(port, 200, b"x" * 1000)))
        until(lambda: gauge(kubectl, DESCRIPTORS) <= before + 4, what="connections closed in the agent")
    until(lambda: gauge(kubectl, DESCRIPTORS) <= before + 1, what="no descriptor left")


def test_sixty_four_mebibytes_each_way_through_a_forwarded_port(kubectl, streaming):
    ready(streaming, ECHO)
    pieces = [hashlib.sha256(b"%d" % number).digest() * 2048 for number in range(1024)]  # of 64 KiB each

    async def there_and_back(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send():
            for piece in pieces:
                writer.write(piece)
                await writer.drain()

        got = hashlib.sha256()
        async with asyncio.timeout(180), asyncio.TaskGroup() as group:
            group.create_task(send())
            for _ in pieces:
                got.update(await reader.readexactly(64 << 10))
        writer.close()
        return got.hexdigest()

    with forwarded(kubectl, "echo", 7000) as port:
        assert asyncio.run(there_and_back(port)) == hashlib.sha256(b"".join(pieces)).hexdigest()


# --- slow readers ---


def test_a_slow_reader_is_waited_for_and_costs_no_memory(kubectl):
    """At 1 MiB/s for a while, with a container that could give hundreds of them."""
    size = 192 * MIB
    script = f"head -c {size} /dev/zero"
    kubectl.run("exec", "speaker", "--", "true")  # what streams need is loaded once
    before = gauge(kubectl, MEMORY)
    most = 0.0
    read = 0
    with kubectl.started("exec", "speaker", "--", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        for second in range(8):
            read += len(process.stdout.read(MIB))
            time.sleep(1)  # the pace of the reader, not a wait
            if second % 2:
                most = max(most, gauge(kubectl, MEMORY))
        while piece := process.stdout.read(MIB):
            read += len(piece)
        assert process.wait(60) == 0
    assert read == size, "nothing of the end is lost"
    assert most - before < 16 * MIB


# --- logs ---

# Lines of 100 bytes, numbered, once somebody says go.
LINES = (
    "while ! test -e /tmp/go; do sleep 0.1; done; seq -w 1 {count} | sed 's/$/ {rest}/'; exec sleep 100000"
)


def numbered(first, last, *, digits, rest):
    return b"".join(b"%0*d %b\n" % (digits, number, rest) for number in range(first, last + 1))


def test_a_log_of_five_megabytes(plain, streaming, until):
    count, rest = 50_000, b"." * 93
    ready(streaming, pod("wordy", "sh", "-c", LINES.format(count=count, rest=rest.decode())))
    plain.said("exec", "wordy", "--", "touch", "/tmp/go")
    last = numbered(count, count, digits=5, rest=rest)
    until(lambda: plain.run("logs", "wordy", "--tail=1").stdout == last, what="the last line")
    whole = numbered(1, count, digits=5, rest=rest)
    assert len(whole) == 5_000_000
    assert plain.run("logs", "wordy").stdout == whole
    for tail in (3, 2000, 2001, 49_999, count, count + 1):
        assert plain.run("logs", "wordy", f"--tail={tail}").stdout == whole[-100 * tail :]
    assert plain.run("logs", "wordy", "--limit-bytes=4999999").stdout == whole[:-1]


def test_a_followed_log_goes_on_when_its_file_is_cut(plain, streaming, until):
    """Podman keeps 50 MB of a container's output, and begins anew when there are more."""
    count, rest = 60_000, b"." * 993
    ready(streaming, pod("prolix", "sh", "-c", LINES.format(count=count, rest=rest.decode())))
    with plain.started("logs", "-f", "prolix", stdout=subprocess.PIPE) as process:
        plain.said("exec", "prolix", "--", "touch", "/tmp/go")
        for number in range(1, count + 1):
            assert process.stdout.readline() == b"%05d %b\n" % (number, rest)
    kept = plain.run("logs", "prolix").stdout.splitlines()
    assert 0 < len(kept) < count, "the file was cut"
    assert kept[-1] == b"%05d %b" % (count, rest)
    assert plain.run("logs", "prolix", "--tail=2").stdout.splitlines() == kept[-2:]
    plain.said("delete", "pod", "prolix", "wordy", "--grace-period=1", "--wait=false")
