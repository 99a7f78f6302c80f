"""Files that are to be replaced in running groups: nobody waits for that, and the newest are sent."""

import asyncio
import contextlib

import pytest

from overspill.backends.eci import renewals
from overspill.backends.eci.renewals import Renewals
from overspill.errors import NotFound, Rejected, Retry
from overspill.model.work import Identity

WHO = Identity("cluster", "vn-0", "shop", "web", "uid")


class Eci:
    """Takes updates once it is let; `answers` come first, and `meanwhile` happens while one is under way."""

    def __init__(self):
        self.sent, self.answers, self.meanwhile = [], [], []
        self.let = asyncio.Event()
        self.told = []
        self.arrived = asyncio.Event()

    async def call(self, action, asked, _kind):
        await self.let.wait()
        assert (action, asked["UpdateType"]) == ("UpdateContainerGroup", "IncrementalUpdate")
        self.sent.append((asked["ContainerGroupId"], asked["Volume"]))
        self.arrived.set()
        if self.meanwhile:
            self.meanwhile.pop()()
        if self.answers:
            raise self.answers.pop(0)

    async def until(self, times):
        async with asyncio.timeout(10):
            while len(self.sent) < times:
                self.arrived.clear()
                await self.arrived.wait()


@pytest.fixture
async def eci(monkeypatch):
    monkeypatch.setattr(renewals, "PAUSE", 0.01)
    made = Eci()
    made.renewals = Renewals(made, tell=made.told.append)
    pods = {"eci-1": WHO, "eci-2": WHO}
    task = asyncio.ensure_future(made.renewals.run(pod=pods.get))
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_of_each_volume_the_newest_files_are_sent_in_one_call(eci):
    eci.renewals.put("eci-1", {"token": {"v": 1}, "conf": {"v": 1}})
    eci.renewals.put("eci-1", {"token": {"v": 2}})
    eci.let.set()
    await eci.until(1)
    assert eci.sent == [("eci-1", [{"v": 2}, {"v": 1}])]


async def test_what_had_no_answer_is_sent_again_but_for_what_is_newer(eci):
    eci.meanwhile = [lambda: eci.renewals.put("eci-1", {"token": {"v": 2}})]
    eci.answers = [Retry("no answer")]
    eci.renewals.put("eci-1", {"token": {"v": 1}, "conf": {"v": 1}})
    eci.let.set()
    await eci.until(2)
    assert eci.sent[1:] == [("eci-1", [{"v": 2}, {"v": 1}])]
    assert eci.told == []


async def test_what_comes_while_files_are_sent_is_sent_after_them(eci):
    eci.meanwhile = [lambda: eci.renewals.put("eci-1", {"token": {"v": 2}})]
    eci.renewals.put("eci-1", {"token": {"v": 1}})
    eci.let.set()
    await eci.until(2)
    assert eci.sent == [("eci-1", [{"v": 1}]), ("eci-1", [{"v": 2}])]


async def test_what_is_refused_is_told_and_what_is_gone_is_let_go(eci):
    eci.answers = [Rejected("too large"), NotFound("gone")]
    eci.renewals.put("eci-1", {"conf": {"v": 1}})
    eci.let.set()
    await eci.until(1)
    eci.renewals.put("eci-2", {"conf": {"v": 1}})
    eci.renewals.put("eci-of-nobody", {"conf": {"v": 1}})
    await eci.until(2)
    eci.renewals.put("eci-1", {"conf": {"v": 2}})
    await eci.until(3)
    assert [group for group, _ in eci.sent] == ["eci-1", "eci-2", "eci-1"]
    (told,) = eci.told
    assert (told.identity, told.reason) == (WHO, "FailedMount")
    assert "too large" in told.message
