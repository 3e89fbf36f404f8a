"""The embedded shell: fold, decide, record, hand jobs to executors. Reads no clock: `now` is given.

One input and everything that follows from it are one transaction: a crash leaves all or nothing.
Only the decisions for a broadcast event that concerns many Macs are made in further transactions;
after a crash between them the sweep at the start makes the others.
An executor gets a job only after the job is durable. Jobs that were durable but not handed over
when the process died are handed over at the next start; the executor's journal detects repeats.

| trigger | work |
| --- | --- |
| `accept`: events arrive | log, fold and decide for the Macs concerned |
| `tick`: a broadcast event concerns many Macs | decide for the Macs that `accept` left, in slices |
| `tick`: a decision's time has come | decide again for the Macs that are due, in slices |
| `tick`: `sweep_every` has passed | decide again for every Mac, in slices |
| `tick`: an executor has results | fold them, then mark them as published in its journal |
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.answer_feed import AnswerFeed
from agents.site_access import SiteAccess
from pipeline.decide.decision import decide
from pipeline.embedded import control_events
from pipeline.embedded.answer_feed import LOG_FEED, catch_up
from pipeline.embedded.executors import Executors
from pipeline.embedded.halt_requests import left_halts
from pipeline.embedded.journal_check import SETTING as DOUBTS_SETTING
from pipeline.embedded.journal_check import (
    UNREADABLE_SETTING,
    Cause,
    Doubt,
    decode_doubts,
    encode_doubts,
    find_doubts,
)
from pipeline.embedded.log import FILE, StoreError, refusing_damage
from pipeline.embedded.log_retention import Retention
from pipeline.embedded.site_thread import SiteThreads
from pipeline.embedded.store import Store
from pipeline.embedded.transaction import Committed
from pipeline.embedded.unsent_jobs import is_withdrawn, load_issued_job
from pipeline.embedded.writer import Accepted, Writer
from pipeline.policy.file import policy_digest, read_policy
from pipeline.reconcile.query_queue import QueryQueue
from pipeline.reconcile.reconciler import Reconciler
from pipeline.signing_keys import SigningKeys
from runtime.sqlite import Hook
from runtime.trusted_keys import KeyRing
from schemas.dead_letters import DeadLetter
from schemas.decisions import Decision
from schemas.envelope import (
    Event,
    HaltClearedEvent,
    HaltSetEvent,
    JobIssuedEvent,
    JobSupersededEvent,
    PolicyChangedEvent,
)
from schemas.events.control import HaltScope
from schemas.jobs import JobIssued, JobSuperseded
from schemas.queries import MacQuery

# After a document or a policy all Macs are decided; meanwhile executors act after so many slices.
_SLICES_TO_ORDERS: Final = 10
# Jobs and withdrawals that one tick gives to the executors: a sync of the disk for each.
_SENT_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a service.

    At most `slots` jobs are under way at the Macs of a site. Each Mac is decided again at the
    interval `sweep_every`. `on_durable_write` is called with `<write name>:before` and
    `<write name>:after` around each commit of the store and of the journals. Without `fast_paths`
    the plain functions run: slower, with the same results. Entries of the log that are older than
    `keep` are deleted; None keeps all. `tick_budget_s` and `threads` are as for Executors.
    """

    slots: int = 50
    sweep_every: timedelta = timedelta(hours=6)
    on_durable_write: Hook | None = None
    fast_paths: bool = True
    keep: timedelta | None = None
    tick_budget_s: float | None = None
    threads: SiteThreads | None = None


def _open_executors(
    data_dir: Path, trust: KeyRing, access: Callable[[str], SiteAccess | None], options: Options
) -> Executors:
    return Executors(
        data_dir / "journals",
        trust,
        access,
        slots=options.slots,
        tick_budget_s=options.tick_budget_s,
        threads=options.threads,
        on_durable_write=options.on_durable_write,
    )


# In one call of `tick`.
_MAX_QUERIES: Final = 500


class Service:
    """One fleet in one data directory. Not thread-safe: one thread calls it.

    After an Exception the service is still usable. StoreError: the write failed, and the input is
    not accepted. `doubts` are the journals that may lack orders, as found at opening.
    """

    def __init__(
        self,
        store: Store,
        *,
        signer: Ed25519PrivateKey,
        trust: KeyRing,
        on_commit: Callable[[Committed, Reconciler], None] | None,
        sweep_every: timedelta,
        fast_paths: bool,
    ) -> None:
        self.store = store
        self._on_commit = on_commit
        self._fast_paths = fast_paths
        self._writer = Writer(
            store, signer, trust, self._committed, sweep_every=sweep_every, fast_paths=fast_paths
        )
        self._unsent_jobs: deque[JobIssued | JobSuperseded] = deque()
        self._slices = 0
        self._halts_changed = True
        self._halts_until: datetime | None = None
        self.doubts: Sequence[Doubt] = ()
        self.data_dir = Path()
        self._watched: Callable[[], SigningKeys] | None = None
        self._keys: SigningKeys | None = None
        self.executors: Executors
        self._retention: Retention | None = None
        self._answers: AnswerFeed | None = None
        self._queries: QueryQueue | None = None
        self._ask: Callable[[MacQuery], None]

    @classmethod
    def open(  # noqa: PLR0913 - what a service is made of
        cls,
        data_dir: Path,
        *,
        now: datetime,
        signer: Ed25519PrivateKey,
        trust: KeyRing,
        keys: Callable[[], SigningKeys] | None = None,
        policy_text: str | None = None,
        access: Callable[[str], SiteAccess | None] = lambda _: None,
        on_commit: Callable[[Committed, Reconciler], None] | None = None,
        options: Options | None = None,
    ) -> Self:
        """Return the service of this data directory, which is made if it is missing.

        `keys` returns the keys to use from then on, the same object until they change.
        `policy_text` is put in force unless it is already. `access` returns the access to the Macs
        of a site. If it is None, the site is in dry run: jobs are decided, signed, recorded and
        withheld, and no Mac is touched. `on_commit` is called after each commit. Raises PolicyError
        for an invalid `policy_text`, JournalError if the journal of a site is in use or the disk
        fails, and StoreError if the data directory cannot be used, or `policy_text` is not in force
        after the write because the stored policy has a later time. Rows that cannot be read, and a
        stored policy that is invalid here, become dead letters (`stored_state`); a site whose
        journal is damaged gets no orders (`Executors.unusable`).
        """
        chosen = options or Options()
        if policy_text is not None:
            read_policy(policy_text)
        store = Store.open(data_dir, chosen.on_durable_write)
        try:
            with refusing_damage(data_dir / FILE):
                service = cls(
                    store,
                    signer=signer,
                    trust=trust,
                    on_commit=on_commit,
                    sweep_every=chosen.sweep_every,
                    fast_paths=chosen.fast_paths,
                )
                if chosen.keep is not None:
                    service._retention = Retention(store, chosen.keep)
            service.executors = _open_executors(data_dir, trust, access, chosen)
        except BaseException:
            store.close()
            raise
        service._watched, service.data_dir = keys, data_dir
        try:
            service._begin(now, policy_text)
        except BaseException:
            service.close()
            raise
        return service

    def _begin(self, now: datetime, policy_text: str | None) -> None:
        """Complete the opened state, and put the policy in force, before the first `tick`."""
        self.doubts = self._check_journals(now)
        self._recover_unsent_jobs(now)
        self.accept_left_halts(now)
        if policy_text is not None:
            self.set_policy(policy_text, now, "start")
        self.reconciler.queue.start_sweep(now)

    def close(self) -> None:
        """End the threads of live sites; close the journals and the store."""
        self.executors.close()
        self.store.close()

    @property
    def reconciler(self) -> Reconciler:
        """The durable state, to read only. Do not keep it: a failed transaction replaces it."""
        return self._writer.reconciler

    # --- input ---

    def accept(
        self,
        events: Sequence[Event],
        dead_letters: Sequence[DeadLetter],
        now: datetime,
        *,
        settings: Mapping[str, bytes] | None = None,
        replayed: Sequence[int] = (),
    ) -> Accepted:
        """Make an input and all that follows from it durable, and return the counts of both.

        Raises StoreError if the write fails; then nothing of the input is accepted. An event that
        was logged before changes nothing. An event that admission rejects, or on which our code
        raises, becomes a dead letter with its bytes; the other events are accepted. `dead_letters`
        are stored as given, `settings` by name, in the same transaction. `replayed` are the numbers
        of dead letters to mark as replayed.
        """
        return self._writer.accept(events, dead_letters, now, settings=settings, replayed=replayed)

    def accept_left_halts(self, now: datetime) -> None:
        """Make the halts durable that operators left in the data directory.

        Raises StoreError if a write fails, OSError if a file cannot be read or deleted.
        """
        for path, event in left_halts(self.data_dir):
            self.accept((event,), (), now)
            path.unlink()

    def set_policy(self, text: str, now: datetime, by: str) -> bool:
        """Put a policy in force and return True; return False if it is in force already.

        `by` is recorded as its author. The Macs that the change can affect are decided again.
        Raises PolicyError for an invalid policy, StoreError if the write fails or a policy with a
        later time stays in force.
        """
        digest = policy_digest(text)
        if self.reconciler.policy_digest == digest:
            return False
        read_policy(text)
        event = control_events.policy_changed(text, by, now)
        self.accept((event,), (), now)
        if self.reconciler.policy_digest != digest:
            raise StoreError(
                "the new policy is not in force: the present one has a later time; check the clock"
            )
        return True

    def approve(
        self, udid: str, *, by: str, now: datetime, lasts: timedelta, key: Ed25519PrivateKey
    ) -> str:
        """Approve this Mac's erasing job and return the job's id.

        `by` is the approver's name, `key` the approver's own key; the approval expires `lasts`
        after `now`. An approval that admission rejects, such as one by a key that is not trusted,
        becomes a dead letter; the id is returned also then. Raises ValueError if no erasing job
        of the Mac waits for approval, AssertionError without a policy, StoreError if the write
        fails.
        """
        event = control_events.approval_granted(self.decide(udid, now), by, now, lasts, key)
        self.accept((event,), (), now)
        return event.data.approval.job_id

    def decide(self, udid: str, now: datetime) -> Decision:
        """Return the decision for a Mac at `now`; there must be a policy."""
        return decide(self.reconciler.situation(udid, now), fast_paths=self._fast_paths)

    def feed_answers(self, feed: AnswerFeed, now: datetime) -> None:
        """Give the feed every event of the log: now those that it lacks, later each new one.

        Call it before the first `tick`.
        """
        catch_up(feed, self.store, now)
        self._answers = feed

    def query_macs(
        self,
        is_queried: Callable[[str, str | None], bool],
        ask: Callable[[MacQuery], None],
        now: datetime,
    ) -> None:
        """Query Macs whose inventory is old, from now on.

        `is_queried` is as for QueryQueue. `ask` is called with each query when it is due, and must
        not wait. Call it before the first `tick`.
        """
        self._queries, self._ask = QueryQueue(self.reconciler.query_needs, is_queried), ask
        for udid in self.reconciler.fleet.macs():
            self._queries.update(udid, now)

    def _update_queries(self, queries: QueryQueue, committed: Committed) -> None:
        """Set the times of the queries of Macs with events; of all Macs after a policy's change."""
        fleet = self.reconciler.fleet
        if any(isinstance(event, PolicyChangedEvent) for event in committed.events):
            udids = set(fleet.macs())
        else:
            subjects = {event.subject for event in committed.events}
            udids = {fleet.canonical_udid(subject) or subject for subject in subjects}
        for udid in sorted(udids):
            queries.update(udid, committed.at)

    def refresh_keys(self) -> None:
        """Use changed keys: to sign new jobs, and to verify approvals and jobs that have not begun.

        Call it before each use of the service.
        """
        keys = None if self._watched is None else self._watched()
        if keys is not None and keys is not self._keys:
            self._keys = keys
            self._writer.set_keys(keys.jobs, keys.trust)
            self.executors.set_keys(keys.trust)

    @property
    def watches_keys(self) -> bool:
        """True if `refresh_keys` can find changed keys."""
        return self._watched is not None

    def reject_reason(self, event: Event) -> str | None:
        """Return the reason for which admission would reject this event; None if it admits it."""
        return self.reconciler.reject_reason(event)

    # --- time ---

    def tick(self, now: datetime) -> None:
        """Do the work that is due: decide, advance executors, accept their results.

        One call does a bounded part of it; if `next_wake` returns `now`, there is more.
        """
        due = self.reconciler.next_due_at(now)
        if due is not None and due <= now:
            self._writer.advance(now)
            self._slices += 1
            if self._slices % _SLICES_TO_ORDERS and self.reconciler.queue.has_due(now):
                return
        self._send_jobs(now)
        self.executors.tick(now)
        for site, results in self.executors.results():
            if results:
                self.accept([event for _, event in results], (), now)
            self.executors.mark_published(site, results)
        if self._retention is not None:
            self._retention.work(self.reconciler.fleet, now)
        if self._queries is not None:
            for query in self._queries.pop_due(now, _MAX_QUERIES):
                self._ask(query)

    def next_wake(self, now: datetime) -> datetime | None:
        """Return the time at which `tick` has work if no input arrives, never before `now`.

        None if `tick` has no work until an input arrives.
        """
        if self._unsent_jobs or self._halts_changed:
            return now
        wakes = (
            self.reconciler.next_due_at(now),
            self._halts_until,
            self.executors.next_wake(now),
            None if self._retention is None else self._retention.next_due_at(now),
            None if self._queries is None else self._queries.next_due_at(now),
        )
        first = min((wake for wake in wakes if wake is not None), default=None)
        return None if first is None else max(first, now)

    def _committed(self, committed: Committed) -> None:
        for event in committed.events:
            if isinstance(event, JobIssuedEvent | JobSupersededEvent):
                self._unsent_jobs.append(event.data)
        if any(isinstance(one, HaltSetEvent | HaltClearedEvent) for one in committed.events):
            # Before the sender of the halt gets its response.
            self._set_halts(committed.at)
        if self._answers is not None:
            positions = {LOG_FEED: self.store.last_seq()}
            self.executors.wake(
                self._answers.add_events(committed.events, committed.at, positions), committed.at
            )
        if self._queries is not None:
            self._update_queries(self._queries, committed)
        if self._on_commit is not None:
            self._on_commit(committed, self.reconciler)

    # --- the executors ---

    def _check_journals(self, now: datetime) -> Sequence[Doubt]:
        """Return the journals that may lack orders, after their executors distrust them.

        Approvals for Macs of their sites are withdrawn: they may have been used.
        """
        is_lost = self._writer.journals_are_doubtful
        earlier = [] if is_lost else decode_doubts(self.store.setting(DOUBTS_SETTING))
        histories = self.reconciler.fleet.job_histories
        # A database that lost its last entries is older than the Macs too.
        copied = is_lost or self.store.lost_entries > 0 or self.store.is_copy()
        known = self.executors.known_jobs()
        if copied:
            sites = {entry.site for history in histories.values() for entry in history} | {*known}
            found = [Doubt(site, now, Cause.COPIED) for site in sorted(sites)]
        else:
            untouched = self.executors.untouched()
            found = [*find_doubts(histories, known, untouched, earlier, now)]
        for doubt in found:
            self.executors.distrust_journal(doubt.site, now)
        if found or copied is not False:
            kept = {doubt.site: doubt for doubt in (*earlier, *found)}
            settings = {DOUBTS_SETTING: encode_doubts(kept.values()), **self.store.identity()}
            withdrawals = self._withdrawals(found, now, copied=copied is True)
            self.accept(withdrawals, (), now, settings=settings)
        unreadable = json.dumps(sorted(self.executors.unusable)).encode()
        if unreadable != (self.store.setting(UNREADABLE_SETTING) or b"[]"):
            self.accept((), (), now, settings={UNREADABLE_SETTING: unreadable})
        return found

    def _withdrawals(self, doubts: Sequence[Doubt], now: datetime, *, copied: bool) -> list[Event]:
        """Return the events that withdraw the approvals for Macs of the sites in doubt.

        If the database is a copy they withdraw every approval: its site may have no job yet, and
        so no doubt.
        """
        sites = {doubt.site for doubt in doubts}
        if not sites and not copied:
            return []
        return [
            control_events.approval_withdrawn(
                granted.approval, "drydock", "orders may be missing from the journal", now
            )
            for udid in self.reconciler.fleet.macs()
            for granted in self.reconciler.fleet.approvals(udid)
            if copied or self.reconciler.situation(udid, now).site_name in sites
        ]

    def _recover_unsent_jobs(self, now: datetime) -> None:
        """Queue the durable jobs and withdrawals that the executors may not have.

        Unreadable rows, and open jobs that the log lacks, become dead letters.
        """
        histories = self.reconciler.fleet.job_histories
        for job in self.executors.live():
            for entry in histories.get(job.udid, ()):
                if entry.job_id == job.job_id and is_withdrawn(self.store, entry, job.udid):
                    self._unsent_jobs.append(
                        JobSuperseded(job_id=job.job_id, udid=job.udid, site=job.site)
                    )
        lost: list[DeadLetter] = []
        for udid, history in histories.items():
            for entry in history:
                if entry.is_open and not self.executors.knows(entry.site, entry.job_id):
                    found = load_issued_job(self.store, entry, udid, now)
                    if isinstance(found, DeadLetter):
                        lost.append(found)
                    else:
                        self._unsent_jobs.append(found)
        self._writer.quarantine(now, lost)

    def _send_jobs(self, now: datetime) -> None:
        """Give the executors changed halts, then queued jobs and withdrawals in their order.

        At most _SENT_AT_ONCE of these: a journal makes each one durable by itself.
        """
        if self._halts_until is not None and self._halts_until <= now:
            self._halts_changed = True
        if self._halts_changed:
            self._set_halts(now)
        for _ in range(min(len(self._unsent_jobs), _SENT_AT_ONCE)):
            item = self._unsent_jobs[0]
            if isinstance(item, JobSuperseded):
                self.executors.supersede(item, now)
            else:
                self.executors.submit(item, now)
            self._unsent_jobs.popleft()

    def _set_halts(self, now: datetime) -> None:
        halts = self.reconciler.fleet.halts()
        until = [halt.until for halt in halts if halt.until is not None and halt.until > now]
        self._halts_until = min(until, default=None)
        self.executors.set_halts(self.halted_scopes(now))
        self._halts_changed = False

    def halted_scopes(self, now: datetime) -> list[HaltScope]:
        """Return the scopes in which no job may start at `now`."""
        return [halt.scope for halt in self.reconciler.fleet.halts_in_force(now)]
