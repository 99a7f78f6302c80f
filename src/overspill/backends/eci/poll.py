"""Finds out how the groups stand, with as few calls as it takes.

In: listings of ECI. Out: `Groups` brought up to date. Invariant: a group counts as gone only when
a listing that was whole and right does not have it, and asking for it by id does not either; a
failed, throttled or broken listing changes nothing.

Three kinds of listing: what changed lately (`SinceSecond`, often while something is under
way), everything (every few minutes), and whole entries (`DescribeContainerGroups`) only of groups
that are new to this process, prepare, or have failed.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping

import msgspec
import structlog

from overspill.backends.eci.answers import GroupEntry, GroupsPage, StatusEntry, StatusPage
from overspill.backends.eci.client import Client
from overspill.backends.eci.faults import ApiRejected
from overspill.backends.eci.groups import Groups, Tracked, chunks
from overspill.backends.eci.status import ENDED
from overspill.errors import Misconfigured, OverspillError, Retry

__all__ = ["Poller"]

log = structlog.get_logger(__name__)

STATUS = "DescribeContainerGroupStatus"
# How many times longer nothing is looked at while nothing is expected to change.
IDLE = 5.0
SWEEP_EVERY = 180.0
TROUBLE_PAUSE = 5.0
# Seconds by which two looks at what changed overlap, for changes that ECI's index shows late.
OVERLAP = 10
# What ECI's events are known to take at least; used if the shorter time is refused.
LONGER_OVERLAP = 60
# How long a new group may be missing in listings.
APPEARS_WITHIN = 30.0
IDS_PER_CALL = 20
STATUS_LIMIT = 200


class Poller:
    """Looks at the groups of one node."""

    def __init__(
        self,
        client: Client,
        groups: Groups,
        *,
        node_tags: list[dict[str, str]],
        busy_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._groups = groups
        self._tags = node_tags
        self._busy_seconds = busy_seconds
        self._clock = clock
        self._overlap = OVERLAP
        self._looked_at = clock()
        self._swept_at = -math.inf
        self._one = asyncio.Lock()
        self._soon = asyncio.Event()
        self.heard_at = clock()
        self.trouble: OverspillError | None = None

    def hurry(self) -> None:
        """Look again soon: something is under way."""
        self._soon.set()

    async def run(self, *, busy: Callable[[], bool]) -> None:
        """Look until cancelled; `busy` says whether more than the groups tell is under way."""
        while True:
            pause = await self._look_on()
            if busy() or any(not each.settled for each in self._groups):
                await asyncio.sleep(max(pause, self._busy_seconds))
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause, self._busy_seconds * IDLE)):
                    await self._soon.wait()
            self._soon.clear()

    async def _look_on(self) -> float:
        """One look; returns the seconds to wait at least."""
        try:
            if self._clock() - self._swept_at >= SWEEP_EVERY:
                await self.sweep()
            else:
                async with self._one:
                    await self._look()
        except OverspillError as error:
            if str(error) != str(self.trouble):
                log.warning("cannot tell how container groups stand", error=str(error))
            self.trouble = error
            return TROUBLE_PAUSE
        self.trouble, self.heard_at = None, self._clock()
        return 0.0

    async def sweep(self) -> None:
        """Look at everything.

        Raises:
            Retry: it could not be listed whole; nothing was concluded from what was.
            Misconfigured: ECI does not let us.
        """
        async with self._one:
            await self._sweep()

    async def _sweep(self) -> None:
        began = self._clock()
        entries = await self._list({})
        await self._take(entries)
        present = {entry.container_group_id for entry in entries}
        self._groups.forget_unwanted(present, before=began - APPEARS_WITHIN)
        await self._confirm([each for each in self._groups if each.group.id not in present])
        self._swept_at = self._looked_at = began

    async def _look(self) -> None:
        """Look at what changed, and at what is to go."""
        deleting = [each for each in self._groups if each.removing]
        if len(deleting) > max(len(self._groups) * IDS_PER_CALL // STATUS_LIMIT, IDS_PER_CALL):
            return await self._sweep()  # fewer calls than asking for each by id
        began = self._clock()
        since = math.ceil(began - self._looked_at) + self._overlap
        try:
            changed = await self._list({"SinceSecond": since})
        except ApiRejected:
            if self._overlap == LONGER_OVERLAP:
                raise
            log.info("ECI wants a longer time to list changes of", seconds=LONGER_OVERLAP)
            self._overlap = LONGER_OVERLAP
            return None
        await self._take(changed)
        await self._confirm(deleting)
        self._looked_at = began
        return None

    async def _list(self, parameters: dict[str, object]) -> list[StatusEntry]:
        asked = {"Limit": STATUS_LIMIT, "Tag": self._tags, **parameters}
        return [entry async for page in self._client.pages(STATUS, asked, StatusPage) for entry in page.data]

    async def _take(self, entries: Collection[StatusEntry]) -> None:
        closer = {e.container_group_id: e for e in entries if self._wants_detail(e)}
        await self._detail(closer)
        for entry in entries:
            if entry.container_group_id not in closer:
                self._groups.update(entry)

    def _wants_detail(self, entry: StatusEntry) -> bool:
        tracked = self._groups.by_id(entry.container_group_id)
        if tracked is None:
            return entry.container_group_id not in self._groups.unwanted
        changed = entry.status != tracked.status
        if entry.status in {"Failed", "ScheduleFailed", "Expired"}:
            # What an init container does once its group has failed is told nowhere else.
            return changed or tracked.detail is None or not tracked.prepared
        if tracked.group.init_containers:
            return changed or entry.status == "Pending"
        # What ECI made of a list of instance types, or of a spot strategy, is known once it is made.
        priced = any(key.endswith("eci-instance-spec") for key in tracked.group.annotations)
        return not priced and entry.status not in {"Scheduling", *ENDED} and tracked.detail is None

    async def _detail(self, entries: Mapping[str, StatusEntry]) -> None:
        for some in chunks(entries, IDS_PER_CALL):
            asked = {
                "ContainerGroupIds": msgspec.json.encode(some).decode(),
                "Limit": IDS_PER_CALL,
                "WithEvent": True,
            }
            async for page in self._client.pages("DescribeContainerGroups", asked, GroupsPage):
                for entry in page.container_groups:
                    if self._is_ours(entry):
                        self._groups.detail(entry, entries.get(entry.container_group_id))

    def _is_ours(self, entry: GroupEntry) -> bool:
        """Not by ECI's filter alone: what an agent takes for its own and has no pod for is removed."""
        return all(entry.tagged.get(each["Key"]) == each["Value"] for each in self._tags)

    async def _confirm(self, doubted: list[Tracked]) -> None:
        """Ask for groups by id; those that ECI does not have are gone."""
        now = self._clock()
        sure = [each for each in doubted if each.listed or now - each.since > APPEARS_WITHIN]
        by_id = {each.group.id: each for each in sure}
        for some in chunks(by_id, IDS_PER_CALL):
            asked = {"ContainerGroupIds": msgspec.json.encode(some).decode(), "Limit": STATUS_LIMIT}
            page = await self._client.call(STATUS, asked, StatusPage)
            there = {entry.container_group_id for entry in page.data}
            for entry in page.data:
                self._groups.update(entry)
            for group_id in set(some) - there:
                self._groups.gone(by_id[group_id])

    async def ask(self) -> None:
        """Hear anything at all from ECI.

        Raises:
            Retry: it does not answer.
            Misconfigured: it does not let us.
        """
        await self._client.call(STATUS, {"Limit": 1, "Tag": self._tags}, StatusPage, tries=2)

    def check(self, *, silence: float) -> None:
        """Raise what stands against believing this: the last trouble, or `silence` seconds without an answer."""
        age = self._clock() - self.heard_at
        if isinstance(self.trouble, Misconfigured):
            raise self.trouble
        if age > silence:
            raise Retry(f"nothing heard of ECI's container groups for {age:.0f} s: {self.trouble}")
