"""What the watchers of one node have not been given yet.

In: sightings as they come. Out: batches. Invariant: of one pod only the newest sighting waits, so a
watcher that is slow costs no more than one sighting a pod; a burst wakes it once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from overspill.errors import Retry
from overspill.model.observation import Sighting

__all__ = ["Feed"]


class Feed:
    """One watcher's. It ends with its iterator, which alone holds it."""

    __slots__ = ("__weakref__", "_broken", "_pending", "_woken")

    def __init__(self) -> None:
        self._pending: dict[tuple[str, int], Sighting] = {}
        self._woken = asyncio.Event()
        self._broken = ""

    def put(self, sighting: Sighting) -> None:
        """Give the watcher a sighting."""
        identity = sighting.identity
        self._pending[identity.uid, identity.attempt] = sighting
        self._woken.set()

    def break_off(self, reason: str) -> None:
        """End the watch with an error."""
        self._broken = reason
        self._woken.set()

    async def batches(self) -> AsyncIterator[Sequence[Sighting]]:
        """What changed, as it comes.

        Raises:
            Retry: the backend cannot be reached any more.
        """
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._broken:
                raise Retry(self._broken)
            batch = list(self._pending.values())
            self._pending.clear()
            yield batch
