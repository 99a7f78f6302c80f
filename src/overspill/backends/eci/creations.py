"""The queue of container groups that are to be made.

In: work specs. Out: groups, or why there is none yet, to the `Creator`'s owner. Invariant: a request
is sent again with the same client token until ECI has answered it or its pod is deleted; another request
(vSwitch, spot) gets another token, and is made only after ECI has refused the one before, or does not list its
group for longer than a new one may be missing. So neither a lost reply nor a late index makes a second group.
An order ends once its group is known, be it by a listing; of what ECI still answers only another group counts.
What is queued is lost with the process; the agent then gives it again.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Protocol

import structlog
from msgspec import Struct, structs

from overspill.backends.eci.answers import Created, GroupsPage
from overspill.backends.eci.client import Client
from overspill.backends.eci.faults import ApiConflict, NoRoom
from overspill.backends.eci.placements import Placements
from overspill.backends.eci.poll import APPEARS_WITHIN
from overspill.backends.eci.status import NO_ADDRESS, NO_STOCK
from overspill.backends.eci.tags import client_token, tags
from overspill.backends.eci.translate import Placement, parameters
from overspill.backoff import backoff
from overspill.errors import Misconfigured, OverspillError, Retry, Unsupported
from overspill.model.work import Volume, WorkSpec

__all__ = ["Creations", "Order", "Owner"]

log = structlog.get_logger(__name__)

WORKERS = 32
# While there is no room, and while a person has to act; seconds.
NO_ROOM_FIRST, NO_ROOM_CAP = 15.0, 300.0
A_PERSON_PAUSE = 30.0
# All that wait ask about so often a second together: a few soon, many more seldom, the rest of the quota is for others.
ASKED_AGAIN_PER_SECOND = 2.0
# How many that wait ask at once when one finds room, so that all are served soon after many had to wait.
WOKEN = 2
ALL_FULL = (
    "all vSwitches or security groups of this node were full for other pods; "
    "add one to the setting vSwitchIds or securityGroupIds"
)
LOST_PAUSE = 2.0


class Order(Struct, eq=False):
    """One group to make.

    Attributes:
        variant: counts the different requests made for it; part of the client token.
        cancelled: its pod is to be deleted; a group that comes of it nevertheless must go.
        sent: where the request was for that is under way, or whose reply was lost; it stays the same until
            ECI answers, as its client token does.
        full: what ECI said last, if it was that there is no address left.
        conflict_at: when ECI first said that the client token stands for another request, by the loop's time.
        unanswered_at: when the request was last given up without an answer, by the loop's time.
        group: the id of its group, once that is known.
        left: it is not asked for again as it is.
    """

    work: WorkSpec
    asked_at: float
    variant: int = 0
    spot: bool = True
    refusals: int = 0
    cancelled: bool = False
    sent: Placement | None = None
    full: str = ""
    conflict_at: float | None = None
    unanswered_at: float = 0.0
    group: str = ""
    left: bool = False


class Owner(Protocol):
    """Who is told what became of an order."""

    def created(self, order: Order, group_id: str) -> None:
        """There is a group."""

    def no_room(self, order: Order, reason: str, message: str) -> None:
        """There is none yet; it will be tried again."""

    def refused(self, order: Order, message: str) -> None:
        """ECI does not make it as it is, or as the account is."""

    def unanswered(self, order: Order, message: str) -> None:
        """ECI has not said yet whether there is one; it is asked again."""

    def dropped(self, order: Order) -> None:
        """It was cancelled, and nothing came of it."""


class Creations:
    """Makes groups at the pace that the account allows."""

    def __init__(
        self, client: Client, placements: Placements, owner: Owner, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._placements = placements
        self._owner = owner
        self._clock = clock
        self._queue: asyncio.Queue[Order] = asyncio.Queue()
        self._resting: dict[Order, asyncio.TimerHandle] = {}  # the longest first
        self._woken_at = -math.inf  # by the loop's time
        self.orders: dict[str, Order] = {}

    @property
    def queued(self) -> int:
        """Orders that no worker has taken up yet."""
        return self._queue.qsize()

    def put(self, work: WorkSpec) -> Order:
        """Queue a pod's group."""
        order = Order(work, self._clock())
        self.orders[work.identity.uid] = order
        self._queue.put_nowait(order)
        return order

    def cancel(self, uid: str) -> bool:
        """Take an order back; True if nothing was ever sent for it, so that nothing can come of it."""
        order = self.orders[uid]
        order.cancelled = True
        if order.sent is not None:
            return False
        del self.orders[uid]
        return True

    def settle(self, order: Order, group_id: str) -> None:
        """Ask no more for an order whose group is known."""
        order.group = group_id
        if self._holds(order):
            del self.orders[order.work.identity.uid]

    def _made(self, order: Order, group_id: str) -> None:
        self.settle(order, group_id)
        self._owner.created(order, group_id)

    def _holds(self, order: Order) -> bool:
        return self.orders.get(order.work.identity.uid) is order

    def renew(self, uid: str, volumes: Mapping[str, Volume]) -> None:
        """Have an order's group made with other volumes.

        Raises:
            Retry: it is being asked for as it is.
        """
        order = self.orders[uid]
        if order.sent is not None:
            raise Retry(f"the container group of {_name(order)} is just being made")
        order.work = structs.replace(order.work, volumes={**order.work.volumes, **volumes})
        if order.left:
            order.left = False
            self._queue.put_nowait(order)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(), name=f"create {number}")

    async def _work(self) -> None:
        while True:
            order = await self._queue.get()
            if not self._holds(order):
                continue
            pause = await self._make(order)
            if pause is not None:
                self._rest(order, pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load

    def _rest(self, order: Order, pause: float) -> None:
        self._resting[order] = asyncio.get_running_loop().call_later(pause, self._wake, order)

    def _wake(self, order: Order) -> None:
        self._resting.pop(order).cancel()
        self._queue.put_nowait(order)

    async def _make(self, order: Order) -> float | None:
        """Try once; returns the seconds until the next try, None when there will be none."""
        if order.cancelled:
            return await self._make_sure(order)
        first = order.sent is None
        placement = order.sent or self._placements.choose(order.work, spot=order.spot)
        if placement is None:
            self._owner.no_room(order, NO_ADDRESS, order.full or ALL_FULL)
            return self._later(order)
        try:
            group_id = await self._send(order, placement)
        except OverspillError as error:
            return self._not_made(order, placement, error, first=first) if self._holds(order) else None
        if group_id != order.group:
            self._made(order, group_id)
        self._wake_some(waited=order.refusals > 0)
        return None

    def _wake_some(self, *, waited: bool) -> None:
        """One was made. Of others that had not waited little follows for those that do, which may want other things."""
        now = asyncio.get_running_loop().time()
        if waited or now - self._woken_at >= WOKEN / ASKED_AGAIN_PER_SECOND:
            self._woken_at = now
            for each in [*islice(self._resting, WOKEN)]:
                self._wake(each)

    def _not_made(
        self, order: Order, placement: Placement, error: OverspillError, *, first: bool
    ) -> float | None:
        match error:
            case NoRoom():
                return self._no_room(order, placement, error)
            case Misconfigured():
                return self._refused(order, error, again=self._seldom(A_PERSON_PAUSE))
            case Retry():
                log.warning("group is asked for again", pod=_name(order), error=str(error))
                order.unanswered_at = asyncio.get_running_loop().time()
                if first:
                    self._owner.unanswered(order, str(error))
                return LOST_PAUSE
            case Unsupported():  # by ourselves: what would be sent stays the same until it is renewed
                return self._refused(order, error, again=None)
            case _:
                return self._refused(order, error, again=NO_ROOM_CAP)

    async def _make_sure(self, order: Order) -> float | None:
        """Drop a cancelled order that ECI has not answered, once a group of it would be listed; no more is sent for it."""
        left = order.unanswered_at + APPEARS_WITHIN - asyncio.get_running_loop().time()
        if left > 0:
            return left  # a group that is listed meanwhile settles the order
        try:
            group_id = await self._listed(order)
        except OverspillError as error:
            log.warning("group is looked for again", pod=_name(order), error=str(error))
            return LOST_PAUSE
        if not self._holds(order):
            return None
        if group_id:
            self._made(order, group_id)
        else:
            self._drop(order)
        return None

    async def _send(self, order: Order, placement: Placement) -> str:
        order.sent = placement
        request = {
            **parameters(order.work, placement),
            "ClientToken": client_token(order.work.identity, variant=order.variant),
        }
        try:
            answer = await self._client.call("CreateContainerGroup", request, Created)
        except ApiConflict:
            return await self._find(order)
        if not answer.container_group_id:
            raise Retry(f"ECI CreateContainerGroup: no id in the answer (RequestId {answer.request_id})")
        return answer.container_group_id

    async def _find(self, order: Order) -> str:
        """The token stands for another request: an earlier process made the group, with another placement."""
        if group_id := await self._listed(order):
            return group_id
        now = asyncio.get_running_loop().time()
        if order.conflict_at is None:
            order.conflict_at = now
        if now - order.conflict_at <= APPEARS_WITHIN:
            raise Retry("its client token was used for a group that is not listed yet")
        order.variant, order.conflict_at = order.variant + 1, None
        raise Retry("its client token was used for a group that is gone; the next one is taken")

    async def _listed(self, order: Order) -> str:
        """The id of the group that ECI lists for an order, or ""."""
        wanted = tags(order.work.identity, more={})
        pages = self._client.pages("DescribeContainerGroups", {"Limit": 20, "Tag": wanted}, GroupsPage)
        found = [group.container_group_id async for page in pages for group in page.container_groups]
        return found[0] if found else ""

    def _no_room(self, order: Order, placement: Placement, error: NoRoom) -> float | None:
        order.sent = None
        order.full = str(error) if error.reason == NO_ADDRESS else ""
        order.variant += 1
        if order.cancelled:
            self._drop(order)
            return None
        if self._placements.next_after(error, work=order.work, placement=placement):
            order.spot = order.spot and error.reason != NO_STOCK
            return 0.0
        self._owner.no_room(order, error.reason, str(error))
        return self._later(order)

    def _refused(self, order: Order, error: OverspillError, *, again: float | None) -> float | None:
        order.sent = None
        if order.cancelled:
            self._drop(order)
            return None
        self._owner.refused(order, str(error))
        order.left = again is None
        return again

    def _drop(self, order: Order) -> None:
        del self.orders[order.work.identity.uid]
        self._owner.dropped(order)

    def _later(self, order: Order) -> float:
        order.refusals += 1
        return backoff(order.refusals, first=NO_ROOM_FIRST, cap=self._seldom(2 * NO_ROOM_FIRST))

    def _seldom(self, least: float) -> float:
        """The pause by which all orders together ask as often as they may."""
        return min(max(least, len(self.orders) / ASKED_AGAIN_PER_SECOND), NO_ROOM_CAP)


def _name(order: Order) -> str:
    identity = order.work.identity
    return f"{identity.namespace}/{identity.name}"
