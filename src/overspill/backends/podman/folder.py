"""A pod's folder: the record by which an agent that was killed goes on, and the files that Podman mounts.

In: a `WorkSpec`, a deletion, an eviction, ends. Out: the same, read back. Invariant:
the folder appears under its name only with its record complete, and is the last
thing of a pod to go; so a pod is known exactly as long as it has a folder.
The record may hold secrets: folder and files are the owner's alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from msgspec import Struct

from overspill.backends.podman.seen import Deletion, Eviction, Run
from overspill.backends.podman.trees import remove_tree
from overspill.model.work import Identity, WorkSpec

__all__ = ["Folder", "Record", "folders", "node_root", "read"]

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Record(Struct, frozen=True):
    """What the supervisor needs to go on: the work, and when it was taken on (seconds since 1970)."""

    taken_at: float
    work: WorkSpec


class Folder:
    """One pod's folder. Its methods are quick enough for the event loop, but for `remove`."""

    def __init__(self, root: Path, identity: Identity) -> None:
        self.path = root / f"{identity.uid}.{identity.attempt}"
        self._namespace = identity.namespace

    @property
    def hosts(self) -> Path:
        """The pod's /etc/hosts."""
        return self.path / "hosts"

    @property
    def resolv_conf(self) -> Path:
        """The pod's /etc/resolv.conf."""
        return self.path / "resolv.conf"

    def volume(self, name: str) -> Path:
        """The directory of a volume."""
        return self.path / "volumes" / name

    def kept(self, name: str) -> Path:
        """The directory of a volume that outlives its pods; those of another namespace have another one."""
        # A node's name has no "_", so this is no node's folder.
        return self.path.parent.parent / "_kept" / self._namespace / name

    def log(self, container: str, number: int) -> Path:
        """The output of one run of a container."""
        return self.path / "logs" / f"{container}-{number}.log"

    def create(self, record: Record) -> bool:
        """Record a pod; False if it is recorded already."""
        if self.record():
            return False
        if self.path.exists():  # with no record, or a broken one; its volumes stay
            self._lay_out(self.path)
            self.rewrite(record)
            return True
        draft = self.path.with_name(f".{self.path.name}")
        remove_tree(draft)
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir(mode=0o700)
        self._lay_out(draft)
        _write(draft / "record.json", record)
        draft.rename(self.path)
        return True

    def record(self) -> Record | None:
        """What was recorded."""
        return read(self.path / "record.json", Record)

    @staticmethod
    def _lay_out(path: Path) -> None:
        for name in ("logs", "volumes"):
            (path / name).mkdir(exist_ok=True)

    def rewrite(self, record: Record) -> None:
        """Record a pod anew: what is wanted of it has changed."""
        _write(self.path / "record.json", record)

    def exists(self) -> bool:
        """Whether the pod is recorded."""
        return (self.path / "record.json").exists()

    def deletion(self) -> Deletion | None:
        """The end that was asked for."""
        return read(self.path / "deletion.json", Deletion)

    def write_deletion(self, deletion: Deletion) -> None:
        """Remember that the end was asked for."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(exist_ok=True, mode=0o700)
        _write(self.path / "deletion.json", deletion)

    def eviction(self) -> Eviction | None:
        """Why the backend gave the pod up."""
        return read(self.path / "eviction.json", Eviction)

    def write_eviction(self, eviction: Eviction) -> None:
        """Remember that the backend gave the pod up."""
        _write(self.path / "eviction.json", eviction)

    def ended(self) -> list[Run]:
        """The runs that ended for good."""
        files = (self.path / "ended").glob("[!.]*")
        return [run for file in files if (run := read(file, Run))]

    def write_ended(self, run: Run) -> None:
        """Remember a run that ended for good: somebody may remove its container, as `podman container prune` does."""
        path = self.path / "ended" / run.container
        path.parent.mkdir(exist_ok=True)
        _write(path, run)

    def forget_ended(self, run: Run) -> None:
        """The run is to count no more."""
        (self.path / "ended" / run.container).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it with all volumes; under another name first, so that a kill in between leaves no half."""
        doomed = self.path.with_name(f".{self.path.name}.gone")
        if self.path.exists():
            remove_tree(doomed)
            self.path.rename(doomed)
        remove_tree(doomed)


def node_root(data_dir: str, cluster: str, node: str) -> Path:
    """Where the folders of one virtual node are."""
    return Path(data_dir) / cluster / node


def folders(root: Path) -> Iterator[tuple[Folder, Record]]:
    """Every recorded pod; drafts and half-removed folders that a kill left are cleared away."""
    root.mkdir(parents=True, exist_ok=True)
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            remove_tree(entry)
            continue
        if record := read(entry / "record.json", Record):
            yield Folder(root, record.work.identity), record


def _write(path: Path, value: Any) -> None:
    draft = path.with_name(f".{path.name}")
    draft.touch(mode=0o600)
    draft.write_bytes(msgspec.json.encode(value))
    draft.rename(path)


def read(path: Path, kind: type[T]) -> T | None:
    """What was written there; None if nothing was, or nothing whole.

    After a power cut a file may be empty, for none is waited for until the disk has it: that would be several such waits
    for each pod, and what is lost the apiserver tells once more.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        log.warning("file is broken and passed over", path=str(path))
        return None
