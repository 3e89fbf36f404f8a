"""Durable record of attempts, and of results that are not published yet.

SQLite with WAL and synchronous=FULL: a change survives a power cut once its method has returned. A
new state and its results are one transaction. The file is locked while a journal is open: two
executors with one journal would both act.

Each row has a checksum over all its columns, compared when the file is opened and when a row leaves
it. Reading damaged rows could repeat an order or lose a result.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn, Self

from pydantic import TypeAdapter

from agents.journal_entry import JournalEntry, Phase
from agents.proven_time import ProvenTime
from runtime import sqlite
from schemas.envelope import JobResultedEvent
from schemas.ids import event_id
from schemas.jobs import Job, JobIssued
from schemas.results import JobResult, Outcome

_VERSION: Final = 2
_SCRIPT: Final = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    udid TEXT NOT NULL,
    order_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    live INTEGER NOT NULL,
    entry TEXT,
    crc INTEGER NOT NULL
) STRICT;
CREATE INDEX live_jobs ON jobs (order_us) WHERE live;
CREATE INDEX newest_job ON jobs (udid, order_us);
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    result TEXT NOT NULL,
    published INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT;
CREATE INDEX unpublished ON outbox (seq) WHERE NOT published;
CREATE INDEX results_of ON outbox (job_id, seq);
CREATE TABLE complete_since (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    at_us INTEGER NOT NULL
) STRICT;
CREATE TABLE owner (name TEXT NOT NULL) STRICT;
"""
_SCHEMA: Final = sqlite.Schema(_SCRIPT, _VERSION)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_BUSY_TIMEOUT_S: Final = 2.0
_ENTRY: Final = TypeAdapter(JournalEntry)
# The checksum of a row, as an SQL expression; `row_crc` is defined for each connection. Text is
# cast: Python cannot decode a damaged one.
JOB_CRC: Final = (
    "row_crc(CAST(job_id AS BLOB), CAST(udid AS BLOB), order_us, expires_us, live,"
    " CAST(entry AS BLOB))"
)
RESULT_CRC: Final = "row_crc(CAST(job_id AS BLOB), at_us, CAST(result AS BLOB), published)"
INSERT_JOB: Final = (
    "INSERT INTO jobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, row_crc(?1, ?2, ?3, ?4, ?5, ?6))"
)
INSERT_RESULT: Final = (
    "INSERT INTO outbox (job_id, at_us, result, published, crc)"
    " VALUES (?1, ?2, ?3, ?4, row_crc(?1, ?2, ?3, ?4))"
)


class JournalError(RuntimeError):
    """The journal cannot be used: it is locked, damaged, or of another version."""


class UnreadableJournalError(JournalError):
    """The content of the file is damaged, of another version, or the journal of another owner."""


@dataclass(frozen=True, slots=True)
class UnpublishedResult:
    """A result to publish. `seq`, time and content are the same each time it is returned."""

    seq: int
    at: datetime
    result: JobResult

    def event(self, source: str) -> JobResultedEvent:
        """Return the result as an event of this source.

        Its id derives from time and content, so a repeat is equal.
        """
        body = self.result.model_dump_json(exclude_none=True)
        return JobResultedEvent(
            id=event_id("result", self.at.isoformat(), body),
            source=source,
            subject=self.result.udid,
            time=self.at,
            data=self.result,
        )


class Journal:
    """The journal of one executor. With the path `:memory:` nothing survives the process.

    `on_durable_write` is called with `<write name>:before` and `<write name>:after` around every
    commit. The constructor raises JournalError for a file that is in use, UnreadableJournalError
    for one that is damaged, of another version or of another `owner`, and sqlite3.OperationalError
    for one that cannot be opened or created. The methods raise sqlite3.Error if the file fails,
    DamagedError if a row has another checksum. Any thread may call them, one thread at a time;
    `copy` may be called meanwhile.
    `proven_time` gets the time of issue of each recorded job that was verified.
    """

    def __init__(
        self,
        path: Path | str,
        on_durable_write: sqlite.Hook | None = None,
        *,
        owner: str | None = None,
        busy_timeout_s: float = _BUSY_TIMEOUT_S,
        proven_time: ProvenTime | None = None,
    ) -> None:
        self.proven_time = proven_time or ProvenTime()
        self._path = Path(path)
        try:
            self._db = sqlite.open_database(
                self._path,
                _SCHEMA,
                exclusive=True,
                busy_timeout_s=busy_timeout_s,
                check=True,
                on_durable_write=on_durable_write,
            )
            try:
                self._db.create_function("row_crc", -1, _row_crc, deterministic=True)
                self._check_rows()
                self._check_owner(owner)
                self._observe_issues()
            except BaseException:
                self._db.close()
                raise
        except sqlite.VersionError as error:
            raise UnreadableJournalError(
                f"journal has version {error.found}, this program reads {_VERSION}:"
                " use the version that wrote it"
            ) from error
        except sqlite.DamagedError as error:
            raise UnreadableJournalError(
                f"the journal {path} is damaged ({error.reason}). It has the record of the orders"
                " that were given: restore a backup with `drydock restore`"
            ) from error
        except sqlite.OpenError as error:
            if error.step == "open":
                raise
            raise JournalError(f"cannot use the journal {path}: {error.reason}") from error

    def _check_rows(self) -> None:
        """Raise DamagedError if a row has another checksum."""
        for table, crc in (("jobs", JOB_CRC), ("outbox", RESULT_CRC)):
            query = f"SELECT rowid FROM {table} WHERE crc <> {crc} LIMIT 1"  # noqa: S608 - constants
            with sqlite.reading(self._path):
                row = self._db.execute(query).fetchone()
            if row is not None:
                self._report_changed(f"row {row[0]} of {table}")

    def _report_changed(self, what: str) -> NoReturn:
        raise sqlite.DamagedError("read", self._path, f"{what} has another checksum")

    def _check_owner(self, owner: str | None) -> None:
        """Store the owner's name in a new journal; raise DamagedError if it has another name."""
        if owner is None:
            return
        # As bytes: Python cannot decode a damaged text.
        row = self._db.execute("SELECT CAST(name AS BLOB) FROM owner").fetchone()
        if row is None:
            with self._db.transaction("owner"):
                self._db.execute("INSERT INTO owner VALUES (?)", (owner,))
        elif row[0] != owner.encode():
            name = row[0].decode(errors="replace")
            raise sqlite.DamagedError("read", self._path, f"journal of {name}, not of {owner}")

    def _observe_issues(self) -> None:
        """Take the time of issue of all recorded jobs into `proven_time`."""
        (newest,) = self._db.execute("SELECT max(order_us) FROM jobs WHERE order_us > 0").fetchone()
        if newest is not None:
            self.proven_time.observe_issue(_EPOCH + newest * _MICROSECOND)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._db.close()

    def knows(self, job_id: str) -> bool:
        """Return True if the job is recorded, live or done: accepted, refused or withdrawn."""
        row = self._db.execute("SELECT 1 FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return row is not None

    def copy(self) -> bytes:
        """Return the content of a file that is a copy of this journal, as of the last commit."""
        with self._db.between_transactions():
            return self._db.serialize()

    def job_ids(self) -> frozenset[str]:
        """Return the ids of all recorded jobs: those for which `knows` returns True."""
        return frozenset(job_id for (job_id,) in self._db.execute("SELECT job_id FROM jobs"))

    def newest_site(self) -> str | None:
        """Return the site of the job that was accepted last; None without an accepted job."""
        row = self._db.execute(
            "SELECT json_extract(entry, '$.job.site') FROM jobs WHERE entry IS NOT NULL"
            " ORDER BY rowid DESC LIMIT 1"
        ).fetchone()
        return None if row is None else str(row[0])

    def live(self) -> list[JournalEntry]:
        """Return the entries that are not done, oldest time of issue first."""
        query = f"SELECT entry, crc = {JOB_CRC} FROM jobs WHERE live ORDER BY order_us, rowid"  # noqa: S608 - constants
        return [
            _ENTRY.validate_json(text) if intact else self._report_changed("a job")
            for text, intact in self._db.execute(query)
        ]

    def withheld(self) -> list[JournalEntry]:
        """Return the attempts that a dry run withheld, oldest time of issue first.

        For each Mac, action and intent it is the newest attempt only: the others are out of date.
        """
        query = (
            f"SELECT entry, crc = {JOB_CRC} FROM jobs WHERE NOT live"  # noqa: S608 - constants
            " AND json_extract(entry, '$.outcome') = ?1 AND NOT EXISTS ("
            " SELECT 1 FROM jobs AS later WHERE later.udid = jobs.udid"
            " AND later.order_us > jobs.order_us"
            " AND json_extract(later.entry, '$.job.action', '$.job.intent')"
            " = json_extract(jobs.entry, '$.job.action', '$.job.intent'))"
            " ORDER BY order_us, rowid"
        )
        return [
            _ENTRY.validate_json(text) if intact else self._report_changed("a job")
            for text, intact in self._db.execute(query, (Outcome.WITHHELD.value,))
        ]

    def newest_order(self, udid: str) -> datetime | None:
        """Return the time of issue of the newest verified job for this Mac, None without one."""
        (newest,) = self._db.execute(
            "SELECT max(order_us) FROM jobs WHERE udid = ? AND order_us > 0", (udid,)
        ).fetchone()
        return None if newest is None else _EPOCH + newest * _MICROSECOND

    def complete_since(self, now: datetime) -> datetime:
        """Return the time since which every job of this site or partition is recorded here.

        A job that was issued earlier may have been carried out by an executor with another journal.
        For a new journal it is `now`; it is stored at the first call.
        """
        row = self._db.execute("SELECT at_us FROM complete_since").fetchone()
        if row is not None:
            return _EPOCH + int(row[0]) * _MICROSECOND
        (oldest,) = self._db.execute("SELECT min(order_us) FROM jobs WHERE order_us > 0").fetchone()
        since = now if oldest is None else _EPOCH + int(oldest) * _MICROSECOND
        self.set_complete_since(since)
        return since

    def is_history_unknown(self, job: Job, now: datetime) -> bool:
        """Return True if an order may have been given that is not recorded here."""
        return job.issued_at < self.complete_since(now)

    def set_complete_since(self, at: datetime) -> None:
        """Store the time since which every job is recorded here."""
        with self._db.transaction("complete since"):
            self._db.execute("INSERT OR REPLACE INTO complete_since VALUES (0, ?)", (_us(at),))

    def accept(self, entry: JournalEntry, results: Iterable[JobResult], now: datetime) -> None:
        """Record a verified job and its results, as unpublished.

        Raises sqlite3.IntegrityError if the job is recorded already.
        """
        self.proven_time.observe_issue(entry.job.issued_at)
        with self._db.transaction("accept"):
            self._db.execute(
                INSERT_JOB,
                (
                    entry.job.job_id,
                    entry.job.udid,
                    _us(entry.job.issued_at),
                    _us(entry.job.expires_at),
                    entry.phase is not Phase.DONE,
                    _ENTRY.dump_json(entry).decode(),
                ),
            )
            self._add_results(results, now)

    def refuse(self, issued: JobIssued, result: JobResult, now: datetime) -> None:
        """Record the end of a job that failed its verification, with its one result.

        Raises sqlite3.IntegrityError if the job is recorded already.
        """
        job = issued.job
        self.close_unseen(result, job.expires_at, now)

    def refuse_unproven(self, sha256: str, result: JobResult, now: datetime) -> None:
        """Record the refusal of a job that is not proven, under the hash of its record.

        The result names the hash, so that it counts for that record only. If the refusal is
        recorded already, `unpublished` returns it again. `prune` may delete it.
        """
        self._close(unproven_id(sha256), result.model_copy(update={"order_sha256": sha256}), now)

    def _close(self, row_id: str, result: JobResult, now: datetime) -> None:
        if self.knows(row_id):
            self.republish(row_id)
            return
        with self._db.transaction("refuse"):
            self._db.execute(INSERT_JOB, (row_id, result.udid, 0, _us(now), False, None))
            self._add_results((result,), now, row_id)

    def close_unseen(self, result: JobResult, expires_at: datetime, now: datetime) -> None:
        """Record the end of a job that was never accepted: refused, or withdrawn before it arrived.

        `result` is its one result; `prune` may delete the job after `expires_at`. Its time of issue
        is stored as 1970: an unverified job must not make verified jobs look old. Raises
        sqlite3.IntegrityError if the job is recorded already.
        """
        with self._db.transaction("refuse"):
            self._db.execute(
                INSERT_JOB, (result.job_id, result.udid, 0, _us(expires_at), False, None)
            )
            self._add_results((result,), now)

    def save(
        self, write_name: str, entry: JournalEntry, results: Iterable[JobResult], now: datetime
    ) -> None:
        """Record the new state of an accepted job and its results, as unpublished.

        `write_name` names the write for `on_durable_write`.
        """
        with self._db.transaction(write_name):
            self._db.execute(
                "UPDATE jobs SET live = ?1, entry = ?2,"
                " crc = row_crc(job_id, udid, order_us, expires_us, ?1, ?2) WHERE job_id = ?3",
                (
                    entry.phase is not Phase.DONE,
                    _ENTRY.dump_json(entry).decode(),
                    entry.job.job_id,
                ),
            )
            self._add_results(results, now)

    def unpublished(self, limit: int = 10_000) -> list[UnpublishedResult]:
        """Return the oldest `limit` results that are not marked as published, oldest first."""
        rows = self._db.execute(
            f"SELECT seq, at_us, result, crc = {RESULT_CRC} FROM outbox"  # noqa: S608 - constants
            " WHERE NOT published ORDER BY seq LIMIT ?",
            (limit,),
        )
        return [
            UnpublishedResult(
                seq, _EPOCH + at_us * _MICROSECOND, JobResult.model_validate_json(text)
            )
            if intact
            else self._report_changed(f"result {seq}")
            for seq, at_us, text, intact in rows
        ]

    def mark_published(self, seqs: Iterable[int]) -> None:
        """Mark results as published; `unpublished` leaves them out, until `republish`."""
        with self._db.transaction("published"):
            self._db.executemany(
                "UPDATE outbox SET published = 1, crc = row_crc(job_id, at_us, result, 1)"
                " WHERE seq = ?",
                [(seq,) for seq in seqs],
            )

    def republish(self, job_id: str) -> None:
        """Mark the newest result of the job as unpublished; nothing for a job without results.

        Called when a job arrives again: the pipeline may not have its result.
        """
        with self._db.transaction("again"):
            self._db.execute(
                "UPDATE outbox SET published = 0, crc = row_crc(job_id, at_us, result, 0)"
                " WHERE seq = (SELECT max(seq) FROM outbox WHERE job_id = ?)",
                (job_id,),
            )

    def prune(self, before: datetime) -> int:
        """Delete done jobs that expired before this time and whose results are all published.

        Returns the number of deleted jobs. A deleted job cannot run again: if it arrives again, it
        is refused as expired.
        """
        with self._db.transaction("prune"):
            gone = self._db.execute(
                "DELETE FROM jobs WHERE NOT live AND expires_us < ? AND NOT EXISTS"
                " (SELECT 1 FROM outbox WHERE outbox.job_id = jobs.job_id AND NOT published)",
                (_us(before),),
            ).rowcount
            self._db.execute(
                "DELETE FROM outbox WHERE published AND job_id NOT IN (SELECT job_id FROM jobs)"
            )
        return gone

    def _add_results(
        self, results: Iterable[JobResult], now: datetime, row_id: str | None = None
    ) -> None:
        """Insert unpublished results of time `now`; the caller has opened the transaction.

        `row_id` is the id of their row of `jobs`, by default that of the job.
        """
        self._db.executemany(
            INSERT_RESULT,
            [
                (row_id or result.job_id, _us(now), result.model_dump_json(exclude_none=True), 0)
                for result in results
            ],
        )


def unproven_id(sha256: str) -> str:
    """Return the id of the row of a job that is not proven, from the hash of its record.

    No job has it: the id of a job has no colon (`schemas.ids.derive_job_id`).
    """
    return f"sha256:{sha256}"


def _row_crc(*columns: object) -> int:
    """Return the checksum of columns; text is equal to its bytes."""
    plain = [one.encode() if isinstance(one, str) else one for one in columns]
    return sqlite.checksum(repr(plain).encode())


def _us(moment: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND
