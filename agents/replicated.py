"""A journal that a successor on another computer can continue.

The changelog in Kafka decides, and the local file is a copy of it. An attempt in phase INTENDED is
confirmed in the changelog before `save` returns, and so before the Mac is touched. All other
changes are written by the next `replicate`.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from agents.attempts import Attempts
from agents.journal import INSERT_JOB, INSERT_RESULT, JOB_CRC, RESULT_CRC, Journal, unproven_id
from agents.journal_entry import JournalEntry, Phase
from agents.proven_time import ProvenTime
from runtime.sqlite import Hook
from schemas.attempts import AttemptRecord, RecordedResult
from schemas.jobs import Job
from schemas.results import JobResult

AttemptChanges = Mapping[str, AttemptRecord | None]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Longer than the retention of the job topic: a deleted job cannot arrive again.
KEPT_AFTER_EXPIRY: Final = timedelta(days=21)
_BATCH_JOBS: Final = 1000


class LeaseLostError(Exception):
    """A write to the changelog is not confirmed, so nothing may be done that depends on it.

    `fenced` is True if another process has the partition.
    """

    def __init__(self, message: str, *, fenced: bool = False) -> None:
        super().__init__(message)
        self.fenced = fenced


class Changelog(Protocol):
    """Writer of the attempts of one partition. `agents.leases.Lease` is one."""

    def write(self, changes: AttemptChanges) -> None:
        """Write all changes or none; None deletes a job. Raises LeaseLostError."""
        ...


class ReplicatedJournal(Journal):
    """The journal of one partition's executor. `by` is the agent's name in each record."""

    def __init__(
        self,
        path: Path | str,
        changelog: Changelog,
        by: str,
        on_durable_write: Hook | None = None,
        proven_time: ProvenTime | None = None,
    ) -> None:
        # The name of the file is that of its site and partition.
        super().__init__(path, on_durable_write, owner=Path(path).stem, proven_time=proven_time)
        self._changelog = changelog
        self._by = by
        self._changed: dict[str, None] = {}
        # Ids of jobs that are not recorded, but may have an order: their record is unreadable.
        self.doubted: set[str] = set()

    # --- from the changelog, and to it ---

    def restore(self, attempts: Attempts, now: datetime) -> None:
        """Make the file equal to the changelog.

        A job that is only in the file was never confirmed, or was deleted by another process. If it
        has not expired, it was never confirmed: it is kept and written by the next `replicate`,
        because an extra entry only leads to a look at the Mac. If it has expired, it is deleted.

        A job whose newest record is unreadable is restored from an older record or from the file
        only if it has an order or an end there. Otherwise it is in `doubted` from now on.
        """
        records = {**attempts.records}
        with self._db.transaction("restore"):
            for job_id in attempts.doubted:
                found = [one for one in (records.pop(job_id, None), self._record(job_id)) if one]
                ordered = [one for one in found if _has_order(one)]
                self._forget(job_id)
                if ordered:
                    records[job_id] = min(ordered, key=lambda one: one.live)
                    self._changed[job_id] = None
            self.doubted = set(attempts.doubted - records.keys())
            for job_id, expires_us in self._db.execute(
                "SELECT job_id, expires_us FROM jobs"
            ).fetchall():
                if job_id in records:
                    continue
                if expires_us < _us(now):
                    self._forget(job_id)
                else:
                    self._changed[job_id] = None
            for record in records.values():
                self._forget(record.job_id)
                self._install(record)
        self._observe_issues()
        self.proven_time.observe_append(attempts.newest_ms)

    def replicate(self) -> None:
        """Write the changes since the last call to the changelog.

        Raises LeaseLostError if a write is not confirmed; its changes and all later ones stay
        pending.
        """
        while self._changed:
            now = list(self._changed)[:_BATCH_JOBS]
            self._changelog.write({job_id: self._record(job_id) for job_id in now})
            for job_id in now:
                del self._changed[job_id]

    def prune_expired(self, now: datetime) -> int:
        """Delete done, published jobs 21 days after their expiry, here and in the changelog.

        They cannot arrive again. Returns the number of jobs deleted from the file. Raises
        LeaseLostError before the file is changed; the changelog may have deleted some of them.
        """
        before = now - KEPT_AFTER_EXPIRY
        rows = self._db.execute(
            "SELECT job_id FROM jobs WHERE NOT live AND expires_us < ? AND NOT EXISTS"
            " (SELECT 1 FROM outbox WHERE outbox.job_id = jobs.job_id AND NOT published)",
            (_us(before),),
        ).fetchall()
        gone = [job_id for (job_id,) in rows]
        for start in range(0, len(gone), _BATCH_JOBS):
            self._changelog.write(dict.fromkeys(gone[start : start + _BATCH_JOBS]))
        return self.prune(before)

    # --- changes of a job ---

    def accept(self, entry: JournalEntry, results: Iterable[JobResult], now: datetime) -> None:
        """Record a verified job and its results; the next `replicate` writes them to the changelog.

        Raises sqlite3.IntegrityError if the job is recorded already.
        """
        super().accept(entry, results, now)
        self._changed[entry.job.job_id] = None
        self.doubted.discard(entry.job.job_id)

    def is_history_unknown(self, job: Job, now: datetime) -> bool:
        """Return True if an order may have been given that is not recorded here."""
        return job.job_id in self.doubted or super().is_history_unknown(job, now)

    def close_unseen(self, result: JobResult, expires_at: datetime, now: datetime) -> None:
        """Record the end of a job that was never accepted; the next `replicate` writes it.

        Raises sqlite3.IntegrityError if the job is recorded already.
        """
        super().close_unseen(result, expires_at, now)
        self._changed[result.job_id] = None
        self.doubted.discard(result.job_id)

    def refuse_unproven(self, sha256: str, result: JobResult, now: datetime) -> None:
        """Record the refusal of a job that is not proven; the next `replicate` writes it."""
        super().refuse_unproven(sha256, result, now)
        self._changed[unproven_id(sha256)] = None

    def save(
        self, write_name: str, entry: JournalEntry, results: Iterable[JobResult], now: datetime
    ) -> None:
        """Record the new state of a job and its results.

        An attempt in phase INTENDED (`write_name` is "intend") is confirmed in the changelog
        before this returns; raises LeaseLostError if it is not. Another change is written by the
        next `replicate`.
        """
        super().save(write_name, entry, results, now)
        self._changed[entry.job.job_id] = None
        if write_name == "intend":
            # The file is written first. After a failure here the lease is lost, and `restore` sets
            # the job back to the state in the changelog.
            self._changelog.write({entry.job.job_id: self._record(entry.job.job_id)})
            self._changed.pop(entry.job.job_id, None)

    def mark_published(self, seqs: Iterable[int]) -> None:
        """Mark results as published; for a successor too, after the next `replicate`."""
        published = list(seqs)
        super().mark_published(published)
        for seq in published:
            row = self._db.execute("SELECT job_id FROM outbox WHERE seq = ?", (seq,)).fetchone()
            if row is not None:
                self._changed[row[0]] = None

    # --- rows and records ---

    def _record(self, job_id: str) -> AttemptRecord | None:
        """Return a job of the file as a record, None if the file does not have it.

        The record has the unpublished results and the newest result, oldest first.
        """
        row = self._db.execute(
            f"SELECT udid, order_us, expires_us, live, entry, crc = {JOB_CRC} FROM jobs"  # noqa: S608 - constants
            " WHERE job_id = ?",
            (job_id,),
        ).fetchone()
        if row is None:
            return None
        udid, order_us, expires_us, live, entry, intact = row
        results = self._db.execute(
            f"SELECT at_us, published, result, crc = {RESULT_CRC} FROM outbox"  # noqa: S608 - constants
            " WHERE job_id = ? AND (NOT published OR"
            " seq = (SELECT max(seq) FROM outbox WHERE job_id = ?)) ORDER BY seq",
            (job_id, job_id),
        ).fetchall()
        if not intact or not all(is_intact for *_, is_intact in results):
            self._report_changed(f"job {job_id}")
        return AttemptRecord(
            job_id=job_id,
            udid=udid,
            issued_at=None if order_us == 0 else _EPOCH + order_us * _MICROSECOND,
            expires_at=_EPOCH + expires_us * _MICROSECOND,
            live=bool(live),
            entry=None if entry is None else json.loads(entry),
            results=tuple(
                RecordedResult(
                    at=_EPOCH + at_us * _MICROSECOND,
                    published=bool(published),
                    result=JobResult.model_validate_json(text),
                )
                for at_us, published, text, _ in results
            ),
            by=self._by,
        )

    def _install(self, record: AttemptRecord) -> None:
        self._db.execute(
            INSERT_JOB,
            (
                record.job_id,
                record.udid,
                0 if record.issued_at is None else _us(record.issued_at),
                _us(record.expires_at),
                record.live,
                None if record.entry is None else json.dumps(record.entry),
            ),
        )
        self._db.executemany(
            INSERT_RESULT,
            [
                (
                    record.job_id,
                    _us(result.at),
                    result.result.model_dump_json(exclude_none=True),
                    result.published,
                )
                for result in record.results
            ],
        )

    def _forget(self, job_id: str) -> None:
        self._db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
        self._db.execute("DELETE FROM outbox WHERE job_id = ?", (job_id,))


def _has_order(record: AttemptRecord) -> bool:
    """Return True if an order of the job may have been given, or if the attempt has its end."""
    return not record.live or (record.entry or {}).get("phase") != Phase.ACCEPTED.value


def _us(moment: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND
