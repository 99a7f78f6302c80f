"""Sightings on their way from a backend to whoever watches.

In: `publish`. Out: batches. Invariant: of several observations of one pod that
nobody has fetched yet only the newest is kept, but a `Gone` is never lost.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from overspill.model.observation import Gone, Sighting
from overspill.model.work import Identity

__all__ = ["Feed"]

Newest = dict[Identity, Sighting]


class Watcher:
    """One watcher's unfetched sightings."""

    def __init__(self) -> None:
        self.gone: list[Gone] = []
        self.newest: Newest = {}
        self.ready = asyncio.Event()

    def put(self, sighting: Sighting) -> None:
        """Keep a sighting until it is fetched."""
        if isinstance(sighting, Gone):
            self.newest.pop(sighting.identity, None)
            self.gone.append(sighting)
        else:
            self.newest[sighting.identity] = sighting
        self.ready.set()

    async def fetch(self) -> Sequence[Sighting]:
        """All that has come since the last time; waits for the first."""
        await self.ready.wait()
        self.ready.clear()
        batch = [*self.gone, *self.newest.values()]
        self.gone.clear()
        self.newest.clear()
        return batch


class Feed:
    """The watchers of one node."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def publish(self, sighting: Sighting) -> None:
        """Tell every watcher."""
        for watcher in self._watchers:
            watcher.put(sighting)

    def watch(self) -> AsyncIterator[Sequence[Sighting]]:
        """Batches of sightings from this call on."""
        watcher = Watcher()
        self._watchers.add(watcher)
        return self._batches(watcher)

    async def _batches(self, watcher: Watcher) -> AsyncIterator[Sequence[Sighting]]:
        try:
            while True:
                yield await watcher.fetch()
        finally:
            self._watchers.discard(watcher)
