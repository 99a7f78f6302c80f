"""The simulated cloud on a fake clock: bursts, luck, faults, room, output and usage."""

import asyncio
import time
from contextlib import aclosing

import pytest

from overspill.backends.base import LogOptions
from overspill.backends.simulated.backend import SimulatedBackend
from overspill.backends.simulated.cloud import Cloud
from overspill.backends.simulated.options import load_options
from overspill.backends.simulated.script import PREFIX
from overspill.errors import Misconfigured, Retry
from overspill.model.observation import Gone, Running
from overspill.model.work import Container, Identity, Resources, WorkSpec

pytestmark = pytest.mark.looptime

EPOCH = 1_800_000_000.0


def backend_of(**options):
    loaded = load_options(options)
    loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    cloud = Cloud(loaded, cidr=loaded.cidr or "10.0.0.0/16", clock=lambda: EPOCH + loop.time() - began)
    return SimulatedBackend(cluster="c", node="n", options={}, cloud=cloud)


def pod(number=0, *, resources=None, **annotations):
    return WorkSpec(
        identity=Identity("c", "n", "ns", f"pod-{number}", f"uid-{number}"),
        containers=(Container("web", "image", resources=resources or Resources()),),
        hostname=f"pod-{number}",
        annotations={PREFIX + key.replace("_", "-"): value for key, value in annotations.items()},
    )


def running(seen):
    return isinstance(seen.containers[0].state, Running)


async def history(backend, seconds):
    """Everything that is seen within a time."""
    seen = []
    async with aclosing(backend.watch()) as batches:
        try:
            async with asyncio.timeout(seconds):
                async for batch in batches:
                    seen += batch
        except TimeoutError:
            return seen


async def test_a_pods_times_are_the_machines_where_the_loops_clock_has_gone_another_way():
    # As after a machine slept: its clock went on, and that of event loops stood still.
    async with SimulatedBackend(cluster="c", node="n", options={"cidr": "10.0.0.0/16"}) as backend:
        await asyncio.sleep(3600)
        before = time.time()
        await backend.create(pod())
        (seen,) = await backend.list()
        assert before <= seen.started_at <= time.time()


async def test_a_burst_is_one_batch():
    async with backend_of() as backend:
        batches = backend.watch()
        for number in range(500):
            await backend.create(pod(number))
        assert len(await anext(batches)) == 500
        for number in range(500):
            await backend.delete(pod(number).identity, grace_seconds=30)
        assert len(await anext(batches)) == 500


async def test_pods_that_start_together_are_one_batch():
    async with backend_of(start_seconds="3") as backend:
        for number in range(500):
            await backend.create(pod(number))
        batches = backend.watch()
        assert len(await anext(batches)) == 500
        assert all(map(running, await backend.list()))


async def test_of_one_pod_only_the_newest_sighting_waits():
    async with backend_of() as backend:
        batches = backend.watch()
        await backend.create(pod())
        await backend.delete(pod().identity, grace_seconds=30)
        (gone,) = await anext(batches)
        assert isinstance(gone, Gone)


async def test_an_abandoned_watch_costs_nothing():
    async with backend_of() as backend:
        for _ in range(3):
            async with aclosing(backend.watch()):
                pass
        await backend.create(pod())
        assert all(not feeds for feeds in backend._cloud._feeds.values())


async def story(seed):
    """What happens to 50 pods of some luck, with times; the same work in the same clock."""
    options = {"crash_rate": 0.3, "pull_failure_rate": 0.2, "start_seconds": "uniform(1,20)", "seed": seed}
    async with backend_of(**options) as backend, asyncio.TaskGroup() as tasks:
        told = tasks.create_task(history(backend, 100))
        await asyncio.sleep(0)
        for number in range(50):
            await backend.create(pod(number))
    return told.result()


async def test_the_same_seed_tells_the_same_story():
    one, again, another = await story(1), await story(1), await story(2)
    assert len(one) > 100
    assert one == again
    assert one != another


async def test_addresses_come_back_when_pods_are_gone():
    async with backend_of(cidr="10.0.0.0/30") as backend:
        for number in range(3):
            await backend.create(pod(number, stop_seconds="5"))
        third = (await backend.list())[2]
        assert third.ips == ()
        assert "no address" in third.message
        await backend.delete(pod(0).identity, grace_seconds=30)
        await asyncio.sleep(4)
        assert (await backend.list())[2].ips == (), "a stopping pod still has its address"
        await asyncio.sleep(7)
        assert [seen.ips for seen in await backend.list()] == [("10.0.0.2",), ("10.0.0.1",)]


async def test_a_pod_waits_for_stock():
    async with backend_of(stock=2) as backend:
        for number in range(3):
            await backend.create(pod(number))
        assert [seen.provisioned for seen in await backend.list()] == [True, True, False]
        assert (await backend.list())[2].reason == "NoStock"
        await backend.delete(pod(1).identity, grace_seconds=30)
        await asyncio.sleep(11)
        first, second = await backend.list()
        assert (first.provisioned, second.provisioned) == (True, True)
        assert running(second)


async def test_a_pod_that_waited_for_stock_takes_none_with_it():
    async with backend_of(stock=1) as backend:
        for number in range(2):
            await backend.create(pod(number))
        await backend.delete(pod(1).identity, grace_seconds=30)
        await backend.create(pod(2))
        assert [seen.provisioned for seen in await backend.list()] == [True, False]


async def test_a_lost_reply_is_no_lost_pod():
    async with backend_of() as backend:
        for _ in range(2):
            with pytest.raises(Retry, match="reply"):
                await backend.create(pod(lost_replies="2"))
            assert len(await backend.list()) == 1
        await backend.create(pod(lost_replies="2"))
        assert len(await backend.list()) == 1


async def test_an_outage_comes_and_goes_while_pods_live_on():
    async with backend_of(outage_after=60, outage_seconds=30) as backend:
        await backend.create(pod(run_seconds="70"))
        with pytest.raises(Retry, match="outage"):
            await history(backend, 100)
        for call in (backend.health(), backend.list(), backend.create(pod(1)), backend.usage()):
            with pytest.raises(Retry, match="outage"):
                await call
        with pytest.raises(Retry):
            backend.watch()
        await asyncio.sleep(31)
        await backend.health()
        (seen,) = await backend.list()
        assert seen.containers[0].restarts == 1, "it restarted while nobody could see it"


async def test_many_deadlines_leave_no_timers_behind():
    async with backend_of() as backend:
        for number in range(1000):
            await backend.create(pod(number, run_seconds="86400"))
            await backend.delete(pod(number).identity, grace_seconds=30)
        assert len(backend._cloud._timers._heap) < 100


async def test_output_comes_line_by_line_and_ends_with_the_run():
    async with backend_of(log_seconds=10) as backend:
        await backend.create(pod(output="hello", run_seconds="35"))
        identity = pod().identity
        pieces = backend.logs(identity, "web", LogOptions(follow=True))
        loop = asyncio.get_running_loop()
        began = loop.time()
        came = [(round(loop.time() - began), piece.decode()) async for piece in pieces]
        assert came == [
            (0, "hello\n"),
            (10, "ns/pod-0 web: line 1\n"),
            (20, "ns/pod-0 web: line 2\n"),
            (30, "ns/pod-0 web: line 3\n"),
        ]
        assert round(loop.time() - began) == 35, "the log ends when the run does, not with its last line"
        since = [
            piece
            async for piece in backend.logs(identity, "web", LogOptions(previous=True, since_time=EPOCH + 15))
        ]
        assert since == [b"ns/pod-0 web: line 2\n", b"ns/pod-0 web: line 3\n"]


async def test_cpu_seconds_never_fall_and_keep_to_the_request():
    async with backend_of() as backend:
        resources = Resources(cpu_request=1.0, memory_request=100 << 20, memory_limit=110 << 20)
        await backend.create(pod(resources=resources))
        samples = []
        for _ in range(100):
            await asyncio.sleep(60)
            ((used,),) = [usage.containers for usage in await backend.usage()]
            samples.append(used)
        cpu = [used.cpu_seconds for used in samples]
        assert cpu == sorted(cpu)
        assert cpu[-1] / 6000 == pytest.approx(0.5, rel=0.05)
        assert all(40 << 20 < used.memory_bytes <= 110 << 20 for used in samples)


async def test_usage_can_be_said():
    async with backend_of() as backend:
        await backend.create(pod(cpu="2", memory="1Gi"))
        await asyncio.sleep(600)
        ((used,),) = [usage.containers for usage in await backend.usage()]
        assert used.cpu_seconds == pytest.approx(1200, rel=0.01)
        assert used.memory_bytes == pytest.approx(1 << 30, rel=0.05)


async def test_a_range_without_addresses_is_a_setting_to_mend():
    with pytest.raises(Misconfigured, match="cidr"):
        SimulatedBackend(cluster="c", node="n", options={"cidr": "nowhere"})


async def test_a_shell_waits_for_no_end_of_a_line_that_is_too_long():
    backend = backend_of(start_seconds="0")
    async with backend:
        await backend.create(pod())
        await history(backend, 1)
        shell = await backend.exec(pod().identity, "web", ["sh"], stdin=True, tty=False)
        for _ in range(5):
            await shell.write(b"x" * (16 << 10))
        assert [piece async for piece in shell.output()] == [(2, b"sh: line too long\n")]
        assert await shell.wait() == 2
        await shell.close()
