"""The rows of one partition on the local disk: a copy of its changelog, to start from.

The store never holds the only copy: if the file is damaged, of another version or of another
partition, it is replaced by an empty one and the changelog is read from Kafka again. Each row has a
checksum, and the checkpoint too, so a changed byte is damage.

A row is void if a row with a higher epoch comes before it in the changelog. Invariant: the store
has the last row of each key that is not void. A void row is stored only for a key without a row,
because compaction may have removed the row that it replaces.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from pipeline.processors import rows
from runtime import sqlite
from runtime.damaged_files import OnDamage
from runtime.sqlite import DamagedError, Durability, checksum

_VERSION: Final = 4
_MEMORY: Final = Path(":memory:")
# Damaged files are kept for a person to look at; more would fill the disk.
_DAMAGED_KEPT: Final = 2
# A row is 1 to 2 KB: a page holds several, without overflow pages (WITHOUT ROWID needs them).
_PAGE_BYTES: Final = 8192
# Keys are random, so each batch of rows touches all pages of the index. Writing the index for every
# batch took twice the time of the rows.
_COMMIT_EVERY_ROWS: Final = 10_000
_CACHE_KIB: Final = 2_000
_CATCH_UP_CACHE_KIB: Final = 8_000
_SCRIPT: Final = """
CREATE TABLE rows (key BLOB PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE checkpoint (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    changelog TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
"""
_SCHEMA: Final = sqlite.Schema(_SCRIPT, _VERSION, _PAGE_BYTES)
_PUT: Final = (
    "INSERT INTO rows VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET body = excluded.body, crc = excluded.crc"
)
_PUT_IF_NEW: Final = "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_DROP: Final = "DELETE FROM rows WHERE key = ?"


class LocalStore:
    """The rows of one partition, up to the changelog offset `next_offset`.

    Rows of the changelog are written in long transactions. After a crash inside one, rows and
    offset are those from before it. `epoch` is the highest epoch of a row so far. Any method raises
    OSError or sqlite3.Error if the disk fails or the file is damaged; then the caller calls
    `abandon`, opens a new store and reads the changelog again.
    """

    def __init__(
        self,
        path: Path,
        changelog: str,
        db: sqlite.Database,
        on_damage: OnDamage,
        *,
        commit_every_rows: int,
    ) -> None:
        self.path = path
        self._changelog = changelog
        self._on_damage = on_damage
        self._commit_every_rows = commit_every_rows
        self._db = db
        self._unsaved = 0
        self._is_catching_up = False
        self.next_offset, self.epoch = self._read_checkpoint()

    @classmethod
    def open(
        cls,
        path: Path,
        changelog: str,
        on_damage: OnDamage,
        *,
        commit_every_rows: int = _COMMIT_EVERY_ROWS,
    ) -> Self:
        """Return the store at `path`, an empty one if it is missing or of another version.

        `changelog` names topic and partition. A file that is damaged or of another changelog is
        renamed, `on_damage` is called, and an empty store is returned. Changelog rows are committed
        after `commit_every_rows` of them. Raises OSError or sqlite3.Error if the disk fails.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return cls._open(path, changelog, on_damage, commit_every_rows)
        except sqlite.VersionError:
            sqlite.delete_files(path)
        except Exception as error:
            if not sqlite.is_damage(error):
                raise
            on_damage(path, sqlite.quarantine(path, keep=_DAMAGED_KEPT), error)
        return cls._open(path, changelog, on_damage, commit_every_rows)

    @classmethod
    def _open(cls, path: Path, changelog: str, on_damage: OnDamage, commit_every_rows: int) -> Self:
        db = _open_database(path, changelog)
        try:
            return cls(path, changelog, db, on_damage, commit_every_rows=commit_every_rows)
        except BaseException:
            db.close()
            raise

    @classmethod
    def open_in_memory(cls, changelog: str) -> Self:
        """Return an empty store that is lost with the process."""
        db = sqlite.open_database(_MEMORY, _SCHEMA)
        _insert_checkpoint(db, changelog)
        return cls(_MEMORY, changelog, db, _ignore, commit_every_rows=_COMMIT_EVERY_ROWS)

    def abandon(self, error: Exception) -> None:
        """Close a store that failed with this error, without a commit.

        If the error is damage, the file is renamed and `on_damage` is called. Raises OSError if
        that fails.
        """
        # Not `close`: a commit would fail too.
        self._db.close()
        if sqlite.is_damage(error) and self.path != _MEMORY:
            self._on_damage(self.path, sqlite.quarantine(self.path, keep=_DAMAGED_KEPT), error)

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

    def apply_changelog(
        self, changes: Iterable[tuple[bytes, bytes | None]], end: int
    ) -> tuple[int, list[int]]:
        """Apply changelog records in order; return the number of void ones, and the unreadable.

        A change is a key and a row, or None to delete. `end` is the offset after the last of them.
        A void row is written only if its key has no row. A row without an epoch is unreadable: it
        is stored, and its index is in the result. The changes are safe on disk after `flush`.
        """
        void, epoch = 0, self.epoch
        unreadable: list[int] = []
        last: dict[bytes, bytes | None] = {}
        only_void: dict[bytes, bytes] = {}
        prefix = rows.epoch_prefix(epoch)
        for index, (key, body) in enumerate(changes):
            if body is None or body.startswith(prefix):
                last[key] = body
                continue
            try:
                written = rows.epoch_of(body)
            except rows.InvalidRow:
                unreadable.append(index)
                last[key] = body
                continue
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
            self._db.executemany(_PUT_IF_NEW, _with_checksums(only_void))
            self._write_rows(last)
            self._write_checkpoint(end, epoch)
        self._unsaved += len(last) + len(only_void)
        if self._unsaved >= self._commit_every_rows:
            self._commit()
        return void, unreadable

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
        self._db.executemany(_PUT, _with_checksums(changes))
        self._db.executemany(_DROP, [(key,) for key, body in changes.items() if body is None])

    def get(self, key: bytes) -> bytes | None:
        """Return the row of this key; None if the store has none. Raises DamagedError."""
        found = self._db.execute("SELECT body, crc FROM rows WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        self._check(key, *found)
        body: bytes = found[0]
        return body

    def all(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows as (key, row), in no particular order. Raises DamagedError."""
        for key, body, crc in self._db.execute("SELECT key, body, crc FROM rows"):
            self._check(key, body, crc)
            yield key, body

    def _check(self, key: object, body: object, crc: int) -> None:
        # A changed byte can also change the type.
        is_intact = isinstance(key, bytes) and isinstance(body, bytes)
        if not is_intact or checksum(key, body) != crc:  # type: ignore[arg-type]
            raise DamagedError("read", self.path, f"row of {key!r} has another checksum")

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def _read_checkpoint(self) -> tuple[int, int]:
        """Return the next offset and the epoch. Raises DamagedError if they are not as written."""
        row = self._db.execute(
            "SELECT changelog, next_offset, epoch, crc FROM checkpoint"
        ).fetchone()
        if row is None or row[3] != _checkpoint_checksum(*row[:3]):
            raise DamagedError("read", self.path, "checkpoint has another checksum")
        changelog, end, epoch, _ = row
        if changelog != self._changelog:
            raise DamagedError("read", self.path, f"store of {changelog}, not {self._changelog}")
        return end, epoch

    def _write_checkpoint(self, end: int, epoch: int) -> None:
        self._db.execute(
            "UPDATE checkpoint SET next_offset = ?, epoch = ?, crc = ?",
            (end, epoch, _checkpoint_checksum(self._changelog, end, epoch)),
        )
        self.next_offset, self.epoch = end, epoch

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Extend the open transaction, or begin one; the caller commits it.

        An exception rolls back all of it, and sets offset and epoch as they were before it. If
        that fails too, the first exception is raised.
        """
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.rollback()
                self._unsaved = 0
                self.next_offset, self.epoch = self._read_checkpoint()
            raise

    def _commit(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        self._unsaved = 0


def _with_checksums(
    changes: Mapping[bytes, bytes | None],
) -> list[tuple[bytes, bytes, int]]:
    """Return the changes that are rows as (key, row, checksum); deletions are left out."""
    return [(key, body, checksum(key, body)) for key, body in changes.items() if body is not None]


def _checkpoint_checksum(changelog: object, end: object, epoch: object) -> int:
    return checksum(repr((changelog, end, epoch)).encode())


def _insert_checkpoint(db: sqlite.Database, changelog: str) -> None:
    row = (changelog, 0, 0, _checkpoint_checksum(changelog, 0, 0))
    db.execute("INSERT INTO checkpoint VALUES (1, ?, ?, ?, ?)", row)


def _ignore(*_: object) -> None:
    pass


def _open_database(path: Path, changelog: str) -> sqlite.Database:
    """Return the database at `path`, created if it is missing or has no bytes.

    A new one is created under another name, then renamed: a reader finds it with its tables.
    """
    if not path.exists() or path.stat().st_size == 0:
        made = path.with_name(path.name + ".new")
        sqlite.delete_files(made)
        with closing(sqlite.open_database(made, _SCHEMA)) as new:
            _insert_checkpoint(new, changelog)
        # A WAL file left by a deleted store would be applied to the new one.
        sqlite.delete_files(path)
        made.replace(path)
    # A power failure may lose the last transactions; they are in Kafka.
    db = sqlite.open_database(path, _SCHEMA, Durability.CACHE, check=True)
    db.execute(f"PRAGMA cache_size=-{_CACHE_KIB:d}")
    return db
