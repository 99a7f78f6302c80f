"""How long a group's removal is asked for."""

import asyncio

import pytest

from overspill.backends.eci.faults import ApiConflict
from overspill.backends.eci.removals import PAUSE, Removals

pytestmark = pytest.mark.looptime


class Eci:
    """Says of every group that it is in the wrong state, as it may of one that is going or gone."""

    def __init__(self):
        self.asked = []

    async def call(self, action, asked, kind):
        self.asked.append(asked["ContainerGroupId"])
        raise ApiConflict("(IncorrectStatus)")


async def test_a_group_that_is_gone_is_not_removed_again_whatever_is_answered():
    eci = Eci()
    removals = Removals(eci)
    working = asyncio.ensure_future(removals.run(accepted=lambda _: None))
    removals.put("eci-1")
    removals.put("eci-2")
    await asyncio.sleep(PAUSE * 2.5)
    assert eci.asked == ["eci-1", "eci-2"] * 3
    removals.forget("eci-1")
    await asyncio.sleep(PAUSE * 2)
    assert eci.asked[6:] == ["eci-2"] * 2
    removals.put("eci-1")  # it was there after all
    await asyncio.sleep(0)
    assert eci.asked[8:] == ["eci-1"]
    working.cancel()
