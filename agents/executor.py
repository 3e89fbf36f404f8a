"""The executor: it takes signed jobs, gives each order to its Mac once, and returns results.

    submit, supersede        a job arrives or is withdrawn: journalled before the call returns
    tick(now)                every due job advances by one step of `agents.lifecycle`
    results, mark_published  results leave, at least once

It reads no clock: every call has `now`, and `next_wake` returns the time of the next `tick`. Its
whole state is in the journal, so a new executor with the same journal continues after a kill. It
starts no job before the first `set_halts`.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import Final

from agents.attempt_steps import (
    Act,
    Finish,
    LookResult,
    Observe,
    Step,
    Unreachable,
    Wait,
    end_dry_run,
    refuse,
    result,
    withhold,
)
from agents.journal import Journal, UnpublishedResult
from agents.journal_entry import JournalEntry, Phase
from agents.lifecycle import (
    apply_ack,
    halt,
    leaves_an_order,
    next_step,
    supersede,
    withdrawing,
    withdrawn,
)
from agents.mac import UnreachableError
from agents.preflight import Limits
from agents.site_access import SiteAccess
from agents.verification import MAX_AHEAD, Proven, Refusal, examine, revocation
from agents.watching import ENFORCEMENT_POLL, WATCH_POLL
from runtime.trusted_keys import KeyRing
from schemas.events.control import HaltScope
from schemas.jobs import MAX_JOB_LIFETIME, Job, JobIssued, JobSuperseded
from schemas.results import ErrorCode, JobResult, Outcome

_MAX_DETAIL: Final = 200
# Each one is a durable write: a tick stays short.
_DRY_RUN_SLICE: Final = 100


class Executor:
    """Runs the jobs of one site, or of one partition of it.

    `access` gives the Macs of jobs. Without it the site is in dry run: no Mac is looked at or gets
    an order, and a job that would begin is withheld; the Mac of a job that an earlier executor
    began counts as unreachable. With it, the jobs that were withheld before end as superseded, so
    that the pipeline decides again for their Macs. A job that `access` refuses ends as refused
    before its Mac is looked at; if it has begun, its order is not repeated. If `access` withdraws
    orders, that of a job under way is withdrawn with the job, by a halt too, and an order of an
    ended job until nothing of it is left.

    At most `slots` jobs at once are between their first order and their end, and at most one for
    each Mac. A method that writes raises the error of the journal: sqlite3.Error, or LeaseLostError
    of a replicated one.
    """

    def __init__(
        self,
        site: str,
        journal: Journal,
        keys: KeyRing,
        access: SiteAccess | None,
        slots: int = 50,
    ) -> None:
        self._site = site
        self._journal = journal
        self._keys = keys
        self._access = access
        self._slots = slots
        self._limits = Limits() if access is None else access.limits
        self._halts: tuple[HaltScope, ...] | None = None
        self._live: dict[str, JournalEntry] = {}
        self._queues: dict[str, list[str]] = {}
        self._touched: set[str] = set()
        # Due jobs that wait for a halt to end, for a slot, or for an older job of the same Mac.
        self._blocked: dict[str, None] = {}
        self._unblocked = False
        self._halts_changed = False
        # Also at the start: keys may have been removed since the jobs were accepted.
        self._keys_changed = True
        # Ended jobs whose order is not withdrawn yet, by UDID.
        self._withdrawing: dict[str, set[str]] = {}
        self._heap: list[tuple[datetime, int, str]] = []
        # The time at which each job is due. A heap entry with another time is stale.
        self._wakes: dict[str, datetime] = {}
        self._counter = count()
        # Of an earlier dry run, oldest first.
        self._withheld = deque(() if access is None else journal.withheld())
        for entry in journal.live():
            self._track(entry)
            # Due at once: look at every Mac whose job was under way when the last process ended.
            self._schedule(entry.accepted_at, entry.job.job_id)

    # --- inputs ---

    def set_keys(self, keys: KeyRing) -> None:
        """Verify jobs with these keys from now on.

        The next `tick` refuses each accepted job that has no order yet and whose key, or that of
        its approval, is not one of them.
        """
        self._keys = keys
        self._keys_changed = True

    def set_halts(self, scopes: Collection[HaltScope] | None) -> None:
        """Set the halts in force. None means that they are unknown: no job starts."""
        halts = None if scopes is None else tuple(scopes)
        if halts != self._halts:
            self._halts = halts
            self._unblocked = self._halts_changed = True

    def submit(self, issued: JobIssued, now: datetime) -> None:
        """Verify a job and journal it, or journal its refusal, before this returns.

        The refusal of a job that no trusted key signed for this site is journalled under the hash
        of its record: its id is that of any job. Raises NotYetValidError for a job that was issued
        more than a day ahead of the clock; nothing is journalled.

        An accepted job withdraws the older jobs of its Mac that did not touch it. A job that was
        issued before the newest job of its Mac ends as superseded (`newer_job`). For a job that the
        journal has already, `results` returns its newest result again.
        """
        if self._journal.knows(issued.job.job_id):
            self._journal.republish(issued.job.job_id)
            return
        verdict = examine(issued, self._site, self._keys, self._journal.proven_time.no_earlier(now))
        if isinstance(verdict, Refusal):
            refused = self._refused(issued.job, verdict)
            if verdict.is_proven:
                self._journal.refuse(issued, refused, now)
            else:
                self._journal.refuse_unproven(issued.sha256, refused, now)
            return
        self._accept(verdict, now)

    def distrust_journal(self, now: datetime) -> None:
        """Examine the Mac of each job that has no order yet as if the journal began at `now`.

        For a journal that is not complete: it is new, another one was lost, or an older copy of it
        was restored. An order may then have been given without being journalled.
        """
        self._journal.set_complete_since(now)
        for entry in list(self._live.values()):
            if entry.phase is Phase.ACCEPTED and not entry.history_unknown:
                doubted = replace(entry, history_unknown=True, accepted_at=now, wake_at=now)
                self._store("distrust", Wait(doubted), now)

    def supersede(self, superseded: JobSuperseded, now: datetime) -> None:
        """Withdraw a job (on the wire: superseded).

        If its Mac is untouched or its order can be withdrawn, the job ends as superseded; otherwise
        it runs to its end, but its order is not repeated. A job that arrives after its withdrawal
        does not run. For a job that is done, nothing changes.
        """
        entry = self._live.get(superseded.job_id)
        if entry is not None:
            if entry.phase is not Phase.WITHDRAWING:
                step = supersede(entry, now, can_withdraw=self._withdraw_order is not None)
                self._store("supersede", step, now)
            return
        if not self._journal.knows(superseded.job_id):
            unseen = JobResult(
                job_id=superseded.job_id,
                udid=superseded.udid,
                site=self._site,
                outcome=Outcome.SUPERSEDED,
                error_code=ErrorCode.SUPERSEDED,
                detail="withdrawn before it arrived",
            )
            # The expiry is unknown without the job. A job that arrives later than this has expired.
            self._journal.close_unseen(unseen, now + MAX_JOB_LIFETIME + MAX_AHEAD, now)

    def wake(self, udids: Iterable[str], now: datetime) -> None:
        """Make the jobs of these Macs due at `now`: there is news about them."""
        for udid in udids:
            for job_id in (*self._queues.get(udid, ()), *self._withdrawing.get(udid, ())):
                self._schedule(now, job_id)

    # --- time ---

    def tick(self, now: datetime, should_yield: Callable[[], bool] = lambda: False) -> None:
        """Advance every due job by one step: first jobs under way, then blocked, then new ones.

        A job under way waits for a halt only before a repeated order; halts and slots limit the
        others. When `should_yield` returns True, the remaining jobs stay due: a Mac can be slow to
        respond, and `now` must not become too old.
        """
        for _ in range(min(len(self._withheld), _DRY_RUN_SLICE)):
            ended = end_dry_run(self._withheld.popleft())
            self._journal.save("end dry run", ended.entry, ended.results, now)
        if self._keys_changed:
            self._keys_changed = False
            self._apply_keys(now)
        if self._halts_changed:
            self._halts_changed = False
            self._apply_halts(now)
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, job_id = heapq.heappop(self._heap)
            if self._wakes.get(job_id) == at:
                del self._wakes[job_id]
                due.append(job_id)
        under_way = [job_id for job_id in due if job_id in self._touched]
        fresh = {job_id for job_id in due if job_id not in self._touched}
        self._advance_all(under_way, now, should_yield)
        if self._unblocked and not should_yield():
            self._unblocked = False
            self._start_blocked(now, should_yield)
        self._advance_all(sorted(fresh & self._live.keys(), key=self._sort_key), now, should_yield)

    def next_wake(self, now: datetime) -> datetime | None:
        """Return the time of the next useful `tick` if no job arrives; None without live jobs.

        It is `now` if a job is due already, if a blocked job may be able to start, if other halts
        may end jobs under way, if keys changed, or if jobs of an earlier dry run remain.
        """
        may_halt = self._halts_changed and self._live and self._withdraw_order is not None
        may_start = (self._unblocked and self._blocked) or (self._keys_changed and self._live)
        if self._withheld or may_halt or may_start:
            return now
        while self._heap and self._wakes.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(self._heap[0][0], now) if self._heap else None

    # --- outputs ---

    def results(self, limit: int = 10_000) -> list[UnpublishedResult]:
        """Return at most `limit` results that are not marked as published, oldest first."""
        return self._journal.unpublished(limit)

    def mark_published(self, results: Iterable[UnpublishedResult]) -> None:
        """Mark results that Kafka confirmed.

        `results` does not return them again, except the newest one of a job that arrives again.
        """
        seqs = [item.seq for item in results]
        if seqs:
            self._journal.mark_published(seqs)

    @property
    def live_jobs(self) -> int:
        """Number of accepted jobs without an end, or whose order is not withdrawn yet."""
        return len(self._live)

    @property
    def touched_jobs(self) -> int:
        """Number of jobs between their first order and their end."""
        return len(self._touched)

    # --- inside ---

    def _accept(self, proven: Proven, now: datetime) -> None:
        """Journal a verified job with its first result.

        The result is ACCEPTED, and the job is due at once; or SUPERSEDED for a job older than the
        newest one of its Mac. An accepted job withdraws the older untouched jobs of its Mac.
        """
        job = proven.job
        entry = JournalEntry(
            job=job,
            accepted_at=now,
            wake_at=now,
            approved_until=proven.approved_until,
            signed_by=proven.signed_by,
            history_unknown=self._journal.is_history_unknown(job, now),
        )
        if self._is_out_of_date(job, now):
            # A newer job of this Mac arrived before: this one was delayed and is out of date.
            superseded = result(
                entry,
                Outcome.SUPERSEDED,
                ErrorCode.NEWER_JOB,
                detail="a newer job of this Mac arrived before",
            )
            done = replace(
                entry,
                phase=Phase.DONE,
                outcome=Outcome.SUPERSEDED,
                error_code=ErrorCode.NEWER_JOB,
            )
            self._journal.accept(done, (superseded,), now)
            return
        self._journal.accept(entry, (result(entry, Outcome.ACCEPTED),), now)
        for older in tuple(self._queues.get(job.udid, ())):
            if older not in self._touched:
                self._store("supersede", supersede(self._live[older], now), now)
        self._track(entry)
        self._schedule(now, job.job_id)

    def _is_out_of_date(self, job: Job, now: datetime) -> bool:
        """Return True if a newer job of the Mac arrived before.

        A newer job of the future does not count, unless it touched the Mac: it shows that a clock
        was ahead, not that this job is out of date.
        """
        newest = self._journal.newest_order(job.udid)
        if newest is None or job.issued_at >= newest:
            return False
        of_mac = self._touched.intersection(self._queues.get(job.udid, ()))
        is_newer_touched = any(self._live[one].job.issued_at > job.issued_at for one in of_mac)
        return is_newer_touched or newest <= self._journal.proven_time.no_earlier(now)

    def _advance_all(
        self, job_ids: Iterable[str], now: datetime, should_yield: Callable[[], bool]
    ) -> None:
        """Advance these jobs in this order; after a yield the remaining ones are due at `now`."""
        for job_id in job_ids:
            if not should_yield():
                self._advance(job_id, now)
            elif job_id in self._live:
                self._schedule(now, job_id)

    def _start_blocked(self, now: datetime, should_yield: Callable[[], bool]) -> None:
        """Advance the blocked jobs, longest blocked first, until the slots are full or a yield."""
        for job_id in tuple(self._blocked):
            if len(self._touched) >= self._slots:
                break
            if should_yield():
                self._unblocked = True
                break
            self._advance(job_id, now)

    def _refused(self, job: Job, refusal: Refusal) -> JobResult:
        return JobResult(
            job_id=job.job_id,
            udid=job.udid,
            site=self._site,
            outcome=refusal.outcome,
            error_code=refusal.error_code,
            detail=refusal.detail[:_MAX_DETAIL],
        )

    def _advance(self, job_id: str, now: datetime) -> None:
        """Advance one job by one step, or block it; nothing for a job that is not live."""
        entry = self._live.get(job_id)
        if entry is None:
            return
        if entry.phase is Phase.WITHDRAWING:
            self._withdraw(entry, now)
            return
        step = next_step(entry, None, self._journal.proven_time.no_earlier(now), self._limits)
        if isinstance(step, Observe):
            if self._must_wait(entry):
                if not self._apply_halt(entry, now):
                    self._block(entry, now)
                return
            step = self._observe(entry, now)
        if isinstance(step, Act) and (self._is_halted(entry.job) or self._refusal(entry.job)):
            self._block(entry, now)
            return
        self._blocked.pop(job_id, None)
        if not isinstance(step, Act):
            self._store("wait" if isinstance(step, Wait) else "finish", step, now)
        else:
            self._act(step, now)

    def _must_wait(self, entry: JournalEntry) -> bool:
        """Return True if the Mac of an untouched job must not be looked at yet.

        The cause is a halt, unknown halts, no free slot, or an older live job of the Mac. False for
        a touched job.
        """
        if entry.touched:
            return False
        first = self._queues[entry.job.udid][0]
        full = len(self._touched) >= self._slots
        return first != entry.job.job_id or full or self._is_halted(entry.job)

    def _is_halted(self, job: Job) -> bool:
        """Return True if a halt covers the job, or if the halts are unknown."""
        return self._halts is None or any(job.halted_by(scope) for scope in self._halts)

    @property
    def _withdraw_order(self) -> Callable[[Job, str], str | None] | None:
        return None if self._access is None else self._access.withdraw_order

    def _apply_halts(self, now: datetime) -> None:
        """Withdraw the orders of jobs that a halt covers, where that is possible."""
        for job_id in sorted(self._live, key=self._sort_key):
            self._apply_halt(self._live[job_id], now)

    def _apply_halt(self, entry: JournalEntry, now: datetime) -> bool:
        """Withdraw the job's order if a halt covers it; return True if the journal has changed."""
        is_known = self._halts is not None and self._withdraw_order is not None
        step = halt(entry) if is_known and self._is_halted(entry.job) else None
        if step is not None:
            self._store("halt", step, now)
        return step is not None

    def _apply_keys(self, now: datetime) -> None:
        """Refuse the accepted jobs without an order whose keys are no longer trusted."""
        for entry in list(self._live.values()):
            if entry.phase is Phase.ACCEPTED:
                refusal = revocation(entry.job, entry.signed_by, self._keys)
                if refusal is not None:
                    refused = refuse(entry, refusal.error_code, refusal.detail)
                    self._store("revoke", refused, now)

    def _withdraw(self, entry: JournalEntry, now: datetime) -> None:
        """Withdraw the order of an ended job; call again later unless nothing of it is left."""
        withdraw_order = self._withdraw_order
        try:
            late = withdraw_order and withdraw_order(entry.job, entry.order_marker)
        except Exception:  # noqa: BLE001 - after any error the order may still be there
            late = None
        if late is None:
            since = now - (entry.acted_at or entry.intent_at or now)
            self._schedule(now + min(max(since, WATCH_POLL), ENFORCEMENT_POLL), entry.job.job_id)
            return
        step = withdrawn(entry, late)
        self._journal.save("withdrawn", step.entry, step.results, now)
        self._forget(entry)

    def _refusal(self, job: Job) -> Refusal | None:
        """Return the reason for which the order may not be given; None if it may, in a dry run."""
        return None if self._access is None else self._access.refusal(job)

    def _block(self, entry: JournalEntry, now: datetime) -> None:
        """Keep the job until its order is permitted, a slot is free or an older job ends.

        An untouched job still expires meanwhile. For a touched job the Mac is still looked at: its
        order may have arrived.
        """
        self._blocked[entry.job.job_id] = None
        again = now + WATCH_POLL if entry.touched else entry.job.expires_at
        self._schedule(again, entry.job.job_id)

    def _observe(self, entry: JournalEntry, now: datetime) -> Step:
        """Look at the Mac and return the next step.

        An untouched job is withheld in a dry run, and ends as refused if `access` refuses it. An
        exception other than UnreachableError ends an untouched job as failed with the code
        `bug`; for a touched job the Mac counts as unreachable.
        """
        if self._access is None:
            unreachable = next_step(entry, Unreachable(), now, self._limits)
            return unreachable if entry.touched else withhold(entry)
        refusal = self._refusal(entry.job)
        if refusal is not None and not entry.touched:
            return refuse(entry, refusal.error_code, refusal.detail)
        try:
            observation: LookResult = self._access.mac_for(entry.job).look(entry.job)
        except UnreachableError as error:
            observation = Unreachable(error.obstacle)
        except Exception as error:  # noqa: BLE001 - a bug in one form must not stop other Macs
            if not entry.touched:
                failed = result(entry, Outcome.FAILED, ErrorCode.BUG, type(error).__name__)
                return Finish(replace(entry, phase=Phase.DONE, outcome=Outcome.FAILED), (failed,))
            observation = Unreachable()
        return next_step(entry, observation, now, self._limits)

    def _act(self, step: Act, now: datetime) -> None:
        """Journal the attempt in phase INTENDED, give the order, then journal the result of it.

        If giving the order raises, the job stays in phase INTENDED and is due at the entry's
        `wake_at`. An error of the journal is raised.
        """
        entry, access = step.entry, self._access
        assert access is not None, "a dry run gives no order"
        self._journal.save("intend", entry, step.results, now)
        self._live[entry.job.job_id] = entry
        self._touched.add(entry.job.job_id)
        self._schedule(entry.wake_at, entry.job.job_id)
        try:
            ack = access.mac_for(entry.job).act(entry.step, entry.ordered_job, entry.attempt)
        except Exception:  # noqa: BLE001 - after any error the order may have arrived
            return
        self._store("response", apply_ack(entry, ack, now), now)

    def _store(self, write_name: str, step: Wait | Finish | Act | Observe, now: datetime) -> None:
        """Journal the entry and results of a Wait or Finish, then schedule or forget the job.

        Without results and with a change of `wake_at` only, nothing is journalled. `write_name`
        names the write for the journal.
        """
        assert isinstance(step, Wait | Finish)
        entry = step.entry
        job_id = entry.job.job_id
        old = self._live[job_id]
        may_withdraw = entry.phase is Phase.DONE and self._withdraw_order is not None
        if may_withdraw and leaves_an_order(old, entry):
            entry = withdrawing(entry, now)
        # A change of `wake_at` alone is not journalled: after a restart every job is due.
        if step.results or replace(entry, wake_at=old.wake_at) != old:
            self._journal.save(write_name, entry, step.results, now)
        if entry.phase in (Phase.DONE, Phase.WITHDRAWING):
            self._forget(entry)
        if entry.phase is Phase.DONE:
            return
        if entry.phase is Phase.WITHDRAWING:
            self._track(entry)
        self._live[job_id] = entry
        if entry.touched:
            self._touched.add(job_id)
        self._schedule(entry.wake_at, job_id)

    def _track(self, entry: JournalEntry) -> None:
        job = entry.job
        self._live[job.job_id] = entry
        if entry.phase is Phase.WITHDRAWING:
            self._withdrawing.setdefault(job.udid, set()).add(job.job_id)
            return
        self._queues.setdefault(job.udid, []).append(job.job_id)
        if entry.touched:
            self._touched.add(job.job_id)

    def _forget(self, entry: JournalEntry) -> None:
        """Remove a done job from all tables.

        The blocked jobs are tried later in this `tick`, or in the next one.
        """
        job = entry.job
        self._live.pop(job.job_id, None)
        self._touched.discard(job.job_id)
        self._blocked.pop(job.job_id, None)
        self._wakes.pop(job.job_id, None)
        for table in (self._queues, self._withdrawing):
            members = table.get(job.udid)
            if members is not None and job.job_id in members:
                members.remove(job.job_id)
                if not members:
                    del table[job.udid]
        self._unblocked = True

    def _schedule(self, at: datetime, job_id: str) -> None:
        self._wakes[job_id] = at
        heapq.heappush(self._heap, (at, next(self._counter), job_id))

    def _sort_key(self, job_id: str) -> tuple[datetime, str]:
        job = self._live[job_id].job
        return job.issued_at, job_id
