"""Sightings on their way from a backend to whoever watches.

In: `publish`. Out: batches. Invariant: of several observations of one pod that
nobody has fetched yet only the newest is kept, but a `Gone` is never lost, nor what `Happened`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from weakref import WeakSet

from overspill.model.observation import Gone, Happened, Observation, Sighting
from overspill.model.work import Identity

__all__ = ["Feed"]

Newest = dict[Identity, Observation]


class Watcher:
    """One watcher's unfetched sightings."""

    def __init__(self) -> None:
        self.gone: list[Gone] = []
        self.happened: list[Happened] = []
        self.newest: Newest = {}
        self.ready = asyncio.Event()

    def put(self, sighting: Sighting) -> None:
        """Keep a sighting until it is fetched."""
        if isinstance(sighting, Gone):
            self.newest.pop(sighting.identity, None)
            self.gone.append(sighting)
        elif isinstance(sighting, Happened):
            self.happened.append(sighting)
        else:
            self.newest[sighting.identity] = sighting
        self.ready.set()

    async def fetch(self) -> Sequence[Sighting]:
        """All that has come since the last time; waits for the first."""
        await self.ready.wait()
        self.ready.clear()
        batch: list[Sighting] = [*self.gone, *self.happened, *self.newest.values()]
        self.gone.clear()
        self.happened.clear()
        self.newest.clear()
        return batch


class Feed:
    """The watchers of one node. One ends with its iterator, which alone holds it, also if that was never begun."""

    def __init__(self) -> None:
        self._watchers: WeakSet[Watcher] = WeakSet()

    def publish(self, sighting: Sighting) -> None:
        """Tell every watcher."""
        for watcher in self._watchers:
            watcher.put(sighting)

    def watch(self) -> AsyncIterator[Sequence[Sighting]]:
        """Batches of sightings from this call on."""
        watcher = Watcher()
        self._watchers.add(watcher)
        return _batches(watcher)


async def _batches(watcher: Watcher) -> AsyncIterator[Sequence[Sighting]]:
    while True:
        yield await watcher.fetch()
