"""Records that wait on disk for Kafka: one SQLite file, in the order of their arrival.

The gateway responds 200 for a record that is here, so `append` returns only when all its records
are on disk (WAL, synchronous=FULL); after a crash, all of them are there or none. After a crash
between Kafka's acknowledgement and the deletion, a record is sent twice, with the same event id.
One process at a time has the spool open; it holds a file lock.

To delete a record, SQLite needs space. So `append` leaves a reserve of the volume free, and a
deletion that still fails is kept in memory: such a record is no longer read, and it is deleted
with the next deletion that succeeds. If nothing else is left, the file is created again.

The spool has the only copy of its records. If the file is damaged, at open or later, the rows with
right checksums are copied to a new file (`salvage`), and the damaged one is renamed. A record whose
bytes have changed is never sent.

| crash | at the next opening |
| --- | --- |
| while the rows are copied | the damaged file is there: they are copied again |
| after the damaged file was renamed | only the complete copy is there: it is renamed |
"""

import os
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from pipeline.gateway.records import Record
from pipeline.gateway.salvage import Salvaged, salvage
from pipeline.gateway.seq_ranges import SeqRanges
from runtime import sqlite
from runtime.free_space import SpaceReserve

T = TypeVar("T")

FILE: Final = "spool.sqlite"
LOCK: Final = "spool.lock"
VERSION: Final = 2
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
    value BLOB NOT NULL,
    crc INTEGER NOT NULL
) STRICT;
"""
_SCHEMA: Final = sqlite.Schema(_SCRIPT, VERSION)
_INSERT: Final = "INSERT INTO records (at_us, topic, key, value, crc) VALUES (?, ?, ?, ?, ?)"
_INSERT_SALVAGED: Final = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_PROBE: Final = "INSERT INTO records VALUES (NULL, 0, '', x'', zeroblob(?), 0)"
_PROBE_BYTES: Final = 256 * 1024
_READ: Final = "SELECT seq, at_us, topic, key, value, crc FROM records WHERE seq > ? ORDER BY seq"
_READ_TIMES: Final = "SELECT seq, at_us FROM records WHERE seq > ? ORDER BY seq"
_DELETE: Final = "DELETE FROM records WHERE seq BETWEEN ? AND ?"


class SpoolError(RuntimeError):
    """The spool cannot be opened, read or written; the message is one line."""


class SpoolFullError(SpoolError):
    """The records do not fit into the limit or on the disk; none of them is kept."""


class Spooled(NamedTuple):
    """A record in the spool. Sequence numbers increase, and none is used twice."""

    seq: int
    record: Record


class Replaced(NamedTuple):
    """A damaged spool file that was replaced: its path, its path now, the error, and the rows."""

    path: Path
    moved: Path
    error: Exception
    rows: Salvaged


class Spool:
    """The open spool. Only one thread may use it at a time.

    `depth` and `size` are the number and the bytes of the waiting records, 64 bytes of overhead for
    each included; `append` keeps `size` within `max_bytes`. `last_seq` is the sequence number of
    the newest record; 0 until the first `append` if the spool was empty when it was opened.
    `failure` is the error of the last write, None if it succeeded. `on_durable_write` is called
    with `append:before`, `append:after`, `forget:before` or `forget:after`, around each commit;
    `on_replaced` after a damaged file was replaced.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        space: SpaceReserve | None = None,
        on_durable_write: sqlite.Hook | None = None,
        on_replaced: Callable[[Replaced], None] = lambda _: None,
    ) -> None:
        """Open the spool in `folder`; create folder and file if missing.

        `space` is the volume of the folder. Raises SpoolError if another process has it open, if it
        is of another version, or if the disk fails.
        """
        self.max_bytes = max_bytes
        self.failure: str | None = None
        self.depth = self.size = self.last_seq = 0
        self._oldest_us: int | None = None
        self._undeleted = SeqRanges()
        self._space = space or SpaceReserve(folder)
        self._path = folder / FILE
        self._on_durable_write = on_durable_write
        self._on_replaced = on_replaced
        self._lock: int | None = _prepare_folder(folder)
        try:
            with _spool_errors("use", self._path):
                self._finish_replacing()
                try:
                    self._db = self._open_file()
                except sqlite3.DatabaseError as error:
                    if not sqlite.is_damage(error):
                        raise
                    self._replace(error, None)
        except BaseException:
            self._release_lock()
            raise

    def _open_file(self) -> sqlite.Database:
        """Return the file, open, and count its records."""
        if self._path.exists() and not self._path.stat().st_size:
            # SQLite would take it for a new one and delete its WAL, which may have records.
            raise sqlite.DamagedError("read", self._path, "the file is empty")
        # Before SQLite makes the WAL files: they get the permissions of the file.
        self._path.touch(mode=0o600)
        self._path.chmod(0o600)
        db = sqlite.open_database(
            self._path, _SCHEMA, check=True, on_durable_write=self._on_durable_write
        )
        try:
            row = db.execute(
                "SELECT count(*), coalesce(sum(length(topic) + length(key) + length(value)), 0),"
                " min(at_us), coalesce(max(seq), 0) FROM records"
            ).fetchone()
        except BaseException:
            db.close()
            raise
        self.depth = int(row[0])
        self.size = int(row[1]) + self.depth * _ROW_BYTES
        self._oldest_us = row[2]
        # The newest record may be lost: its number is not used again in this process.
        self.last_seq = max(self.last_seq, int(row[3]))
        return db

    def _repair(self, call: Callable[[], T]) -> T:
        """Return the result of a call; if it finds damage, replace the file and call again."""
        try:
            return call()
        except sqlite3.DatabaseError as error:
            if not sqlite.is_damage(error):
                raise
            self._replace(error, self._db)
        return call()

    def _replace(self, error: Exception, damaged: sqlite.Database | None) -> None:
        """Copy the intact rows to a new file, close the damaged one, put the new one in place.

        Delivered records are left out. Raises sqlite3.Error or OSError if the disk fails; then the
        damaged file stays in place.
        """
        made = self._path.with_name(FILE + ".new")
        sqlite.delete_files(made)
        made.touch(mode=0o600)
        with closing(sqlite.open_database(made, _SCHEMA)) as new, new.transaction("salvage"):

            def write(seq: int, row: Sequence[object]) -> None:
                if seq not in self._undeleted:
                    new.execute(_INSERT_SALVAGED, (seq, *row))

            rows = salvage(self._path, VERSION, lambda row: _checksum(row[:-1]) == row[-1], write)
            _set_last_seq(new, self.last_seq)
        if damaged is not None:
            damaged.close()
        moved = sqlite.quarantine(self._path)
        made.replace(self._path)
        self._db = self._open_file()
        self._undeleted = SeqRanges()
        self._on_replaced(Replaced(self._path, moved, error, rows))

    def _finish_replacing(self) -> None:
        """Put a complete new file in place if a crash has prevented that."""
        made = self._path.with_name(FILE + ".new")
        if made.exists() and not self._path.exists():
            sqlite.quarantine(self._path)  # its WAL
            made.replace(self._path)

    def close(self) -> None:
        """Close the file and release the lock. A second call does nothing.

        A file of which all records are delivered is deleted if they could not be.
        """
        self._db.close()
        if self._undeleted.count and not self.depth:
            with suppress(OSError):
                sqlite.delete_files(self._path)
        self._undeleted = SeqRanges()
        self._release_lock()

    def _release_lock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

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
        rows = [(us, *record, _checksum((us, *record))) for record in records]
        self._write("append", _INSERT, rows)
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
        with _spool_errors("read"):
            return self._repair(partial(self._read_after, seq, max_records, max_bytes))

    def _read_after(self, seq: int, max_records: int, max_bytes: int) -> list[Spooled]:
        found: list[Spooled] = []
        size = 0
        with closing(self._waiting_rows(_READ, seq)) as rows:
            for row_seq, *row, crc in rows:
                if _checksum(row) != crc:
                    raise sqlite.DamagedError("read", self._path, f"row {row_seq} has changed")
                one = Spooled(row_seq, Record(*row[1:]))
                size += one.record.size
                if found and size > max_bytes:
                    break
                found.append(one)
                if len(found) >= max_records:
                    break
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
            try:
                with _spool_errors("write"):
                    self._probe()
            except SpoolError as error:
                self.failure = str(error)
            else:
                self.failure = None

    def _probe(self) -> None:
        """Write pages for a large record without keeping it, and commit a page without a change.

        The next append needs about as much. Raises sqlite3.Error if the disk refuses.
        """
        self._db.execute("PRAGMA cache_size=10")  # more changed pages are written before the commit
        try:
            with self._db.transaction("probe"):
                self._db.execute("SAVEPOINT probe")
                self._db.execute(_INSERT_PROBE, (_PROBE_BYTES,))
                self._db.execute("ROLLBACK TO probe")
                self._db.execute(f"PRAGMA user_version={VERSION:d}")
        finally:
            self._db.execute("PRAGMA cache_size=-2000")  # SQLite's own

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
            self._write("forget", _DELETE, ranges)
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
        self._db.close()
        try:
            sqlite.delete_files(self._path)
            self._db = self._open_file()
            with self._db.transaction("create"):
                _set_last_seq(self._db, self.last_seq)
        except (OSError, sqlite3.Error) as error:
            self._db.close()  # the numbers of a file without `last_seq` would begin again
            self.failure = f"cannot create the spool again: {error}"
        else:
            self._undeleted = SeqRanges()
            self.failure = None

    def _write(
        self, name: str, statement: str, rows: Sequence[tuple[object, ...]] | None = None
    ) -> None:
        """Carry out a statement, for each row if there are rows, in one transaction; set `failure`.

        Raises SpoolError if the disk fails.
        """
        try:
            with _spool_errors("write"):
                self._repair(partial(self._commit, name, statement, rows))
        except SpoolError as error:
            self.failure = str(error)
            raise
        self.failure = None

    def _commit(self, name: str, statement: str, rows: Sequence[tuple[object, ...]] | None) -> None:
        with self._db.transaction(name):
            if rows is None:
                self._db.execute(statement)
            else:
                self._db.executemany(statement, rows)


def _checksum(row: Sequence[Any]) -> int:
    """Return the checksum of a row: time, topic, key and value."""
    at_us, topic, key, value = row
    try:
        return sqlite.checksum(b"%d" % at_us, topic.encode(), key, value)
    except (AttributeError, TypeError):
        return -1  # a changed byte can also change the type


def _set_last_seq(db: sqlite.Database, seq: int) -> None:
    """Let the next record get a number above this one and above those in the file."""
    db.execute(
        "INSERT INTO sqlite_sequence SELECT 'records', 0"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence)"
    )
    db.execute("UPDATE sqlite_sequence SET seq = max(seq, ?)", (seq,))


@contextmanager
def _spool_errors(verb: str, path: Path | str = "the spool") -> Iterator[None]:
    """Raise the errors of file and disk in the block as SpoolError."""
    try:
        yield
    except sqlite.VersionError as error:
        wanted = f"{path} has version {error.found}; this Drydock reads up to {VERSION}"
        if error.found < VERSION:
            wanted = (
                f"{path} has version {error.found}, written before release 0.1.0: let the Drydock"
                " that wrote it send its records, then delete it"
            )
        raise SpoolError(wanted) from error
    except sqlite.OpenError as error:
        step = "open" if error.step == "open" else verb
        raise SpoolError(f"cannot {step} {path}: {error.reason}") from error
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        kind = SpoolFullError if full else SpoolError
        raise kind(f"cannot {verb} {path}: {error}") from error
    except OSError as error:
        raise SpoolError(f"cannot {verb} {path}: {error.strerror}") from error


def _prepare_folder(folder: Path) -> int:
    """Create the folder if it is missing, and return the descriptor of its lock.

    Raises SpoolError if the folder cannot be used or another process has the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return sqlite.acquire_lock(folder / LOCK)
    except OSError as error:
        raise SpoolError(f"cannot use {folder}: {error.strerror}") from error
    except sqlite.InUseError:
        raise SpoolError(f"another process uses the spool in {folder}") from None
