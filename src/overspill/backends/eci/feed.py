"""Hands sightings to whoever watches.

In: sightings, one at a time. Out: batches, to each watcher from its call on. Invariant: a watcher
that is slow gets the newest observation of each pod, and every `Gone`, which come first.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from overspill.model.observation import Gone, Observation, Sighting

__all__ = ["Feed"]


class _Watcher:
    """What one watcher has not fetched yet."""

    def __init__(self) -> None:
        self.gone: list[Gone] = []
        self.newest: dict[str, Observation] = {}
        self.news = asyncio.Event()

    def put(self, sighting: Sighting) -> None:
        if isinstance(sighting, Gone):
            self.newest.pop(sighting.identity.uid, None)
            self.gone.append(sighting)
        else:
            self.newest[sighting.identity.uid] = sighting
        self.news.set()

    async def fetch(self) -> Sequence[Sighting]:
        await self.news.wait()
        self.news.clear()
        batch: list[Sighting] = [*self.gone, *self.newest.values()]
        self.gone.clear()
        self.newest.clear()
        return batch


class Feed:
    """Fans sightings out."""

    def __init__(self) -> None:
        self._watchers: set[_Watcher] = set()

    def tell(self, sighting: Sighting) -> None:
        """Hand one on."""
        for watcher in self._watchers:
            watcher.put(sighting)

    def watch(self) -> AsyncIterator[Sequence[Sighting]]:
        """What is told from the call on, in batches."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        return self._batches(watcher)

    async def _batches(self, watcher: _Watcher) -> AsyncIterator[Sequence[Sighting]]:
        try:
            while True:
                yield await watcher.fetch()
        finally:
            self._watchers.discard(watcher)
