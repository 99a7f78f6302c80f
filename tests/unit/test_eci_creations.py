"""When container groups are asked for again: soon, but not by all at once, and not twice."""

import asyncio
import random

import pytest
from msgspec import structs

from overspill.backends.eci.answers import Created, GroupEntry, GroupsPage
from overspill.backends.eci.creations import LOST_PAUSE, NO_ROOM_CAP, Creations
from overspill.backends.eci.faults import ApiConflict, ApiRetry, ApiUnsettled, NoRoom
from overspill.backends.eci.options import read_options
from overspill.backends.eci.placements import Placements
from overspill.backends.eci.poll import APPEARS_WITHIN
from overspill.backends.eci.tags import group_name
from overspill.errors import Rejected
from overspill.model.work import Container, File, Files, Identity, WorkSpec

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

    def unanswered(self, order, message): ...

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


class Sold(Region):
    """Stands for ECI where what some pods want is sold out, and they ask in vain."""

    def __init__(self, wanted):
        super().__init__()
        self.wanted, self.in_vain = wanted, 0

    async def call(self, action, parameters, answer):
        if parameters["ContainerGroupName"] in self.wanted:
            self.in_vain += 1
            raise no_room("NoStock", "OperationDenied.NoStock")
        return await super().call(action, parameters, answer)


async def test_pods_that_ask_in_vain_leave_the_quota_to_others():
    """Ten pods a second come and find room; of 400 that want another size each asks every few minutes."""
    clock = asyncio.get_running_loop().time
    region = Sold({group_name(work(number).identity) for number in range(400)})
    creations = Creations(region, Placements(OPTIONS, clock=clock), Owner(10_000), clock=clock)
    running = asyncio.ensure_future(creations.run())
    for number in range(400):
        creations.put(work(number))
    await asyncio.sleep(60)
    region.in_vain = 0
    for number in range(3000):
        creations.put(work(400 + number))
        await asyncio.sleep(0.1)
    assert region.asked == 3000
    assert region.in_vain / 300 < 5
    running.cancel()


async def test_what_cannot_be_sent_is_asked_for_once_its_files_are_others():
    clock, region, owner = asyncio.get_running_loop().time, Region(), Owner(1)
    creations = Creations(region, Placements(OPTIONS, clock=clock), owner, clock=clock)
    running = asyncio.ensure_future(creations.run())
    files = {"conf": Files((File("key", b"x" * 100_000),))}
    creations.put(structs.replace(work(1), volumes=files))
    await asyncio.sleep(2 * NO_ROOM_CAP)
    assert region.asked == 0
    creations.renew("uid-1", {"conf": Files((File("key", b"x"),))})
    async with asyncio.timeout(1):
        await owner.all
    running.cancel()


async def test_what_eci_refuses_is_asked_for_again_seldom():
    """Its disk may be at another pod's still, of which no code of ECI's is known to say so."""
    clock, region, owner = asyncio.get_running_loop().time, Region(), Owner(1)
    creations = Creations(region, Placements(OPTIONS, clock=clock), owner, clock=clock)
    running = asyncio.ensure_future(creations.run())
    region.trouble = Rejected("(InvalidParameter.Disk)")
    creations.put(work(1))
    await asyncio.sleep(3 * NO_ROOM_CAP)
    assert 2 <= region.asked <= 5
    region.trouble = None
    async with asyncio.timeout(2 * NO_ROOM_CAP):
        await owner.all
    running.cancel()


class Hearing(Owner):
    """Who is told that ECI does not answer."""

    def __init__(self, orders):
        super().__init__(orders)
        self.heard = []

    def unanswered(self, order, message):
        self.heard.append(message)


async def test_why_a_pod_waits_for_an_answer_is_told_once():
    clock, region, owner = asyncio.get_running_loop().time, Region(), Hearing(1)
    creations = Creations(region, Placements(OPTIONS, clock=clock), owner, clock=clock)
    running = asyncio.ensure_future(creations.run())
    region.trouble = ApiRetry("(InternalError)")
    creations.put(work(1))
    await asyncio.sleep(60)
    assert region.asked > 10
    assert owner.heard == ["(InternalError)"]
    region.trouble = None
    await owner.all
    running.cancel()


class Remembering:
    """Stands for ECI after a restart: the first client token has a group, listed from a time on or never."""

    def __init__(self, *, listed_at):
        self._listed_at = listed_at
        self.tokens = []

    async def call(self, action, parameters, answer):
        if parameters["ClientToken"] not in self.tokens:
            self.tokens.append(parameters["ClientToken"])
        if parameters["ClientToken"] == self.tokens[0]:
            raise ApiConflict("(IdempotentParameterMismatch)")
        return Created(container_group_id="eci-second")

    async def pages(self, action, parameters, kind):
        listed = asyncio.get_running_loop().time() >= self._listed_at
        yield GroupsPage(container_groups=(GroupEntry("eci-first"),) if listed else ())


class Told(Owner):
    """Who is told which group an order has led to."""

    def created(self, order, group_id):
        self.all.set_result(group_id)


async def group_of_a_used_token(region):
    """The id of the group that an order gets whose client token was used before, and after how long."""
    clock, owner = asyncio.get_running_loop().time, Told(1)
    creations = Creations(region, Placements(OPTIONS, clock=clock), owner, clock=clock)
    running = asyncio.ensure_future(creations.run())
    began = clock()
    creations.put(work(1))
    async with asyncio.timeout(10 * APPEARS_WITHIN):
        found = await owner.all
    running.cancel()
    return found, clock() - began


async def test_a_group_that_is_listed_late_is_not_made_twice():
    late = asyncio.get_running_loop().time() + 0.8 * APPEARS_WITHIN
    region = Remembering(listed_at=late)
    found, _ = await group_of_a_used_token(region)
    assert found == "eci-first"
    assert len(region.tokens) == 1


async def test_a_group_that_is_gone_is_made_anew_once_it_could_no_longer_appear():
    region = Remembering(listed_at=float("inf"))
    found, after = await group_of_a_used_token(region)
    assert found == "eci-second"
    assert len(region.tokens) == 2
    assert APPEARS_WITHIN <= after <= 2 * APPEARS_WITHIN


class Silent:
    """Stands for ECI that answers no create, and gives these listings; an error is raised."""

    def __init__(self, *listings):
        self.listings = [*listings]
        self.asked = 0

    async def call(self, action, parameters, answer):
        self.asked += 1
        raise ApiRetry("(no code)")

    async def pages(self, action, parameters, kind):
        listed = self.listings.pop(0)
        if isinstance(listed, Exception):
            raise listed
        yield GroupsPage(container_groups=listed)


class Ended(Told):
    """Who is told what an order has led to: a group's id, or None."""

    def dropped(self, order):
        self.all.set_result(None)


@pytest.mark.parametrize("group", ["eci-1", None])
async def test_a_cancelled_order_ends_by_what_is_listed_once_a_group_would_have_appeared(group):
    """ECI's listing fails once, which says nothing."""
    clock = asyncio.get_running_loop().time
    region, owner = Silent(ApiRetry("(no code)"), (GroupEntry(group),) if group else ()), Ended(1)
    creations = Creations(region, Placements(OPTIONS, clock=clock), owner, clock=clock)
    running = asyncio.ensure_future(creations.run())
    order = creations.put(work(1))
    await asyncio.sleep(10)
    asked, began = region.asked, clock()
    assert not creations.cancel(order.work.identity.uid)
    async with asyncio.timeout(2 * APPEARS_WITHIN):
        assert await owner.all == group
    running.cancel()
    assert clock() - began > APPEARS_WITHIN - LOST_PAUSE * 2
    assert region.asked == asked
    assert not creations.orders
    assert not region.listings
