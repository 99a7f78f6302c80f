"""When container groups that found no room are asked for again: soon, but not by all at once."""

import asyncio
import random

import pytest

from overspill.backends.eci.answers import Created
from overspill.backends.eci.creations import NO_ROOM_CAP, Creations
from overspill.backends.eci.faults import ApiUnsettled, NoRoom
from overspill.backends.eci.options import read_options
from overspill.backends.eci.placements import Placements
from overspill.model.work import Container, Identity, WorkSpec

pytestmark = pytest.mark.looptime

OPTIONS = read_options({"region": "cn-hangzhou", "vSwitchIds": "vsw-a,vsw-b"})


def work(number):
    identity = Identity("cluster", "vn-0", "shop", f"web-{number}", f"uid-{number}")
    return WorkSpec(identity=identity, hostname=f"web-{number}", containers=(Container("web", "nginx:1"),))


def no_room(reason, code):
    error = NoRoom(f"({code})")
    error.reason = reason
    return error


class Region:
    """Stands for ECI: answers creates, as long as nothing is wrong."""

    def __init__(self):
        self.trouble = None
        self.asked = 0

    async def call(self, action, parameters, answer):
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return Created(container_group_id=parameters["ContainerGroupName"])


class Owner:
    """Who is told; `all` have been made at a time."""

    def __init__(self, orders):
        self.left = orders
        self.all = asyncio.get_running_loop().create_future()

    def created(self, order, group_id):
        self.left -= 1
        if not self.left:
            self.all.set_result(asyncio.get_running_loop().time())

    def no_room(self, order, reason, message): ...

    def refused(self, order, message): ...

    def dropped(self, order): ...


async def after_trouble(trouble, *, orders, seconds):
    """How long after the end of so many seconds of trouble the groups were made, and how often ECI was asked meanwhile."""
    clock = asyncio.get_running_loop().time
    region, owner = Region(), Owner(orders)
    creations = Creations(region, Placements(OPTIONS, clock=clock), owner, clock=clock)
    running = asyncio.ensure_future(creations.run())
    region.trouble = trouble
    for number in range(orders):
        creations.put(work(number))
    await asyncio.sleep(seconds)
    asked, region.trouble, over = region.asked, None, clock()
    async with asyncio.timeout(2 * NO_ROOM_CAP):
        made = await owner.all
    running.cancel()
    return made - over, asked


TROUBLES = {
    "no stock": no_room("NoStock", "OperationDenied.NoStock"),
    "no address": no_room("NoAddress", "InvalidVSwitchId.IpNotEnough"),
    "a clock that is off": ApiUnsettled("(InvalidTimeStamp.Expired)"),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize("orders", [1, 5, 100])
@pytest.mark.parametrize("seconds", [20, 600])
async def test_groups_are_made_within_a_minute_once_there_is_room(trouble, orders, seconds):
    late, _ = await after_trouble(trouble, orders=orders, seconds=seconds)
    assert late <= 60


async def test_the_first_that_finds_room_wakes_the_many_that_wait():
    """Each of 600 would ask every five minutes; meanwhile most of the 20 calls a second are for others."""
    random.seed(1)  # how the waits are spread decides about a call more or less
    late, asked = await after_trouble(TROUBLES["no stock"], orders=600, seconds=1200)
    assert late <= 30
    assert asked / 1200 < 4
