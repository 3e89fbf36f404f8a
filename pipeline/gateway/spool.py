"""Records that wait on disk for Kafka: one SQLite file, in the order of their arrival.

The gateway responds 200 for a record that is here, so `append` returns only when all its records
are on disk (WAL, synchronous=FULL); after a crash, all of them are there or none. After a crash
between Kafka's acknowledgement and the deletion, a record is sent twice, with the same event id.
One process at a time has the spool open; it holds a file lock.

To delete a record, SQLite needs space. So `append` leaves a reserve of the volume free, and a
deletion that fails all the same is kept in memory: such a record is no longer read, and it is
deleted with the next deletion that succeeds. If nothing else is left, the file is made anew.
"""

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.gateway.records import Record
from pipeline.gateway.seq_ranges import SeqRanges
from runtime import sqlite
from runtime.free_space import SpaceReserve

FILE: Final = "spool.sqlite"
LOCK: Final = "spool.lock"
VERSION: Final = 1
# Overhead of a row beside its bytes, rounded up: the limit is for the size of the file.
_ROW_BYTES: Final = 64
# A transaction that deletes more would write a long WAL, on a disk that may be full.
_MAX_DELETE_RECORDS: Final = 5000
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
_INSERT: Final = "INSERT INTO records (at_us, topic, key, value) VALUES (?, ?, ?, ?)"
_READ: Final = "SELECT seq, topic, key, value FROM records WHERE seq > ? ORDER BY seq"
_READ_TIMES: Final = "SELECT seq, at_us FROM records WHERE seq > ? ORDER BY seq"
_DELETE: Final = "DELETE FROM records WHERE seq BETWEEN ? AND ?"
_SET_LAST_SEQ: Final = "INSERT INTO sqlite_sequence VALUES ('records', ?)"


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
    `failure` is the error of the last write, None if it succeeded. `on_durable_write` is called
    with `append:before`, `append:after`, `forget:before` or `forget:after`, around each commit.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        space: SpaceReserve | None = None,
        on_durable_write: sqlite.Hook | None = None,
    ) -> None:
        """Open the spool in `folder`; create folder and file if missing.

        `space` is the volume of the folder. Raises SpoolError if another process has it open, if it
        is damaged or of a newer version, or if the disk fails.
        """
        self.max_bytes = max_bytes
        self.failure: str | None = None
        self._folder = folder
        self._space = space or SpaceReserve(folder)
        self._on_durable_write = on_durable_write
        self._db = _open_database(folder, on_durable_write)
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(length(topic) + length(key) + length(value)), 0),"
            " min(at_us), coalesce(max(seq), 0) FROM records"
        ).fetchone()
        self.depth = int(row[0])
        self.size = int(row[1]) + self.depth * _ROW_BYTES
        self._oldest_us: int | None = row[2]
        self.last_seq = int(row[3])
        self._undeleted = SeqRanges()

    def close(self) -> None:
        """Close the file and release the lock. A second call does nothing.

        A file of which all records are delivered is deleted if they could not be.
        """
        self._db.close()
        if self._undeleted.count and not self.depth:
            with suppress(OSError):
                sqlite.delete_files(self._folder / FILE)
        self._undeleted = SeqRanges()

    @property
    def undeleted(self) -> int:
        """Number of delivered records that the disk refuses to delete."""
        return self._undeleted.count

    @property
    def oldest_at(self) -> datetime | None:
        """Arrival of the oldest waiting record; None if no record waits."""
        us = self._oldest_us
        return None if us is None else datetime.fromtimestamp(us / 1e6, UTC)

    def age_s(self) -> float:
        """Return the age of the oldest waiting record in seconds; 0 if no record waits."""
        oldest_at = self.oldest_at
        return 0.0 if oldest_at is None else (datetime.now(UTC) - oldest_at).total_seconds()

    def shortage(self, size: int) -> str | None:
        """Return the reason for which one more record of `size` bytes has no room.

        None if it has: within the limit, and beside the reserve of the volume.
        """
        if self.size + size + _ROW_BYTES > self.max_bytes:
            return f"the spool is full: {self.depth} records wait ({self.size} bytes)"
        # A record is in the WAL first, and then in the file too.
        return self._space.shortage(2 * size)

    def append(self, records: Sequence[Record], now: datetime) -> range:
        """Write all of these records behind the waiting ones, or none; return their `seq` range.

        `now` is their time of arrival. Raises SpoolFullError if the limit or the reserve of the
        volume is reached, or the disk is full; SpoolError for other failures of the disk.
        """
        cost = sum(record.size + _ROW_BYTES for record in records)
        shortage = self.shortage(cost - _ROW_BYTES)
        if shortage is not None:
            raise SpoolFullError(shortage)
        us = round(now.timestamp() * 1e6)
        rows = [(us, *record) for record in records]
        with self._transaction("append"):
            self._db.executemany(_INSERT, rows)
        (self.last_seq,) = self._db.execute("SELECT max(seq) FROM records").fetchone()
        self.depth += len(rows)
        self.size += cost
        if self._oldest_us is None:
            self._oldest_us = us
        return range(self.last_seq - len(rows) + 1, self.last_seq + 1)

    def read_after(self, seq: int, *, max_records: int, max_bytes: int) -> list[Spooled]:
        """Return the oldest waiting records with a `seq` over this one, within both limits.

        At least one record is returned if there is one, however large; else the list is empty.
        Raises SpoolError if the file cannot be read.
        """
        found: list[Spooled] = []
        size = 0
        try:
            with closing(self._waiting_rows(_READ, seq)) as rows:
                for row_seq, *record in rows:
                    one = Spooled(row_seq, Record(*record))
                    size += one.record.size
                    if found and size > max_bytes:
                        break
                    found.append(one)
                    if len(found) >= max_records:
                        break
        except sqlite3.Error as error:
            raise SpoolError(f"cannot read the spool: {error}") from error
        return found

    def delete(self, delivered: Iterable[Spooled]) -> None:
        """Count records that Kafka has acknowledged as delivered, and delete them.

        A failure of the disk does not raise: `failure` is set, `read_after` leaves the records out,
        and a later call deletes them.
        """
        for one in delivered:
            self.depth -= 1
            self.size -= one.record.size + _ROW_BYTES
            self._undeleted.add(one.seq)
        self._delete_undeleted()
        if not self.depth:
            self._oldest_us = None
            return
        with suppress(sqlite3.Error), closing(self._waiting_rows(_READ_TIMES, 0)) as rows:
            self._oldest_us = next(rows, (0, None))[1]

    def retry(self) -> None:
        """Write something if the last write failed, or if delivered records are not deleted.

        `failure` is None afterwards if that succeeded.
        """
        if self._undeleted.count:
            self._delete_undeleted()
        elif self.failure is not None:
            with suppress(SpoolError), self._transaction("probe"):
                # It writes a page, although the version stays.
                self._db.execute(f"PRAGMA user_version={VERSION:d}")

    def _waiting_rows(self, query: str, seq: int) -> Generator[tuple[Any, ...], None, None]:
        """Yield the rows of the waiting records after `seq`, in order."""
        skips = True
        while skips:
            skips = False
            with closing(self._db.execute(query, (seq,))) as rows:
                for row in rows:
                    end = self._undeleted.end_of(row[0])
                    if end is not None:
                        seq, skips = end, True
                        break
                    yield row

    def _delete_undeleted(self) -> None:
        """Delete delivered records, at most 5,000; if no record waits, by making a new file."""
        if not self.depth and self._undeleted.count > _MAX_DELETE_RECORDS:
            self._begin_anew()
            return
        ranges = list(self._undeleted.lowest(_MAX_DELETE_RECORDS))
        try:
            with self._transaction("forget"):
                self._db.executemany(_DELETE, ranges)
        except SpoolError:
            if not self.depth:
                self._begin_anew()
        else:
            for _, last in ranges:
                self._undeleted.remove_to(last)

    def _begin_anew(self) -> None:
        """Put an empty file in place of one with delivered records only; needs no free space.

        Sequence numbers go on. If it fails, `failure` is set and the spool stays closed until
        `retry` succeeds.
        """
        closed = self._db
        lock = closed.detach_lock()
        closed.close()
        try:
            sqlite.delete_files(self._folder / FILE)
            self._db = _open_database(self._folder, self._on_durable_write, has_lock=True)
            with self._transaction("create"):
                self._db.execute(_SET_LAST_SEQ, (self.last_seq,))
        except (OSError, SpoolError) as error:
            self._db.close()  # the numbers of a file without `last_seq` would begin again
            self.failure = f"cannot make the spool anew: {error}"
        else:
            self._undeleted = SeqRanges()
        finally:
            self._db.attach(lock, self._on_durable_write)

    @contextmanager
    def _transaction(self, name: str) -> Iterator[None]:
        """Commit the writes of the block and set `failure`; raise SpoolError if the disk fails."""
        try:
            with self._db.transaction(name):
                yield
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            kind = SpoolFullError if full else SpoolError
            self.failure = f"cannot write the spool: {error}"
            raise kind(self.failure) from error
        self.failure = None


def _open_database(
    folder: Path, on_durable_write: sqlite.Hook | None, *, has_lock: bool = False
) -> sqlite.Database:
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Before SQLite makes the WAL files: they get the permissions of the file.
        path.touch(mode=0o600)
        path.chmod(0o600)
        return sqlite.open_database(
            path,
            _SCHEMA,
            lock=None if has_lock else folder / LOCK,
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
