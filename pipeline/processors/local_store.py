"""A partition's rows on this machine's disk: a copy of its changelog, to begin from.

Only ever a copy. Whatever is wrong with it, it is thrown away and read from Kafka again.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from pipeline.processors import rows

_VERSION: Final = 2
# A row is 1 to 2 KB: several to a page, and none spills over, as it would WITHOUT ROWID.
_PAGE_BYTES: Final = 8192
_SCHEMA: Final = """
CREATE TABLE rows (key BLOB PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE reached (one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER, epoch INTEGER);
INSERT INTO reached VALUES (1, 0, 0);
"""
_PUT: Final = "INSERT INTO rows VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
_PUT_IF_NEW: Final = "INSERT INTO rows VALUES (?, ?) ON CONFLICT DO NOTHING"
_DROP: Final = "DELETE FROM rows WHERE key = ?"


class LocalStore:
    """The rows of one partition up to `next`, the changelog offset to go on from."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self.next, self.epoch = db.execute("SELECT next, epoch FROM reached").fetchone()

    @classmethod
    def open(cls, path: Path) -> Self:
        """What is there, or an empty one. Raises OSError, sqlite3.Error where the disk refuses."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return cls(path, _opened(path))
        except sqlite3.DatabaseError:
            remove(path)
            return cls(path, _opened(path))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def clear(self) -> None:
        """Begin again from nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM rows")
        self._reach(0, 0)

    def follow(self, changes: Iterable[tuple[bytes, bytes | None]], end: int) -> int:
        """Take changelog records, in order, up to before offset `end`. Gives how many were void:
        of an owner that had lost the partition. Raises BadRow."""
        void, epoch = 0, self.epoch
        last: dict[bytes, bytes | None] = {}
        only_void: dict[bytes, bytes] = {}
        for key, body in changes:
            written = epoch if body is None else rows.epoch_of(body)
            if body is not None and written < epoch and last.get(key, b"") is not None:
                # Compaction may have left only the void row: then it is the best there is.
                only_void.setdefault(key, body)
            else:
                last[key] = body
            void += written < epoch
            epoch = max(epoch, written)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(_PUT_IF_NEW, only_void.items())
        self._take(last)
        self._reach(end, epoch)
        return void

    def put(self, changes: Mapping[bytes, bytes | None], end: int, epoch: int) -> None:
        """Take rows that this worker wrote itself, as owner of the partition."""
        self._db.execute("BEGIN IMMEDIATE")
        self._take(changes)
        self._reach(end, epoch)

    def _take(self, changes: Mapping[bytes, bytes | None]) -> None:
        self._db.executemany(_PUT, [one for one in changes.items() if one[1] is not None])
        self._db.executemany(_DROP, [(key,) for key, body in changes.items() if body is None])

    def get(self, key: bytes) -> bytes | None:
        """One row."""
        found = self._db.execute("SELECT body FROM rows WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def all(self) -> Iterator[tuple[bytes, bytes]]:
        """Every row."""
        return iter(self._db.execute("SELECT key, body FROM rows"))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def _reach(self, end: int, epoch: int) -> None:
        self._db.execute("UPDATE reached SET next = ?, epoch = ?", (end, epoch))
        self._db.execute("COMMIT")
        self.next, self.epoch = end, epoch


def remove(path: Path) -> None:
    """Delete a store's files."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _opened(path: Path) -> sqlite3.Connection:
    # A thread of its own may write what another has read: never two at a time.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("of another version")
            db.execute(f"PRAGMA page_size={_PAGE_BYTES:d}")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={_VERSION:d}")
            db.execute("COMMIT")
        # The disk may lose the last transactions with the power: Kafka has them.
        db.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        db.close()
        raise
    return db
