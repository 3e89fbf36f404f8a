"""Records that wait on disk for Kafka: one SQLite file, in the order they came.

It keeps what its sender was told is safe, so an append is on the disk before it returns (WAL,
synchronous=FULL) and is there whole or not at all. What is forgotten may come back after a crash:
it is sent twice then, under the same event id. One process has it open, and holds a lock.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.gateway.records import Record

FILE: Final = "spool.sqlite"
LOCK: Final = "spool.lock"
VERSION: Final = 1
# What a row costs beside its bytes, rounded up: the limit is about the file.
_ROW_BYTES: Final = 64
_SCHEMA: Final = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    topic TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL
) STRICT;
"""

Hook = Callable[[str], None]


class SpoolError(RuntimeError):
    """The spool cannot be used; the message says why in one line."""


class SpoolFullError(SpoolError):
    """There is no room for these; nothing of them was kept."""


class Spooled(NamedTuple):
    """A record and its place; places count up, and none is given twice."""

    seq: int
    record: Record


class Spool:
    """The file. Not for several threads at once.

    `max_bytes` bounds what waits; `depth` and `size` are what does, `last` is the newest's place (0
    before the first). `on_durable_write` is called with `<what>:before` and
    `<what>:after` around each commit.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, on_durable_write: Hook | None = None
    ) -> None:
        """Open, making what is missing. Raises SpoolError."""
        self.max_bytes = max_bytes
        self._hook = on_durable_write or (lambda _: None)
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot use {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._db = _open_database(path)
        except BlockingIOError:
            os.close(self._lock)
            raise SpoolError(f"another process uses the spool in {folder}") from None
        except BaseException:
            os.close(self._lock)
            raise
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(length(topic) + length(key) + length(value)), 0),"
            " min(at_us), coalesce(max(seq), 0) FROM records"
        ).fetchone()
        self.depth = int(row[0])
        self.size = int(row[1]) + self.depth * _ROW_BYTES
        self._oldest_us: int | None = row[2]
        self.last_seq = int(row[3])

    def close(self) -> None:
        """Let go of the file; again does nothing."""
        self._db.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    @property
    def oldest_at(self) -> datetime | None:
        """When the first of what waits came; None if nothing waits."""
        us = self._oldest_us
        return None if us is None else datetime.fromtimestamp(us / 1e6, UTC)

    def age_s(self) -> float:
        """For how many seconds the first of what waits has; 0 if nothing waits."""
        oldest_at = self.oldest_at
        return 0.0 if oldest_at is None else (datetime.now(UTC) - oldest_at).total_seconds()

    def has_room(self, size: int) -> bool:
        """Whether that many bytes more fit."""
        return self.size + size + _ROW_BYTES <= self.max_bytes

    def append(self, records: Sequence[Record], now: datetime) -> range:
        """Keep all of these behind what waits, or none; their places.

        Raises SpoolFullError, also where the disk is full, and SpoolError.
        """
        cost = sum(record.size + _ROW_BYTES for record in records)
        if self.size + cost > self.max_bytes:
            raise SpoolFullError(f"{self.depth} records wait already ({self.size} bytes)")
        us = round(now.timestamp() * 1e6)
        rows = [(us, *record) for record in records]
        insert = "INSERT INTO records (at_us, topic, key, value) VALUES (?, ?, ?, ?)"
        self._commit("append", insert, rows)
        (self.last_seq,) = self._db.execute("SELECT max(seq) FROM records").fetchone()
        self.depth += len(rows)
        self.size += cost
        if self._oldest_us is None:
            self._oldest_us = us
        return range(self.last_seq - len(rows) + 1, self.last_seq + 1)

    def read_after(self, seq: int, *, max_records: int, max_bytes: int) -> list[Spooled]:
        """The first of those behind this place: at least one if there is one, then as many as
        both limits let. Raises SpoolError."""
        query = "SELECT seq, topic, key, value FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
        found: list[Spooled] = []
        size = 0
        try:
            with closing(self._db.execute(query, (seq, max_records))) as rows:
                for row_seq, *record in rows:
                    one = Spooled(row_seq, Record(*record))
                    size += one.record.size
                    if found and size > max_bytes:
                        break
                    found.append(one)
        except sqlite3.Error as error:
            raise SpoolError(f"cannot read the spool: {error}") from error
        return found

    def delete(self, delivered: Iterable[Spooled]) -> None:
        """Kafka has these. Raises SpoolError."""
        deleted = list(delivered)
        self._commit("forget", "DELETE FROM records WHERE seq = ?", [(one.seq,) for one in deleted])
        self.depth -= len(deleted)
        self.size -= sum(one.record.size + _ROW_BYTES for one in deleted)
        query = "SELECT at_us FROM records ORDER BY seq LIMIT 1"
        row = self._db.execute(query).fetchone()
        self._oldest_us = None if row is None else row[0]

    def _commit(self, label: str, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(statement, rows)
            self._hook(f"{label}:before")
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            kind = SpoolFullError if full else SpoolError
            raise kind(f"cannot write the spool: {error}") from error
        self._hook(f"{label}:after")


def _open_database(path: Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise SpoolError(f"cannot open {path}: {error}") from error
    try:
        path.chmod(0o600)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise SpoolError(f"{path} has version {version}; this Drydock reads up to {VERSION}")
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
        with closing(db.execute("PRAGMA quick_check")) as check:
            (found,) = check.fetchone()
        if found != "ok":
            raise SpoolError(f"{path} is damaged: {found}")
    except sqlite3.Error as error:
        db.close()
        raise SpoolError(f"cannot use {path}: {error}") from error
    except BaseException:
        db.close()
        raise
    return db
