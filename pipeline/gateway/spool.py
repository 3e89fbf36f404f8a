"""Records that wait on disk for Kafka: one SQLite file, in the order of their arrival.

The gateway responds 200 for a record that is here, so `append` returns only when all its records
are on disk (WAL, synchronous=FULL); after a crash, all of them are there or none. After a crash
between Kafka's acknowledgement and the deletion, a record is sent twice, with the same event id.
One process at a time has the spool open; it holds a file lock.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.gateway.records import Record
from runtime import sqlite

FILE: Final = "spool.sqlite"
LOCK: Final = "spool.lock"
VERSION: Final = 1
# Overhead of a row beside its bytes, rounded up: the limit is for the size of the file.
_ROW_BYTES: Final = 64
_SCRIPT: Final = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    topic TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL
) STRICT;
"""
_SCHEMA: Final = sqlite.Schema(_SCRIPT, VERSION)


class SpoolError(RuntimeError):
    """The spool cannot be opened, read or written; the message is one line."""


class SpoolFullError(SpoolError):
    """The records do not fit into the limit or on the disk; none of them is kept."""


class Spooled(NamedTuple):
    """A record in the spool. Sequence numbers increase, and none is used twice."""

    seq: int
    record: Record


class Spool:
    """The open spool. Only one thread may use it at a time.

    `depth` and `size` are the number and the bytes of the waiting records, 64 bytes of overhead for
    each included; `append` keeps `size` within `max_bytes`. `last_seq` is the sequence number of
    the newest record; 0 until the first `append` if the spool was empty when it was opened.
    `on_durable_write` is called with `append:before`, `append:after`, `forget:before` or
    `forget:after`, around each commit.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, on_durable_write: sqlite.Hook | None = None
    ) -> None:
        """Open the spool in `folder`; create folder and file if missing.

        Raises SpoolError if another process has it open, if it is damaged or of a newer version, or
        if the disk fails.
        """
        self.max_bytes = max_bytes
        self._db = _open_database(folder, on_durable_write)
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(length(topic) + length(key) + length(value)), 0),"
            " min(at_us), coalesce(max(seq), 0) FROM records"
        ).fetchone()
        self.depth = int(row[0])
        self.size = int(row[1]) + self.depth * _ROW_BYTES
        self._oldest_us: int | None = row[2]
        self.last_seq = int(row[3])

    def close(self) -> None:
        """Close the file and release the lock. A second call does nothing."""
        self._db.close()

    @property
    def oldest_at(self) -> datetime | None:
        """Arrival of the oldest waiting record; None if no record waits."""
        us = self._oldest_us
        return None if us is None else datetime.fromtimestamp(us / 1e6, UTC)

    def age_s(self) -> float:
        """Return the age of the oldest waiting record in seconds; 0 if no record waits."""
        oldest_at = self.oldest_at
        return 0.0 if oldest_at is None else (datetime.now(UTC) - oldest_at).total_seconds()

    def has_room(self, size: int) -> bool:
        """Return True if one more record of `size` bytes fits."""
        return self.size + size + _ROW_BYTES <= self.max_bytes

    def append(self, records: Sequence[Record], now: datetime) -> range:
        """Write all of these records behind the waiting ones, or none; return their `seq` range.

        `now` is their time of arrival. Raises SpoolFullError if the limit is reached or the disk is
        full, SpoolError for other failures of the disk.
        """
        cost = sum(record.size + _ROW_BYTES for record in records)
        if self.size + cost > self.max_bytes:
            raise SpoolFullError(f"spool full: {self.depth} records wait ({self.size} bytes)")
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
        """Return the oldest records with a `seq` over this one, as many as both limits allow.

        At least one record is returned if there is one, however large; else the list is empty.
        Raises SpoolError if the file cannot be read.
        """
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
        """Delete records that Kafka has acknowledged.

        Raises SpoolError if the file cannot be written; then all of them stay.
        """
        deleted = list(delivered)
        self._commit("forget", "DELETE FROM records WHERE seq = ?", [(one.seq,) for one in deleted])
        self.depth -= len(deleted)
        self.size -= sum(one.record.size + _ROW_BYTES for one in deleted)
        query = "SELECT at_us FROM records ORDER BY seq LIMIT 1"
        row = self._db.execute(query).fetchone()
        self._oldest_us = None if row is None else row[0]

    def _commit(self, label: str, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            with self._db.transaction(label):
                self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            kind = SpoolFullError if full else SpoolError
            raise kind(f"cannot write the spool: {error}") from error


def _open_database(folder: Path, on_durable_write: sqlite.Hook | None) -> sqlite.Database:
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Before SQLite makes the WAL files: they get the permissions of the file.
        path.touch(mode=0o600)
        path.chmod(0o600)
        return sqlite.open_database(
            path,
            _SCHEMA,
            lock=folder / LOCK,
            check=True,
            on_durable_write=on_durable_write,
        )
    except OSError as error:
        raise SpoolError(f"cannot use {folder}: {error.strerror}") from error
    except sqlite.InUseError:
        raise SpoolError(f"another process uses the spool in {folder}") from None
    except sqlite.VersionError as error:
        raise SpoolError(
            f"{path} has version {error.found}; this Drydock reads up to {VERSION}"
        ) from error
    except sqlite.OpenError as error:
        step = "open" if error.step == "open" else "use"
        raise SpoolError(f"cannot {step} {path}: {error.reason}") from error
    except sqlite.DamagedError as error:
        raise SpoolError(str(error)) from error
