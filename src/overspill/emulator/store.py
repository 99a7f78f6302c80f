"""What survives the emulator: groups, client tokens, image caches and the bill, in one SQLite file.

In: values to keep. Out: the same after a restart. Invariant: a row is written before the reply that tells
of it; `kill -9` at any moment loses nothing that a client was told (the write-ahead log is in the
kernel's hands by then; a power failure may cost the last moments).
The file holds environment variables and registry passwords of groups: it is readable by its owner alone.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from overspill.emulator.bill import Line
from overspill.emulator.groups import Group
from overspill.emulator.images import ImageCache
from overspill.emulator.requests import CreateContainerGroup

__all__ = ["Store", "Token", "read_bill"]

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS groups (id TEXT PRIMARY KEY, record BLOB NOT NULL, request BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
  token TEXT PRIMARY KEY, digest TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS bill (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, cpu REAL NOT NULL, memory REAL NOT NULL, price REAL NOT NULL,
  began REAL NOT NULL, ended REAL, tags TEXT NOT NULL) STRICT;
"""
BILL_COLUMNS = "id, name, cpu, memory, price, began, ended, tags"


class Token(Struct, frozen=True):
    """What was answered to a ClientToken, and a digest of what was asked."""

    digest: str
    answer: str


class Store:
    """The open file; one per process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        os.chmod(path, 0o600)  # noqa: PTH101 - touch leaves an existing file's mode alone
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All writes inside as one transaction."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def meta(self, name: str, value: str) -> str:
        """What is kept under a name; `value` if nothing is yet, which is kept from then on."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def add_group(self, group: Group, request: CreateContainerGroup) -> None:
        """Keep a new group, or an old one with another request."""
        row = (group.id, msgspec.json.encode(group), msgspec.json.encode(request))
        self._db.execute("INSERT OR REPLACE INTO groups VALUES (?, ?, ?)", row)

    def put_group(self, group: Group) -> None:
        """Keep a group's next value."""
        self._db.execute("UPDATE groups SET record = ? WHERE id = ?", (msgspec.json.encode(group), group.id))

    def drop_group(self, group_id: str) -> None:
        """Forget a group; its line of the bill stays."""
        self._db.execute("DELETE FROM groups WHERE id = ?", (group_id,))

    def groups(self) -> list[tuple[Group, CreateContainerGroup]]:
        """All groups, in the order of their creation."""
        rows = self._db.execute("SELECT record, request FROM groups").fetchall()
        found = [
            (msgspec.json.decode(record, type=Group), msgspec.json.decode(request, type=CreateContainerGroup))
            for record, request in rows
        ]
        return sorted(found, key=lambda pair: pair[0].seq)

    def token(self, token: str) -> Token | None:
        """What was answered to a client token."""
        row = self._db.execute("SELECT digest, answer FROM tokens WHERE token = ?", (token,)).fetchone()
        return Token(*row) if row else None

    def put_token(self, token: str, kept: Token, *, at: float) -> None:
        """Keep an answer."""
        self._db.execute(
            "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?)", (token, kept.digest, kept.answer, at)
        )

    def drop_tokens(self, before: float) -> None:
        """Forget the answers that are older."""
        self._db.execute("DELETE FROM tokens WHERE at < ?", (before,))

    def put_image(self, cache: ImageCache) -> None:
        """Keep an image cache."""
        self._db.execute(
            "INSERT OR REPLACE INTO images VALUES (?, ?)", (cache.id, msgspec.json.encode(cache))
        )

    def drop_image(self, cache_id: str) -> None:
        """Forget an image cache."""
        self._db.execute("DELETE FROM images WHERE id = ?", (cache_id,))

    def images(self) -> list[ImageCache]:
        """All image caches."""
        rows = self._db.execute("SELECT record FROM images ORDER BY rowid").fetchall()
        return [msgspec.json.decode(row[0], type=ImageCache) for row in rows]

    def begin_billing(self, line: Line) -> None:
        """Bill a group from now on; nothing changes if it is billed already."""
        row = (line.group, line.name, line.cpu, line.memory, line.price, line.began, line.ended)
        self._db.execute(
            "INSERT OR IGNORE INTO bill VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, msgspec.json.encode(line.tags).decode()),
        )

    def end_billing(self, group_id: str, *, at: float) -> None:
        """Bill a group no longer."""
        self._db.execute("UPDATE bill SET ended = ? WHERE id = ? AND ended IS NULL", (at, group_id))

    def bill(self) -> list[Line]:
        """All lines."""
        return list(_lines(self._db))


def read_bill(path: Path) -> list[Line]:
    """The bill of a state folder, whether the emulator runs or not."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return list(_lines(db))


def _lines(db: sqlite3.Connection) -> Iterable[Line]:
    for *values, tags in db.execute(f"SELECT {BILL_COLUMNS} FROM bill ORDER BY began"):  # noqa: S608 - a constant
        fields = dict(zip(Line.__struct_fields__, values, strict=False))
        yield Line(**fields, tags=msgspec.json.decode(tags, type=dict[str, str]))
