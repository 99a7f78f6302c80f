"""Which groups ECI is asked to explain when there are too many for one round."""

import asyncio
import json
from collections import Counter
from types import SimpleNamespace

import pytest

from overspill.backends.eci.answers import EventsPage
from overspill.backends.eci.events import EVERY, IDS_PER_CALL, MOST_CALLS, Events
from overspill.backends.eci.groups import Tracked
from overspill.backends.eci.status import Group
from overspill.model.observation import Observation
from overspill.model.work import Identity

pytestmark = pytest.mark.looptime


def group(number):
    """One that does not come up."""
    identity = Identity("cluster", "node", "shop", f"web-{number}", f"uid-{number}")
    known = Group(id=f"eci-{number}", identity=identity, containers=(("app", "image"),), created_at=0.0)
    return Tracked(known, Observation(identity, 0.0, ()), -1000.0, SimpleNamespace(status="Pending"))


class Known(list):
    def by_id(self, group_id):
        return next((each for each in self if each.group.id == group_id), None)


class Quiet:
    """ECI's side: counts who is asked for, and has nothing to tell."""

    def __init__(self):
        self.asked = Counter()

    async def call(self, action, asked, kind):
        assert (action, kind) == ("DescribeContainerGroupEvents", EventsPage)
        self.asked.update(json.loads(asked["ContainerGroupIds"]))
        return EventsPage()


async def test_every_group_has_its_turn_though_there_is_nothing_to_tell_of_most():
    at_once = MOST_CALLS * IDS_PER_CALL
    service, groups = Quiet(), Known(group(number) for number in range(2 * at_once))
    clock = asyncio.get_running_loop().time
    events = Events(service, groups, tell=lambda _: None, busy_seconds=1.0, clock=clock)
    running = asyncio.ensure_future(events.run())
    await asyncio.sleep(4.5 * EVERY)
    running.cancel()
    assert set(service.asked.values()) == {2}
    assert len(service.asked) == len(groups)
