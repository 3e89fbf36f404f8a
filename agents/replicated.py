"""A journal that an executor's successor can read: the file is a copy, the changelog the truth.

An intent is in the changelog, confirmed, before `save` returns, and so before the Mac is touched;
everything else with the next `replicate`.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from agents.journal import Hook, Journal
from agents.lifecycle import JournalEntry
from schemas.attempts import AttemptRecord, RecordedResult
from schemas.results import JobResult

AttemptChanges = Mapping[str, AttemptRecord | None]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Longer than the job topic keeps an order: nothing that is forgotten can come again.
KEPT_AFTER_EXPIRY: Final = timedelta(days=21)
_AT_ONCE: Final = 1000


class LeaseLostError(Exception):
    """What was to be written cannot be confirmed, so nothing may be done on the strength of it.

    `fenced` if somebody else is known to have the partition.
    """

    def __init__(self, message: str, *, fenced: bool = False) -> None:
        super().__init__(message)
        self.fenced = fenced


class Changelog(Protocol):
    """Where the journal's truth is."""

    def write(self, changes: AttemptChanges) -> None:
        """Make all of these the truth, or none; None forgets a job. Raises ClaimLostError."""
        ...


class ReplicatedJournal(Journal):
    """The journal of one partition's executor. `by` names the executor to people."""

    def __init__(
        self, path: Path | str, changelog: Changelog, by: str, on_durable_write: Hook | None = None
    ) -> None:
        super().__init__(path, on_durable_write)
        self._changelog = changelog
        self._by = by
        self._changed: dict[str, None] = {}

    # --- from the changelog, and to it ---

    def restore(self, records: Mapping[str, AttemptRecord], now: datetime) -> None:
        """Become what the changelog says.

        What is only in the file was never confirmed, or is forgotten. The first is kept, and
        written with the next `replicate`: to know too much of a job only means to look first. The
        second has expired long ago, since nothing is forgotten before.
        """
        known = dict(self._db.execute("SELECT job_id, expires_us FROM jobs").fetchall())
        with self._durably("restore"):
            for job_id, expires_us in known.items():
                if job_id in records:
                    continue
                if expires_us < _us(now):
                    self._forget(job_id)
                else:
                    self._changed[job_id] = None
            for record in records.values():
                self._forget(record.job_id)
                self._install(record)

    def replicate(self) -> None:
        """Write what changed since last. Raises ClaimLostError; then it stays unwritten."""
        while self._changed:
            now = list(self._changed)[:_AT_ONCE]
            self._changelog.write({job_id: self._record(job_id) for job_id in now})
            for job_id in now:
                del self._changed[job_id]

    def prune_expired(self, now: datetime) -> int:
        """Forget what is over, told, and can never come again, here and in the changelog."""
        before = now - KEPT_AFTER_EXPIRY
        rows = self._db.execute(
            "SELECT job_id FROM jobs WHERE NOT live AND expires_us < ? AND NOT EXISTS"
            " (SELECT 1 FROM outbox WHERE outbox.job_id = jobs.job_id AND NOT published)",
            (_us(before),),
        ).fetchall()
        gone = [job_id for (job_id,) in rows]
        for start in range(0, len(gone), _AT_ONCE):
            self._changelog.write(dict.fromkeys(gone[start : start + _AT_ONCE]))
        return self.prune(before)

    # --- what changes a job ---

    def accept(self, entry: JournalEntry, results: Iterable[JobResult], now: datetime) -> None:
        """Record a verified job, once and for ever."""
        super().accept(entry, results, now)
        self._changed[entry.job.job_id] = None

    def close_unseen(self, result: JobResult, expires_at: datetime, now: datetime) -> None:
        """Record the end of a job that was never accepted."""
        super().close_unseen(result, expires_at, now)
        self._changed[result.job_id] = None

    def save(
        self, what: str, entry: JournalEntry, results: Iterable[JobResult], now: datetime
    ) -> None:
        """Record a job's new state. An intent is confirmed before this returns: ClaimLostError."""
        super().save(what, entry, results, now)
        self._changed[entry.job.job_id] = None
        if what == "intend":
            # The file first: what the changelog has not confirmed is undone by the next restore.
            self._changelog.write({entry.job.job_id: self._record(entry.job.job_id)})
            self._changed.pop(entry.job.job_id, None)

    def mark_published(self, seqs: Iterable[int]) -> None:
        """Hand these out no more; nor does a successor, once it is replicated."""
        published = list(seqs)
        super().mark_published(published)
        for seq in published:
            row = self._db.execute("SELECT job_id FROM outbox WHERE seq = ?", (seq,)).fetchone()
            if row is not None:
                self._changed[row[0]] = None

    # --- rows and records ---

    def _record(self, job_id: str) -> AttemptRecord | None:
        row = self._db.execute(
            "SELECT udid, order_us, expires_us, live, entry FROM jobs WHERE job_id = ?", (job_id,)
        ).fetchone()
        if row is None:
            return None
        udid, order_us, expires_us, live, entry = row
        results = self._db.execute(
            "SELECT at_us, published, result FROM outbox WHERE job_id = ? AND (NOT published OR"
            " seq = (SELECT max(seq) FROM outbox WHERE job_id = ?)) ORDER BY seq",
            (job_id, job_id),
        ).fetchall()
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
                for at_us, published, text in results
            ),
            by=self._by,
        )

    def _install(self, record: AttemptRecord) -> None:
        self._db.execute(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)",
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
            "INSERT INTO outbox (job_id, at_us, result, published) VALUES (?, ?, ?, ?)",
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


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
