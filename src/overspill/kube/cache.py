"""What the apiserver last said, by key.

In: batches of a watch. Out: keys that changed, objects. Invariant: the watch is the only writer; a
pod made again under the same name is another key, because its uid is part of the key.
"""

import asyncio
from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from overspill.kube.frames import Batch

__all__ = ["Cache", "Key"]


class Key(NamedTuple):
    """Names one object for its whole life."""

    namespace: str
    name: str
    uid: str


class _Meta(Protocol):
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


class Named(Protocol):
    """An API object."""

    @property
    def metadata(self) -> _Meta:
        """ObjectMeta."""


T = TypeVar("T", bound=Named)


class Cache(Generic[T]):
    """Objects of one watch.

    Attributes:
        synced: set as soon as the whole state was known once.
    """

    def __init__(self) -> None:
        self.synced = asyncio.Event()
        self._objects: dict[tuple[str, str], T] = {}

    def apply(self, batch: Batch[T]) -> dict[Key, int]:
        """Take a batch in; returns the keys that changed, those deleted while away included, and how often each did.

        An object in the version that is known already is no change: a list fetched again costs nothing.
        """
        changed: dict[Key, int] = {}
        if batch.replace:
            listed = {key_of(change.object) for change in batch.changes}
            for key in [key for key in self if key not in listed]:
                self._delete(key)
                changed[key] = 1
        for change in batch.changes:
            key = key_of(change.object)
            if change.type == "DELETED":
                self._delete(key)
                changed[key] = changed.get(key, 0) + 1
            else:
                for each in self._put(key, change.object):
                    changed[each] = changed.get(each, 0) + 1
        if batch.replace:
            self.synced.set()
        return changed

    def get(self, key: Key) -> T | None:
        """The object of exactly this uid, if it is there."""
        found = self._objects.get((key.namespace, key.name))
        return found if found is not None and found.metadata.uid == key.uid else None

    def find(self, namespace: str, name: str) -> T | None:
        """The object that has this name now."""
        return self._objects.get((namespace, name))

    def __iter__(self) -> Iterator[Key]:
        return iter([key_of(item) for item in self._objects.values()])

    def values(self) -> list[T]:
        """All objects."""
        return list(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def _put(self, key: Key, item: T) -> list[Key]:
        """Store; returns the keys that changed: also that of the one whose name this is now."""
        name = (key.namespace, key.name)
        known = self._objects.get(name)
        self._objects[name] = item
        if known is None:
            return [key]
        if known.metadata.uid != key.uid:  # its deletion was missed
            return [key_of(known), key]
        same = known.metadata.resource_version == item.metadata.resource_version != ""
        return [] if same else [key]

    def _delete(self, key: Key) -> None:
        if self.get(key) is not None:
            del self._objects[key.namespace, key.name]


def key_of(item: Named) -> Key:
    """The key of an object."""
    meta = item.metadata
    return Key(meta.namespace, meta.name, meta.uid)
