"""How often ECI is asked for figures, for how many groups at once, and what is made of the answers."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from overspill.backends.eci.answers import ContainerRecord, Cpu, Memory, MetricAnswer, MonitorData, Record
from overspill.backends.eci.groups import Tracked
from overspill.backends.eci.status import Group
from overspill.backends.eci.usage import CADENCE, IDS_PER_CALL, WANTED_SECONDS, Usage
from overspill.errors import Retry
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated
from overspill.model.work import Identity

pytestmark = pytest.mark.looptime
STARTED = 1_700_000_000.0


def group(number, status="Running", started=STARTED):
    identity = Identity("cluster", "node", "shop", f"web-{number}", f"uid-{number}")
    known = Group(
        id=f"eci-{number}",
        identity=identity,
        containers=(("app", "image"),),
        init_containers=(),
        restart_policy="Always",
        created_at=STARTED,
    )
    containers = (ContainerObservation("app", Running(started), "image"),)
    beside = (
        ContainerObservation("prepare", Terminated(0, "Completed", started, started), "image"),
        ContainerObservation("proxy", Running(started), "image", sidecar=True),
    )
    seen = Observation(identity, STARTED, containers, init_containers=beside)
    return Tracked(known, seen, 0.0, SimpleNamespace(status=status))


class Service:
    """ECI's side: counts calls, answers with a sample of each group."""

    def __init__(self, rate=500 / 60):
        self.rates = {"metrics": SimpleNamespace(rate=rate)}
        self.calls = []
        self.away = False

    async def call(self, action, asked, kind):
        assert (action, kind) == ("DescribeMultiContainerGroupMetric", MetricAnswer)
        ids = json.loads(asked["ContainerGroupIds"])
        self.calls.append(len(ids))
        await asyncio.sleep(0.05)
        if self.away:
            raise Retry("a test cut it off")
        return MetricAnswer(monitor_datas=tuple(MonitorData(each, (record(),)) for each in ids))


def record():
    used = Cpu(usage_core_nano_seconds=1_500_000_000), Memory(working_set=4096)
    return Record("2023-11-14T22:14:20Z", (ContainerRecord("app", *used), ContainerRecord("proxy", *used)))


async def running(usage, seconds):
    """Let it sample for a while."""
    task = asyncio.create_task(usage.run())
    await asyncio.sleep(seconds)
    return task


async def test_nobody_asks_nothing_is_called():
    service = Service()
    task = await running(Usage(service, [group(1)]), 3600)
    task.cancel()
    assert service.calls == []


async def test_at_most_twenty_groups_a_call():
    service = Service()
    usage = Usage(service, [group(number) for number in range(45)], clock=asyncio.get_running_loop().time)
    assert usage.latest() == []
    task = await running(usage, CADENCE / 2)
    task.cancel()
    assert service.calls == [20, 20, 5]
    assert max(service.calls) <= IDS_PER_CALL
    (first, *others) = usage.latest()
    assert len(others) == 44
    assert first.sampled_at == STARTED + 60
    container, _ = first.containers
    assert (container.cpu_seconds, container.memory_bytes, container.started_at) == (1.5, 4096, STARTED)


async def test_it_stops_when_nobody_has_asked_for_a_while():
    service = Service()
    usage = Usage(service, [group(1)], clock=asyncio.get_running_loop().time)
    usage.latest()
    task = await running(usage, 2 * WANTED_SECONDS)
    assert len(service.calls) == pytest.approx(WANTED_SECONDS / CADENCE, abs=2)
    told = len(service.calls)
    usage.latest()
    await asyncio.sleep(1)
    assert len(service.calls) == told + 1
    task.cancel()


async def test_a_full_account_is_sampled_as_seldom_as_the_budget_asks():
    service = Service(rate=1.0)
    usage = Usage(service, [group(number) for number in range(1000)], clock=asyncio.get_running_loop().time)
    usage.latest()
    task = await running(usage, 200)
    task.cancel()
    assert len(service.calls) / 200 <= 1.0


async def test_what_does_not_run_is_not_asked_for():
    service = Service()
    usage = Usage(service, [group(1, "Pending"), group(2)], clock=asyncio.get_running_loop().time)
    usage.latest()
    task = await running(usage, 1)
    task.cancel()
    assert service.calls == [1]
    assert [each.identity.name for each in usage.latest()] == ["web-2"]


async def test_sidecars_that_run_are_counted():
    usage = Usage(Service(), [group(1)], clock=asyncio.get_running_loop().time)
    usage.latest()
    task = await running(usage, 1)
    task.cancel()
    (sample,) = usage.latest()
    assert [each.name for each in sample.containers] == ["app", "proxy"]


async def test_a_container_that_began_after_the_sample_is_not_taken_for_the_one_before_it():
    service = Service()
    usage = Usage(service, [group(1, started=STARTED + 70)], clock=asyncio.get_running_loop().time)
    usage.latest()
    task = await running(usage, 1)
    task.cancel()
    (sample,) = usage.latest()
    assert sample.containers == ()


async def test_samples_outlive_an_outage_with_their_times():
    service = Service()
    usage = Usage(service, [group(1)], clock=asyncio.get_running_loop().time)
    usage.latest()
    task = await running(usage, 1)
    before = usage.latest()
    service.away = True
    await asyncio.sleep(10 * CADENCE)
    task.cancel()
    assert len(service.calls) > 5
    assert usage.latest() == before
