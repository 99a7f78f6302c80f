"""The queue of files that are to be replaced in running groups.

In: the new files of a group's volumes. Out: UpdateContainerGroup calls, of each volume with its newest files; an Event
for those that ECI refuses. Invariant: whoever asks waits for nothing, since an account may update less than ten groups
a second, and a new agent renews those of all its pods. What is queued is lost with the process, whose successor does so.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog
from msgspec import Struct

from overspill.backends.eci.client import Client
from overspill.errors import NotFound, OverspillError, Rejected, Unsupported
from overspill.model.observation import Happened
from overspill.model.work import Identity

__all__ = ["Renewals"]

log = structlog.get_logger(__name__)

WORKERS = 4
PAUSE = 5.0
Parameters = Mapping[str, object]


class _Nothing(Struct):
    """The answer holds nothing but its RequestId."""


class Renewals:
    """Replaces files at the pace that the account allows, those of one group in the order in which they came."""

    def __init__(self, client: Client, *, tell: Callable[[Happened], None]) -> None:
        self._client = client
        self._tell = tell
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._volumes: dict[str, dict[str, Parameters]] = {}  # by group, of those that wait
        self._busy: set[str] = set()  # groups in the queue, in a worker's hands, or about to be tried again

    def put(self, group_id: str, volumes: Mapping[str, Parameters]) -> None:
        """Have volumes of a group, by name, replaced; `volumes` are ECI's parameters for them."""
        self._volumes.setdefault(group_id, {}).update(volumes)
        if group_id not in self._busy:
            self._busy.add(group_id)
            self._queue.put_nowait(group_id)

    def forget(self, group_id: str) -> None:
        """Nothing is left of a group."""
        self._volumes.pop(group_id, None)

    async def run(self, *, pod: Callable[[str], Identity | None]) -> None:
        """Work until cancelled; `pod` tells whose a group is."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(pod), name=f"renew {number}")

    async def _work(self, pod: Callable[[str], Identity | None]) -> None:
        while True:
            group_id = await self._queue.get()
            volumes, identity = self._volumes.pop(group_id, {}), pod(group_id)
            if volumes and identity is not None and not await self._sent(group_id, identity, volumes):
                self._volumes[group_id] = {**volumes, **self._volumes.get(group_id, {})}
                asyncio.get_running_loop().call_later(PAUSE, self._queue.put_nowait, group_id)
            elif group_id in self._volumes:
                self._queue.put_nowait(group_id)
            else:
                self._busy.discard(group_id)

    async def _sent(self, group_id: str, identity: Identity, volumes: Mapping[str, Parameters]) -> bool:
        """Send them; False when that is to be tried again."""
        asked = {
            "ContainerGroupId": group_id,
            "UpdateType": "IncrementalUpdate",
            "Volume": [*volumes.values()],
        }
        try:
            await self._client.call("UpdateContainerGroup", asked, _Nothing)
        except NotFound:
            log.debug("container group whose files changed is not there", group=group_id)
        except (Rejected, Unsupported) as error:
            self._tell(Happened(identity, "", "FailedMount", f"the changed files cannot be had: {error}"))
        except OverspillError as error:
            log.warning("files of a container group are sent again", group=group_id, error=str(error))
            return False
        return True
