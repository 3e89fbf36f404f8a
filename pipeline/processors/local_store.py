"""The rows of one partition on the local disk: a copy of its changelog, to start from.

If the file is damaged or of another version, it is deleted and the changelog is read from Kafka
again: the store never holds the only copy.

A row is void if a row with a higher epoch comes before it in the changelog. Invariant: the store
has the last row of each key that is not void. A void row is stored only for a key without a row,
because compaction may have removed the row that it replaces.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from pipeline.processors import rows
from runtime import sqlite
from runtime.sqlite import Durability

_VERSION: Final = 3
# A row is 1 to 2 KB: a page holds several, without overflow pages (WITHOUT ROWID needs them).
_PAGE_BYTES: Final = 8192
# Keys are random, so each batch of rows touches all pages of the index. Writing the index for every
# batch took twice the time of the rows.
_COMMIT_EVERY_ROWS: Final = 10_000
_CACHE_KIB: Final = 2_000
_CATCH_UP_CACHE_KIB: Final = 8_000
_SCRIPT: Final = """
CREATE TABLE rows (key BLOB PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE checkpoint (
    one INTEGER PRIMARY KEY CHECK (one = 1), next_offset INTEGER, epoch INTEGER
);
INSERT INTO checkpoint VALUES (1, 0, 0);
"""
_SCHEMA: Final = sqlite.Schema(_SCRIPT, _VERSION, _PAGE_BYTES)
_PUT: Final = "INSERT INTO rows VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
_PUT_IF_NEW: Final = "INSERT INTO rows VALUES (?, ?) ON CONFLICT DO NOTHING"
_DROP: Final = "DELETE FROM rows WHERE key = ?"


class LocalStore:
    """The rows of one partition, up to the changelog offset `next_offset`.

    Rows of the changelog are written in long transactions. After a crash inside one, rows and
    offset are those from before it. `epoch` is the highest epoch of a row so far.
    """

    def __init__(self, path: Path, db: sqlite.Database, *, commit_every_rows: int) -> None:
        self.path = path
        self._commit_every_rows = commit_every_rows
        self._db = db
        self._unsaved = 0
        self._is_catching_up = False
        self.next_offset, self.epoch = self._read_checkpoint()

    @classmethod
    def open(cls, path: Path, *, commit_every_rows: int = _COMMIT_EVERY_ROWS) -> Self:
        """Return the store at `path`, an empty one if it is missing, damaged or of another version.

        Changelog rows are committed after `commit_every_rows` of them. Raises OSError or
        sqlite3.Error if the disk cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return cls(path, _open_database(path), commit_every_rows=commit_every_rows)
        except (sqlite3.DatabaseError, sqlite.VersionError):
            sqlite.delete_files(path)
            return cls(path, _open_database(path), commit_every_rows=commit_every_rows)

    def close(self) -> None:
        """Commit and close the file."""
        self._commit()
        self._db.close()

    def clear(self) -> None:
        """Delete all rows and commit; `next_offset` and `epoch` are 0 again."""
        with self._transaction():
            self._db.execute("DELETE FROM rows")
            self._write_checkpoint(0, 0)
        self._commit()

    def apply_changelog(self, changes: Iterable[tuple[bytes, bytes | None]], end: int) -> int:
        """Apply changelog records in order; return the number of void ones.

        A change is a key and a row, or None to delete. `end` is the offset after the last of them.
        A void row is written only if its key has no row. The changes are safe on disk after
        `flush`. Raises InvalidRow, and applies none of them, if a row has no epoch.
        """
        void, epoch = 0, self.epoch
        last: dict[bytes, bytes | None] = {}
        only_void: dict[bytes, bytes] = {}
        prefix = rows.epoch_prefix(epoch)
        for key, body in changes:
            if body is None or body.startswith(prefix):
                last[key] = body
                continue
            written = rows.epoch_of(body)
            if written < epoch:
                void += 1
                if last.get(key, b"") is not None:
                    # Compaction may have left only the void row: write it if there is no other.
                    only_void.setdefault(key, body)
                    continue
            elif written > epoch:
                epoch = written
                prefix = rows.epoch_prefix(epoch)
            last[key] = body
        self._enlarge_cache()
        with self._transaction():
            self._db.executemany(_PUT_IF_NEW, only_void.items())
            self._write_rows(last)
            self._write_checkpoint(end, epoch)
        self._unsaved += len(last) + len(only_void)
        if self._unsaved >= self._commit_every_rows:
            self._commit()
        return void

    def _enlarge_cache(self) -> None:
        if not self._is_catching_up:
            self._is_catching_up = True
            self._db.execute(f"PRAGMA cache_size=-{_CATCH_UP_CACHE_KIB:d}")

    def flush(self) -> None:
        """Commit to disk, and shrink the page cache, which `apply_changelog` enlarges.

        Call it when the changelog is read to its end.
        """
        self._commit()
        if self._is_catching_up:
            self._is_catching_up = False
            self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB:d}")

    def put_rows(self, changes: Mapping[bytes, bytes | None], end: int, epoch: int) -> None:
        """Write and commit rows that this worker published as the owner of the partition.

        A value of None deletes the row. `end` becomes `next_offset`, and `epoch` is set.
        """
        with self._transaction():
            self._write_rows(changes)
            self._write_checkpoint(end, epoch)
        self._commit()

    def _write_rows(self, changes: Mapping[bytes, bytes | None]) -> None:
        self._db.executemany(_PUT, [one for one in changes.items() if one[1] is not None])
        self._db.executemany(_DROP, [(key,) for key, body in changes.items() if body is None])

    def get(self, key: bytes) -> bytes | None:
        """Return the row of this key; None if the store has none."""
        found = self._db.execute("SELECT body FROM rows WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def all(self) -> Iterator[tuple[bytes, bytes]]:
        """Return an iterator over all rows as (key, row), in no particular order."""
        return iter(self._db.execute("SELECT key, body FROM rows"))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def _read_checkpoint(self) -> tuple[int, int]:
        """Return the next offset and the epoch."""
        end, epoch = self._db.execute("SELECT next_offset, epoch FROM checkpoint").fetchone()
        return end, epoch

    def _write_checkpoint(self, end: int, epoch: int) -> None:
        self._db.execute("UPDATE checkpoint SET next_offset = ?, epoch = ?", (end, epoch))
        self.next_offset, self.epoch = end, epoch

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Extend the open transaction, or begin one; the caller commits it.

        An exception rolls back all of it, and sets offset and epoch as they were before it.
        """
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.rollback()
            self._unsaved = 0
            self.next_offset, self.epoch = self._read_checkpoint()
            raise

    def _commit(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        self._unsaved = 0


def _open_database(path: Path) -> sqlite.Database:
    """Return the database at `path`, created if it is missing or has no bytes.

    A new one is created under another name, then renamed: a reader finds it with its tables.
    """
    if not path.exists() or path.stat().st_size == 0:
        made = path.with_name(path.name + ".new")
        sqlite.delete_files(made)
        sqlite.open_database(made, _SCHEMA).close()
        # A WAL file left by a deleted store would be applied to the new one.
        sqlite.delete_files(path)
        made.replace(path)
    # A power failure may lose the last transactions; they are in Kafka.
    db = sqlite.open_database(path, _SCHEMA, Durability.CACHE)
    db.execute(f"PRAGMA cache_size=-{_CACHE_KIB:d}")
    return db
