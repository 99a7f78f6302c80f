"""Calls are let through at the account's rate, in order, and slower after a throttling."""

import asyncio
from itertools import pairwise

import pytest

from overspill.backends.base import Demand, Share
from overspill.backends.eci.rates import Bucket, Budget, Rates, budget_of

pytestmark = pytest.mark.looptime


def bucket(rate=20.0, burst=100.0) -> Bucket:
    return Bucket(Budget(rate, burst), clock=asyncio.get_running_loop().time)


async def takes(of: Bucket, count: int) -> list[float]:
    """When each of `count` calls got through."""
    clock, times = asyncio.get_running_loop().time, []

    async def one():
        await of.take()
        times.append(clock())

    start = clock()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(one())
    return [at - start for at in times]


async def test_a_burst_then_the_rate():
    times = await takes(bucket(), 200)
    assert sum(at < 0.01 for at in times) == 100
    assert times[-1] == pytest.approx(5.0, abs=0.1)


async def test_a_share_of_the_budget():
    part = bucket()
    part.allow(rate=0.5, burst=0.25)
    times = await takes(part, 50)
    assert sum(at < 0.01 for at in times) == 25
    assert times[-1] == pytest.approx(2.5, abs=0.1)


async def test_the_smallest_share_lets_one_call_through_at_a_time():
    small = bucket(rate=8.0, burst=50.0)
    small.allow(rate=0.01, burst=0.01)
    assert await takes(small, 2) == [0.0, pytest.approx(12.5, abs=0.1)]


async def test_a_share_that_grows_gives_no_second_burst():
    part = bucket()
    part.allow(rate=0.25, burst=0.25)
    part.allow(rate=1.0, burst=1.0)
    times = await takes(part, 45)
    assert sum(at < 0.01 for at in times) == 25
    assert times[-1] == pytest.approx(1.0, abs=0.1)


async def test_the_queue_tells_how_long_it_takes():
    full = bucket()
    assert full.eta(99) == 0
    assert full.eta(299) == pytest.approx(10.0)


async def test_throttling_halves_the_rate_once_a_second_and_it_grows_back():
    one = bucket()
    one.throttled()
    one.throttled()
    assert one.rate == pytest.approx(10, rel=0.05)
    await asyncio.sleep(2)
    one.throttled()
    assert 4.5 < one.rate < 6
    await asyncio.sleep(60)
    assert await takes(one, 1)
    assert one.rate == 20


async def test_never_before_what_the_other_side_asked_for():
    one = bucket()
    one.throttled(retry_after=3.0)
    assert (await takes(one, 1))[0] >= 3.0


async def test_first_come_first_served():
    one, order = bucket(rate=10, burst=1), []

    async def ask(number):
        await one.take()
        order.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(ask(number))
    assert all(a < b for a, b in pairwise(order))


async def test_a_share_is_by_demand_for_the_budgets_that_it_names():
    rates = Rates({"create": Budget(10, 10)}, clock=asyncio.get_running_loop().time)
    rates.share = Share(fair=0.25, rates={"create": 0.5})
    assert rates["create"].rate == 5
    assert rates["status"].rate == pytest.approx(10_000 / 60 / 4)


async def test_demand_is_what_waits_and_what_was_made():
    rates = Rates({"create": Budget(10, 10)}, clock=asyncio.get_running_loop().time)
    assert rates.demand("create", queued=0) == Demand(waiting=0, made=0, eta=0.0, rate=10)
    await takes(rates["create"], 10)
    assert rates.demand("create", queued=4) == Demand(waiting=4, made=10, eta=pytest.approx(0.5), rate=10)


def test_actions_have_budgets():
    assert budget_of("CreateContainerGroup") == "create"
    assert budget_of("ListUsage") == "other"
