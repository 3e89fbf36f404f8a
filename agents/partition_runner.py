"""Thread that runs the jobs of one partition: lease, journal, executor, results.

    ┌─> acquire lease ──> restore journal ──> cycle ── stop() ──> hand over ──> ended
    │         │                  │            │  ^ │
    │         │                  │            └──┘ └── fenced ────────────────> ended
    │         └────────┬─────────┴── lease lost, journal error, bug
    └──── back off <───┘

    acquire lease     fence the previous owner, read the changelog (`agents.leases`)
    restore journal   make the local file equal to the changelog (`agents.replicated`)
    cycle             take records, advance due jobs, replicate, commit offsets, publish results
    fenced            another process has the partition: the thread ends, also while it acquires or
                      restores. `JobConsumer` starts a new runner if the group still assigns the
                      partition to this process.

While the volume of the journal has no room, no lease is acquired; a thread that has one takes no
records and starts no jobs, and the jobs under way go on with the reserve of the volume.

Invariants: an offset is committed only after the changelog has the job, so a successor finds every
job in the topic or in the changelog. Everything that needs the lease happens in this thread. After
a lost lease the executor is discarded, and the file is restored from the changelog. A file that is
damaged, or of another partition or version, is renamed, and the next lease begins with a new one.
"""

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from agents.attempts import Attempts
from agents.executor import Executor
from agents.guard import GuardedMac
from agents.journal import JournalError, UnreadableJournalError
from agents.leases import Lease
from agents.lifecycle import IN_FLIGHT
from agents.mac import Mac
from agents.metrics import ENDING, EXPIRED, HALTED, HALTS_UNKNOWN, LEASE_TOO_OLD
from agents.order_records import OrderRecords
from agents.replicated import LeaseLostError, ReplicatedJournal
from agents.result_publisher import ResultPublisher
from agents.site_context import SiteContext
from runtime.damaged_files import damage_reporter
from runtime.free_space import SpaceReserve
from runtime.retry import DISK, RESTART, Backoff
from runtime.sqlite import is_damage, quarantine
from runtime.trusted_keys import KeyRing
from schemas import logkeys as key
from schemas.jobs import Job

# An order is given within LEASE_S after the intent was confirmed, or not at all. A successor waits
# IN_FLIGHT after the intent before it assumes that the order never arrived. LEASE_S counts on the
# boot clock, IN_FLIGHT and _ACT_WITHIN on the agent's clock, which can be virtual.
LEASE_S: Final = 10.0
_ACT_WITHIN: Final = IN_FLIGHT / 2
_STEP: Final = IN_FLIGHT / 10
_IDLE_S: Final = 0.5
_PRUNE_EVERY: Final = timedelta(hours=6)
_DAMAGED_KEPT: Final = 2


class PartitionStatus(NamedTuple):
    """State of a partition after a cycle.

    `offset` is the offset after the last journalled record, None before the first. `wake_at` is the
    time of the next due job, None without live jobs; while the halts are unknown and there are live
    jobs, it is the time of the cycle. `unconfirmed` is the number of results that Kafka has not
    confirmed. `doubted` is the number of jobs whose record in the changelog is unreadable and whose
    order did not arrive again.
    """

    offset: int | None
    wake_at: datetime | None
    unconfirmed: int
    doubted: int = 0


class PartitionRunner(threading.Thread):
    """Thread that runs the jobs of one partition until it is stopped or fenced.

    `commit` is called with the partition and the offset before which all records are in the
    changelog.
    """

    def __init__(
        self, site: SiteContext, partition: int, slots: int, commit: Callable[[int, int], None]
    ) -> None:
        super().__init__(daemon=True, name=f"partition-{partition}")
        self.partition = partition
        self.live_jobs = self.touched_jobs = self.doubted_jobs = 0
        self.status: PartitionStatus | None = None
        # The end of the last cycle, in seconds of `time.monotonic()`, and the error that prevents
        # the next one, empty if there is none.
        self.worked_at = 0.0
        self.trouble = ""
        self._site = site
        self._path = site.folder / f"{site.name}-{partition}.sqlite"
        self._report_damage = damage_reporter(site.log, site.metrics.count_damaged_file)
        self._slots = slots
        self._commit = commit
        self._inbox: deque[Sequence[Any]] = deque()
        self._waiting = 0
        self._batch: Sequence[Any] = ()
        self._journalled_offset: int | None = None
        self._halts_known = False
        self._space = SpaceReserve(site.folder)
        self._shortage: str | None = None
        self._wake = threading.Condition()
        self._news: set[str] = set()
        self._ending = threading.Event()
        self._draining = threading.Event()
        self._keys = KeyRing()
        self._prune_at: datetime | None = None
        self._now = datetime.max.replace(tzinfo=UTC)
        self._had_lease = False
        # Offsets of unreadable records of the changelog that are dead-lettered already.
        self._reported: set[int] = set()
        self._results = ResultPublisher(site, partition)
        self._orders = OrderRecords(site, partition, self._ending, self._note_trouble)

    # --- for the thread that polls ---

    def offer(self, records: Sequence[Any]) -> None:
        """Queue records of the partition, in the order of their offsets; returns at once."""
        with self._wake:
            self._inbox.append(records)
            self._waiting += len(records)
            self._wake.notify()

    def wake(self, udids: Collection[str]) -> None:
        """Make the jobs of these Macs due: there is news about them. Returns at once."""
        with self._wake:
            self._news.update(udids)
            self._wake.notify()

    @property
    def waiting_results(self) -> int:
        """Number of results that Kafka has not confirmed."""
        return self._results.waiting

    @property
    def waiting(self) -> int:
        """Number of queued records that no cycle has taken yet."""
        return self._waiting

    def drain(self) -> None:
        """Start no more jobs; continue those under way. Returns at once."""
        self._draining.set()

    def stop(self) -> None:
        """Request the end of the thread after its current step; returns at once."""
        self._draining.set()
        self._ending.set()
        with self._wake:
            self._wake.notify()

    # --- the thread ---

    def run(self) -> None:
        """Run leases one after another, until stopped or fenced.

        After a lost lease or an error it waits up to 30 s, after an error of the disk up to 3 s,
        and acquires a new lease.
        """
        restart, disk = Backoff(RESTART), Backoff(DISK)
        while not self._ending.is_set():
            with contextlib.suppress(OSError):  # deleted under a running agent
                self._site.folder.mkdir(parents=True, exist_ok=True)
            if self._is_volume_full():
                self._ending.wait(_IDLE_S)
                continue
            backoff = restart
            try:
                self._run_lease()
            except LeaseLostError as error:
                self._site.metrics.count_lost_lease(fenced=error.fenced)
                self._note_trouble("partition lost", error)
                if error.fenced:
                    return
            except (JournalError, sqlite3.Error) as error:
                self._note_trouble("journal unusable", error)
                backoff = disk
                if isinstance(error, UnreadableJournalError) or is_damage(error):
                    self._replace_journal(error)
            except Exception as error:
                # Top of the thread: a new lease begins after the back-off.
                self.trouble = f"{type(error).__name__}: {error}"
                self._site.log.exception(
                    "unhandled exception",
                    **{key.SITE: self._site.name, key.PARTITION: self.partition},
                )
            self.live_jobs = self.touched_jobs = 0
            self.status = None
            if self._had_lease:
                restart.reset()
            self._had_lease = False
            backoff.wait(self._ending)

    def _replace_journal(self, error: Exception) -> None:
        """Rename the damaged file: the next lease makes a new one, from the changelog."""
        try:
            moved = quarantine(self._path, keep=_DAMAGED_KEPT)
        except OSError as failed:
            self._log_event("damaged journal not renamed", str(failed))
        else:
            self._report_damage(self._path, moved, error)

    def _run_lease(self) -> None:
        """Acquire a lease, restore the journal and run cycles until stopped.

        Raises LeaseLostError if the lease is not acquired or is lost, JournalError or sqlite3.Error
        if the local file cannot be used.
        """
        site = self._site
        with (
            site.leases.acquire(self.partition) as lease,
            self._open_journal(lease) as journal,
        ):
            journal.restore(lease.attempts, site.clock.now())
            journal.replicate()
            executor = self._make_executor(journal, lease)
            self._check_history(executor, lease.attempts)
            self._submit_doubted(executor, journal, lease.attempts)
            self._log_event(
                "partition acquired", keys={key.COUNT: len(lease.attempts.records)}, level="info"
            )
            self._had_lease = True
            while not self._ending.is_set():
                self._cycle(executor, journal)
            self._hand_over(executor, journal)

    def _open_journal(self, lease: Lease) -> ReplicatedJournal:
        """Return the journal of this partition. Raises JournalError and sqlite3.Error."""
        site = self._site
        return ReplicatedJournal(
            self._path, lease, site.executor_name, proven_time=site.proven_time
        )

    def _check_history(self, executor: Executor, attempts: Attempts) -> None:
        """Distrust the journal if orders may be missing from the changelog.

        An empty changelog is new, or it was lost. That it was lost is certain, and is reported, if
        the local file has live jobs or if records were deleted.
        """
        if attempts.records and attempts.is_whole:
            return
        executor.distrust_journal(self._site.clock.now())
        if executor.live_jobs or not attempts.is_whole:
            self._site.metrics.count_doubted_journal()
            self._log_event(
                "journal may lack orders",
                "the changelog is empty or cut; each Mac is checked before an order, and an erase"
                " whose history is unknown needs a new approval",
                {key.COUNT: executor.live_jobs},
            )

    def _submit_doubted(
        self, executor: Executor, journal: ReplicatedJournal, attempts: Attempts
    ) -> None:
        """Report the unreadable records, and submit the orders of their jobs again.

        The history of these jobs is unknown, so each Mac is examined before an order. An order that
        is not in the job topic any more is submitted if it arrives again; until then the unreadable
        record stays. Raises LeaseLostError and sqlite3.Error.
        """
        for record in attempts.unreadable:
            if record.offset not in self._reported:
                self._orders.write_dead_letter(record, record.value, record)
                self._reported.add(record.offset)
        if journal.doubted:
            now = self._site.clock.now()
            for record in self._site.leases.find_orders(self.partition, {*journal.doubted}):
                self._orders.handle(executor, record, now)
            journal.replicate()

    def _make_executor(self, journal: ReplicatedJournal, lease: Lease) -> Executor:
        """Return an executor with the restored journal, whose Macs are guarded.

        A guarded Mac gets an order only if `_block_reason` returns None.
        """
        access = self._site.access

        def guarded(job: Job) -> Mac:
            assert access is not None
            return GuardedMac(
                access.mac_for(job),
                lambda: self._refresh_halts(executor),
                lambda wanted: self._block_reason(wanted, lease),
            )

        self._keys = self._orders.keys = self._site.keys()
        guarded_access = None if access is None else replace(access, mac_for=guarded)
        executor = Executor(self._site.name, journal, self._keys, guarded_access, self._slots)
        return executor

    def _cycle(self, executor: Executor, journal: ReplicatedJournal) -> None:
        """Handle one batch of records, none while the volume is full, and advance the due jobs.

        Replicates the journal, then commits the offset after the batch, publishes results and sets
        `status`. Raises LeaseLostError and sqlite3.Error, and JournalError if the file was deleted.
        """
        if not self._path.exists():
            raise JournalError(f"{self._path} was deleted; it is made again from the changelog")
        if self._is_volume_full():
            batch: Sequence[Any] = ()
            self._ending.wait(_IDLE_S)
        else:
            self._wait_for_records(self._pause_s(executor))
            batch = self._batch
        keys = self._site.keys()
        if keys is not self._keys:
            self._keys = self._orders.keys = keys
            executor.set_keys(keys)
        now = self._now = self._site.clock.now()
        for record in batch:
            self._site.proven_time.observe_append(record.timestamp)
            self._orders.handle(executor, record, now)
        self._refresh_halts(executor)
        with self._wake:
            news, self._news = self._news, set()
        executor.wake(news, now)
        executor.tick(now, self._should_yield)
        journal.replicate()
        if batch:
            self._journalled_offset = batch[-1].offset + 1
            self._commit(self.partition, self._journalled_offset)
            self._site.metrics.count_records(len(batch))
            self._batch = ()
        self._results.publish(executor)
        self._prune(journal, now)
        self.live_jobs, self.touched_jobs = executor.live_jobs, executor.touched_jobs
        self.doubted_jobs = len(journal.doubted)
        # While the halts are unknown, due jobs are blocked: look again at once.
        wake_at = executor.next_wake(now) if self._halts_known or not executor.live_jobs else now
        self.status = PartitionStatus(
            self._journalled_offset, wake_at, self._results.waiting, self.doubted_jobs
        )
        if self._shortage is None:
            self.worked_at, self.trouble = time.monotonic(), ""

    def _is_volume_full(self) -> bool:
        """Return True if the volume of the journal has no room; log when that changes."""
        shortage = self._space.shortage()
        if (shortage is None) != (self._shortage is None):
            if shortage is None:
                self._log_event("volume has room again; jobs continue", level="info")
            else:
                self._log_event("volume full; no job starts until there is room", shortage)
        self._shortage = shortage
        self.trouble = shortage or self.trouble
        return shortage is not None

    def _should_yield(self) -> bool:
        """Return True if the thread must end, or if this cycle lasts longer than `_STEP`.

        That is 30 s of the agent's clock.
        """
        return self._ending.is_set() or self._site.clock.now() - self._now > _STEP

    def _hand_over(self, executor: Executor, journal: ReplicatedJournal) -> None:
        """Publish the results and write the last changes to the changelog.

        Results that Kafka does not confirm are left to the successor. Raises LeaseLostError and
        sqlite3.Error.
        """
        self._results.publish(executor)
        journal.replicate()
        self._log_event("partition handed over", keys={key.COUNT: executor.live_jobs}, level="info")

    def _pause_s(self, executor: Executor) -> float:
        """Return the seconds of system time until the next due job, from 0 to `_IDLE_S`.

        Without live jobs it is `_IDLE_S`.
        """
        now = self._site.clock.now()
        wake = executor.next_wake(now)
        if wake is None:
            return _IDLE_S
        return min(max((wake - now).total_seconds() / self._site.clock.speed, 0.0), _IDLE_S)

    def _wait_for_records(self, pause_s: float) -> None:
        """Take the oldest queued batch into `_batch`; wait for it for at most `pause_s`.

        If `_batch` still has the records that a lost lease did not finish, nothing is taken.
        """
        if self._batch:
            return
        with self._wake:
            if not self._inbox and not self._news and not self._ending.is_set():
                self._wake.wait(pause_s)
            if self._inbox:
                self._batch = self._inbox.popleft()
                self._waiting -= len(self._batch)

    # --- permission to act ---

    def _refresh_halts(self, executor: Executor) -> None:
        """Pass the halts to the executor.

        While it drains, or the volume has no room, pass None so that no job starts.
        """
        is_held = self._draining.is_set() or self._shortage is not None
        halts = None if is_held else self._site.halts(self._site.clock.now())
        self._halts_known = halts is not None
        executor.set_halts(halts)

    def _block_reason(self, job: Job, lease: Lease) -> str | None:
        """Return the reason not to give the order now, None if there is none.

        Called directly before each order. The reason is a label of `drydock_agent_actions_blocked`
        and is counted there.
        """
        halts = self._site.halts(self._site.clock.now())
        if self._ending.is_set():
            reason = ENDING
        elif halts is None:
            reason = HALTS_UNKNOWN
        elif any(job.halted_by(scope) for scope in halts):
            reason = HALTED
        elif self._site.proven_time.no_earlier(self._now) >= job.expires_at:
            reason = EXPIRED
        elif lease.age_s() > LEASE_S or self._site.clock.now() - self._now > _ACT_WITHIN:
            reason = LEASE_TOO_OLD
        else:
            return None
        self._site.metrics.count_blocked_action(reason)
        return reason

    def _prune(self, journal: ReplicatedJournal, now: datetime) -> None:
        """Delete done, published jobs 21 days after their expiry, at most every 6 h.

        A call less than 6 h after the last deletion does nothing. Raises LeaseLostError and
        sqlite3.Error.
        """
        if self._prune_at is None or now >= self._prune_at:
            self._prune_at = now + _PRUNE_EVERY
            journal.prune_expired(now)

    def _note_trouble(self, message: str, error: Exception) -> None:
        """Log an error that prevents the next cycle."""
        self.trouble = str(error) or type(error).__name__
        self._log_event(message, self.trouble)

    def _log_event(
        self,
        message: str,
        detail: str | None = None,
        keys: Mapping[str, object] | None = None,
        *,
        level: str = "warning",
    ) -> None:
        found = {key.SITE: self._site.name, key.PARTITION: self.partition, **(keys or {})}
        if detail is not None:
            found[key.DETAIL] = detail
        getattr(self._site.log, level)(message, **found)
