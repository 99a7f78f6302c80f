"""What ECI tells of groups that do not come up, or have failed.

In: DescribeContainerGroupEvents, 20 groups a call. Out: what `Happened`, for the Events of pods. Invariant: an
event is told once; groups that run are not asked about, so a node in peace costs no call.
What the agent sees by itself in a pod's status is left out, so that nothing is told twice.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from overspill.backends.eci.answers import Event, EventsPage, at
from overspill.backends.eci.client import Client
from overspill.backends.eci.groups import Groups, Tracked, chunks
from overspill.backends.eci.status import ENDED
from overspill.errors import OverspillError
from overspill.model.observation import Happened

__all__ = ["Events"]

log = structlog.get_logger(__name__)

IDS_PER_CALL = 20
MOST_CALLS = 10
# In the pace of looking at groups: between two looks at events, and how long a group may take without one.
EVERY, PATIENCE = 15, 5
# A group that has ended tells no more after these looks.
LAST_LOOKS = 3
FROM_STATUS = frozenset({"Created", "Started", "Failed", "BackOff", "ErrImageNeverPull", "OOMKilled"})


class _Heard(Struct):
    """What was told of a group already, and how often it was looked at."""

    told: set[tuple[str, str]]
    looks: int = 0
    last_looks: int = 0


class Events:
    """Asks for events while there are groups that need explaining."""

    def __init__(
        self,
        client: Client,
        groups: Groups,
        *,
        tell: Callable[[Happened], None],
        busy_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._groups = groups
        self._tell = tell
        self._busy_seconds = busy_seconds
        self._clock = clock
        self._began = time.time()
        self._heard: dict[str, _Heard] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._busy_seconds * EVERY)
            try:
                await self._look()
            except OverspillError as error:
                log.warning("no events of container groups", error=str(error))

    async def _look(self) -> None:
        wanted = {each.group.id: each for each in self._groups if self._needs_explaining(each)}
        known = {group_id: heard for group_id, heard in self._heard.items() if self._groups.by_id(group_id)}
        self._heard = {group_id: _Heard(set()) for group_id in wanted} | known
        # Those that were looked at least often first, when there are too many for one round.
        least = sorted(wanted, key=lambda group_id: self._heard[group_id].looks)
        for some in chunks(least[: MOST_CALLS * IDS_PER_CALL], IDS_PER_CALL):
            for group_id in some:
                self._heard[group_id].looks += 1
            asked = {"ContainerGroupIds": msgspec.json.encode(some).decode(), "Limit": 200}
            page = await self._client.call("DescribeContainerGroupEvents", asked, EventsPage)
            for entry in page.data:
                if entry.container_group_id in wanted:
                    self._take(wanted[entry.container_group_id], entry.events)

    def _needs_explaining(self, each: Tracked) -> bool:
        if each.group.deleting or self._clock() - each.since < self._busy_seconds * PATIENCE:
            return False
        if each.status in ENDED:
            heard = self._heard.get(each.group.id)
            return each.status != "Succeeded" and (heard is None or heard.last_looks < LAST_LOOKS)
        return not each.settled

    def _take(self, each: Tracked, events: tuple[Event, ...]) -> None:
        heard = self._heard[each.group.id]
        heard.last_looks += each.status in ENDED
        for event in events:
            key = (event.reason, event.message)
            # What was there before this process was told by the one before it.
            if event.reason in FROM_STATUS or key in heard.told or at(event.last_timestamp) + 1 < self._began:
                continue
            heard.told.add(key)
            warning = event.type == "Warning"
            self._tell(Happened(each.group.identity, "", event.reason, event.message, warning))
