"""Retention of the log: snapshots of the state, and deletion of the entries before an old one.

| state | next work | next state |
| --- | --- | --- |
| waiting | when the last snapshot is an eighth of `keep` old: store another | deleting or waiting |
| deleting | delete one batch of the entries before the log's start | waiting after the last batch |

At each snapshot the log's start moves to the newest snapshot that is older than `keep`, if there
is one; then entries are deleted. A log without new entries needs no other snapshot.

Each piece of work is one small transaction. `drydock replay --verify` folds from the snapshot at
the log's start. Of the entries before it these stay, for `explain` and for the executors: the last
decision of each Mac, and the issue of each open job.
"""

from datetime import datetime, timedelta
from typing import Final

from pipeline.embedded.store import Store
from pipeline.reconcile.changes import SOURCE
from pipeline.state.fleet import Fleet
from pipeline.state.fleet_snapshot import encode_fleet, snapshot_digest
from schemas.ids import event_id

# About 50 ms. Requests are served between two batches.
BATCH_SIZE: Final = 2000
_SNAPSHOTS_PER_KEEP: Final = 8


class Retention:
    """Keeps the entries of the last `keep`, and up to a quarter more; deletes older ones."""

    def __init__(self, store: Store, keep: timedelta, batch_size: int = BATCH_SIZE) -> None:
        self._store = store
        self._keep = keep
        self._batch_size = batch_size
        # The last entry that was looked at, while deleting. A deletion may have been interrupted.
        self._deleted_to: int | None = 0 if store.start_seq() else None
        self._open_jobs: tuple[str, ...] | None = None
        self._looked_at: datetime | None = None

    def next_due_at(self, now: datetime) -> datetime:
        """Return the time at which `work` has something to do; `now` if there is more."""
        if self._deleted_to is not None:
            return now
        # A snapshot of a later time is damaged, or the clock was wrong.
        times = [one.at for one in self._store.snapshots()[-1:] if one.at <= now]
        if self._looked_at is not None:
            times.append(self._looked_at)
        return max(times) + self._keep / _SNAPSHOTS_PER_KEEP if times else now

    def work(self, fleet: Fleet, now: datetime) -> None:
        """Do the work that is due, for at most one transaction. `fleet` is the durable state.

        Raises StoreError if the write fails; a later call continues.
        """
        if self._deleted_to is not None:
            self._delete(fleet, self._deleted_to)
        elif self.next_due_at(now) <= now:
            self._store_snapshot(fleet, now)

    def _store_snapshot(self, fleet: Fleet, now: datetime) -> None:
        last = [one.seq for one in self._store.snapshots()[-1:]]
        body = b"" if last == [self._store.last_seq()] else encode_fleet(fleet)
        with self._store.transaction("snapshot"):
            if body:
                self._store.put_snapshot(now, snapshot_digest(body), body)
            old = [one.seq for one in self._store.snapshots() if one.at <= now - self._keep]
            moved = bool(old) and old[-1] > self._store.start_seq()
            if moved:
                self._store.move_start(old[-1])
        self._looked_at = now
        if moved:
            self._deleted_to, self._open_jobs = 0, None

    def _delete(self, fleet: Fleet, after: int) -> None:
        if self._open_jobs is None:
            self._open_jobs = tuple(
                event_id("issued", entry.job_id)
                for history in fleet.job_histories.values()
                for entry in history
                if entry.is_open
            )
        with self._store.transaction("delete"):
            self._deleted_to = self._store.delete_before_start(
                after, self._batch_size, SOURCE, self._open_jobs
            )
