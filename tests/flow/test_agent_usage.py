"""Figures of a node, sampled on demand from a real (simulated) backend."""

import asyncio
import json
from contextlib import aclosing

import pytest

from overspill.agent.usage import FRESH_SECONDS, Usage
from overspill.backends.simulated.backend import SimulatedBackend
from overspill.model.work import Container, Identity, WorkSpec

WHO = Identity("cluster", "node", "shop", "web", "uid")


class Counting(SimulatedBackend):
    """A simulated backend that counts what it is asked."""

    asked = 0

    async def usage(self):
        self.asked += 1
        await asyncio.sleep(0.01)
        return await super().usage()


class Clock:
    """Moved by the test."""

    now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
async def backend():
    async with Counting(cluster="cluster", node="node", options={}) as backend:
        work = WorkSpec(identity=WHO, hostname="web", containers=(Container("app", "image"),))
        async with asyncio.timeout(10), aclosing(backend.watch()) as batches:
            await backend.create(work)
            async for _ in batches:
                if await SimulatedBackend.usage(backend):
                    break
        yield backend


def usage_of(backend, clock):
    return Usage(backend, node_name="node", memory_bytes=1 << 30, clock=clock)


async def test_nothing_is_sampled_until_somebody_asks(backend):
    usage_of(backend, Clock())
    await asyncio.sleep(0)
    assert backend.asked == 0


async def test_who_asks_at_once_shares_one_sample(backend):
    clock = Clock()
    usage = usage_of(backend, clock)
    first, second, *_ = await asyncio.gather(*(usage.resource_metrics() for _ in range(10)))
    assert first == second
    assert backend.asked == 1
    clock.now += FRESH_SECONDS
    await usage.summary()
    assert backend.asked == 2


async def test_both_texts_are_of_the_same_sample(backend):
    usage = usage_of(backend, Clock())
    text = (await usage.resource_metrics()).decode()
    told = json.loads(await usage.summary())
    assert 'container_cpu_usage_seconds_total{container="app",namespace="shop",pod="web"}' in text
    (pod,) = told["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "shop", "uid": "uid"}
    memory = pod["memory"]["workingSetBytes"]
    assert f'pod_memory_working_set_bytes{{namespace="shop",pod="web"}} {memory} ' in text


async def test_an_outage_leaves_the_last_figures_with_their_time(backend):
    clock = Clock()
    usage = usage_of(backend, clock)
    before = await usage.latest()
    backend._cloud.fail("a test cut it off")
    clock.now += FRESH_SECONDS
    after = await usage.latest()
    assert (after.pods, after.sampled_at, after.failed) == (before.pods, before.sampled_at, True)
    assert b"resource_scrape_error 1" in await usage.resource_metrics()
    backend._cloud.heal()
    clock.now += FRESH_SECONDS
    assert not (await usage.latest()).failed
