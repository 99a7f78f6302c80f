"""ConfigMaps and Secrets behind running pods' files, read again and again to notice that they changed.

In: which version of which object each pod's files were made of. Out: the keys of pods whose files are
out of date. Invariant: an object is read once per period, by its name, however many pods use it, and not
at all once nobody does or it is immutable; a pod without such files is not known here.

There are no watches, on purpose: a role that cannot name the objects beforehand would have to let the agent
list and watch all of them (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources),
and each watch would hold a connection. A read is answered from the apiserver's own cache. The kubelet promises
"sync period plus cache delay", about two minutes; here it is `PERIOD`.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping

import structlog
from msgspec import Struct

from overspill.agent.references import ConfigMap, ObjectName, Secret
from overspill.agent.sources import Sources
from overspill.errors import Expired, OverspillError
from overspill.kube.cache import Key

__all__ = ["PERIOD", "UNKNOWN", "Freshness"]

log = structlog.get_logger(__name__)

PERIOD = 45.0  # seconds between two reads of an object
TICK = 1.0
PARALLEL_READS = 4
# The version that a pod's files were made of, if an earlier agent made them.
UNKNOWN = "?"


class _Object(Struct):
    """One object that is followed; `due` is when it is read next, `version` what was read last."""

    due: float
    version: str = ""
    followers: set[Key] = set()


class Freshness:
    """Follows the objects of pods."""

    def __init__(
        self,
        sources: Sources,
        *,
        stale: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stale` is called for each pod whose files have become out of date."""
        self._sources = sources
        self._tell = stale
        self._clock = clock
        self._objects: dict[ObjectName, _Object] = {}
        self._used: dict[Key, dict[ObjectName, str]] = {}
        self._stale: dict[Key, set[ObjectName]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def follow(self, key: Key, used: Mapping[ObjectName, str]) -> None:
        """A pod's files were made of these objects in these versions ("" for one that was not there)."""
        if not used:
            return
        self._used.setdefault(key, {}).update(used)
        for name, version in used.items():
            followed = self._objects.get(name)
            if followed is None:
                followed = self._objects[name] = _Object(self._clock() + PERIOD)
            if version == UNKNOWN:
                followed.due = self._clock()  # it may have changed while nobody looked
            followed.followers.add(key)

    def forget(self, key: Key) -> None:
        """The pod is no more."""
        self._stale.pop(key, None)
        for name in self._used.pop(key, ()):
            followers = self._objects[name].followers
            followers.discard(key)
            if not followers:
                del self._objects[name]

    def take_stale(self, key: Key) -> frozenset[ObjectName]:
        """The objects of a pod that have changed since; the caller makes its files anew."""
        return frozenset(self._stale.pop(key, ()))

    def give_back(self, key: Key, stale: frozenset[ObjectName]) -> None:
        """What was taken could not be dealt with."""
        if stale and key in self._used:
            self._stale.setdefault(key, set()).update(stale)

    async def run(self) -> None:
        """Read what is due, for ever."""
        while True:
            await self.read_due()
            await asyncio.sleep(TICK)

    async def read_due(self) -> None:
        """Read every object whose time has come."""
        now = self._clock()
        due = [name for name, followed in self._objects.items() if followed.due <= now]
        if not due:
            return
        names = iter(due)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(PARALLEL_READS, len(due))):
                tasks.create_task(self._read_each(names))

    async def _read_each(self, names: Iterator[ObjectName]) -> None:
        for name in names:
            await self._read(name)

    async def _read(self, name: ObjectName) -> None:
        followed = self._objects.get(name)
        if followed is None:
            return
        followed.due = self._clock() + PERIOD
        try:
            found = await self._sources.reread(name, not_before=followed.version)
        except OverspillError as error:
            log.warning("object of running pods could not be read", object=name, error=str(error))
            if isinstance(error, Expired):  # etcd was restored: what was read last is of the future
                followed.version = ""
        else:
            self._compare(name, followed, found)

    def _compare(self, name: ObjectName, followed: _Object, found: ConfigMap | Secret | None) -> None:
        followed.version = found.metadata.resource_version if found else ""
        if found and found.immutable:
            followed.due = float("inf")
        for key in followed.followers:
            if self._used[key][name] != followed.version:
                self._stale.setdefault(key, set()).add(name)
                self._tell(key)
