"""What the apiserver last said, by key.

In: batches of a watch. Out: keys that changed, snapshots. Invariant: the watch is the only writer;
a pod made again under the same name is another key, because its uid is part of the key.
"""

import asyncio
from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from overspill.kube.watch import Batch

__all__ = ["Cache", "Key"]


class Key(NamedTuple):
    """Names one object for its whole life."""

    namespace: str
    name: str
    uid: str


class HasMeta(Protocol):
    """ObjectMeta as far as a cache needs it."""

    name: str
    namespace: str
    uid: str


class HasMetadata(Protocol):
    """An API object."""

    @property
    def metadata(self) -> HasMeta: ...


T = TypeVar("T", bound=HasMetadata)


class Cache(Generic[T]):
    """Objects of one watch."""

    def __init__(self) -> None:
        self.synced = asyncio.Event()
        self._objects: dict[Key, T] = {}
        self._uids: dict[tuple[str, str], str] = {}

    def apply(self, batch: Batch[T]) -> list[Key]:
        """Take a batch in; returns the keys that changed, those deleted while away included."""
        changed: dict[Key, None] = {}
        if batch.replace:
            present = {_key(change.object) for change in batch.changes}
            for key in [key for key in self._objects if key not in present]:
                self._remove(key)
                changed[key] = None
        for change in batch.changes:
            key = _key(change.object)
            if change.type == "DELETED":
                self._remove(key)
            else:
                changed |= dict.fromkeys(self._put(key, change.object))
            changed[key] = None
        if batch.replace:
            self.synced.set()
        return list(changed)

    def get(self, key: Key) -> T | None:
        """The object of exactly this uid, if it is there."""
        return self._objects.get(key)

    def find(self, namespace: str, name: str) -> T | None:
        """The object that has this name now."""
        uid = self._uids.get((namespace, name))
        return None if uid is None else self._objects.get(Key(namespace, name, uid))

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._objects))

    def values(self) -> list[T]:
        """A snapshot of the objects."""
        return list(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def _put(self, key: Key, item: T) -> list[Key]:
        """Store; returns the key of another uid that it takes the name from (its deletion was missed)."""
        name = (key.namespace, key.name)
        older = self._uids.get(name)
        replaced = [Key(*name, older)] if older is not None and older != key.uid else []
        for old in replaced:
            self._remove(old)
        self._objects[key] = item
        self._uids[name] = key.uid
        return replaced

    def _remove(self, key: Key) -> None:
        self._objects.pop(key, None)
        if self._uids.get((key.namespace, key.name)) == key.uid:
            del self._uids[key.namespace, key.name]


def _key(item: HasMetadata) -> Key:
    meta = item.metadata
    return Key(meta.namespace, meta.name, meta.uid)
