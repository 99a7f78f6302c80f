"""The queue of container groups that are to go.

In: ids. Out: DeleteContainerGroup calls, until each was accepted. Invariant: an accepted call is no proof
that a group is gone; only a listing is. Calls may be repeated, for an id never names another group.
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Struct

from overspill.backends.eci.client import Client
from overspill.errors import NotFound, OverspillError

__all__ = ["Removals"]

log = structlog.get_logger(__name__)

WORKERS = 16
PAUSE = 5.0


class _Nothing(Struct):
    """The answer holds nothing but its RequestId."""


class Removals:
    """Removes groups at the pace that the account allows."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._pending: set[str] = set()

    @property
    def queued(self) -> int:
        """Removals that no worker has taken up yet."""
        return self._queue.qsize()

    def put(self, group_id: str) -> None:
        """Queue a group's removal; once is enough."""
        if group_id not in self._pending:
            self._pending.add(group_id)
            self._queue.put_nowait(group_id)

    def forget(self, group_id: str) -> None:
        """Nothing is left of a group, whatever ECI answers about it."""
        self._pending.discard(group_id)

    async def run(self, *, accepted: Callable[[str], None]) -> None:
        """Work until cancelled; `accepted` is told each id that ECI has answered about."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(accepted), name=f"delete {number}")

    async def _work(self, accepted: Callable[[str], None]) -> None:
        while True:
            group_id = await self._queue.get()
            if group_id not in self._pending:
                continue
            try:
                await self._client.call("DeleteContainerGroup", {"ContainerGroupId": group_id}, _Nothing)
            except NotFound:
                log.debug("container group to delete is not there", group=group_id)
            except OverspillError as error:
                log.warning("container group is deleted again", group=group_id, error=str(error))
                asyncio.get_running_loop().call_later(PAUSE, self._queue.put_nowait, group_id)
                continue
            self._pending.discard(group_id)
            accepted(group_id)
