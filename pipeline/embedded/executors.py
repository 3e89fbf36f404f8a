"""The sites' executors in this process: one per site, each with its own journal.

Jobs reach an executor only after they are durable in the store. A result stays in the executor's
journal until it is durable in the store. The executor of a live site can have a thread of its own
(`site_thread`); the others run in the caller's.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from agents.journal import Journal, JournalError, UnpublishedResult, UnreadableJournalError
from agents.journal_entry import JournalEntry, Phase
from agents.site_access import SiteAccess
from agents.stalls import STEP_LIMIT_S
from pipeline.embedded.deferring_executor import DeferringExecutor
from pipeline.embedded.site_thread import SiteThread, SiteThreads
from pipeline.embedded.stored_state import UNREADABLE
from runtime.sqlite import Hook, is_damage
from runtime.trusted_keys import KeyRing
from schemas.envelope import JobResultedEvent
from schemas.events.control import HaltScope
from schemas.jobs import Job, JobIssued, JobSuperseded

Results = list[tuple[UnpublishedResult, JobResultedEvent]]
# Their Macs are decided with them, in one transaction, and senders wait for the same thread.
_RESULTS_AT_ONCE: Final = 50


class SiteExecutor(Protocol):
    """An executor in the caller's thread (DeferringExecutor) or in its own (SiteThread)."""

    def distrust_journal(self, now: datetime) -> None: ...  # noqa: D102 - of DeferringExecutor

    def submit(self, issued: JobIssued, now: datetime, /) -> None: ...  # noqa: D102

    def supersede(self, superseded: JobSuperseded, now: datetime, /) -> None: ...  # noqa: D102

    def wake(self, udids: Iterable[str], now: datetime, /) -> None: ...  # noqa: D102

    def set_keys(self, keys: KeyRing) -> None: ...  # noqa: D102

    def set_halts(self, scopes: Collection[HaltScope] | None) -> None: ...  # noqa: D102

    def tick(self, now: datetime, should_yield: Callable[[], bool], /) -> None: ...  # noqa: D102

    def next_wake(self, now: datetime) -> datetime | None: ...  # noqa: D102

    def results(self, limit: int) -> list[UnpublishedResult]: ...  # noqa: D102

    def mark_published(self, results: Iterable[UnpublishedResult]) -> None: ...  # noqa: D102


class Executors:
    """The executors of all sites.

    `folder` holds one journal per site; existing journals are opened. `access` returns the access
    to the Macs of a site; if it is None, the site is in dry run: its jobs are withheld. At most
    `slots` jobs are under way per site. With `threads` each live site has a thread of its own,
    which the first `tick` starts. In the caller's thread a `tick` begins no step after
    `tick_budget_s` seconds, if set. Nothing starts before the first call of `set_halts`. Opening
    raises JournalError for a journal that is in use.

    A site whose journal cannot be read gets no order, so that none is repeated: `unusable` has the
    error by site. Its jobs stay open until they expire, or until the journal is restored.
    """

    def __init__(
        self,
        folder: Path,
        keys: KeyRing,
        access: Callable[[str], SiteAccess | None],
        *,
        slots: int,
        tick_budget_s: float | None = None,
        threads: SiteThreads | None = None,
        on_durable_write: Hook | None = None,
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._access = access
        self._slots = slots
        self._tick_budget_s = tick_budget_s
        self._threads = threads
        self._hook = on_durable_write
        self._journals: dict[str, Journal] = {}
        self._executors: dict[str, SiteExecutor] = {}
        self.unusable: dict[str, JournalError] = {}
        self._halts: tuple[HaltScope, ...] | None = None
        self._unpublished_sites: set[str] = set()
        folder.mkdir(exist_ok=True, mode=0o700)
        try:
            for path in sorted(folder.glob("*.sqlite")):
                self._at(path.stem)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the threads, each after its current step; then close the journals."""
        threads = [one for one in self._executors.values() if isinstance(one, SiteThread)]
        for thread in threads:
            thread.begin_end()
        for thread in threads:
            thread.join()
        for journal in self._journals.values():
            journal.close()

    def knows(self, site: str, job_id: str) -> bool:
        """Return True if the site's journal has this job: accepted, refused or withdrawn.

        True too for a journal that cannot be read: it may have the job. Opens the journal at its
        first use; raises JournalError if that fails.
        """
        return self._at(site) is None or self._journals[site].knows(job_id)

    def copy_journal(self, site: str) -> bytes | None:
        """Return a copy of the site's journal, as the content of a file; None without a journal.

        Raises JournalError for a journal that cannot be read.
        """
        if site in self.unusable:
            raise self.unusable[site]
        journal = self._journals.get(site)
        return None if journal is None else journal.copy()

    def known_jobs(self) -> dict[str, frozenset[str]]:
        """Return the ids of the jobs in each site's journal, without sites that have no journal."""
        return {site: journal.job_ids() for site, journal in sorted(self._journals.items())}

    def live(self) -> Iterator[Job]:
        """Yield every job that an executor has accepted and that has not ended, by site."""
        for entry in self._live_entries():
            yield entry.job

    def untouched(self) -> Iterator[Job]:
        """Yield every job of `live` of which the journal has no order."""
        for entry in self._live_entries():
            if entry.phase is Phase.ACCEPTED:
                yield entry.job

    def distrust_journal(self, site: str, now: datetime) -> None:
        """Examine the site's Macs as if its journal began at `now`: orders may be missing from it.

        Opens the journal at its first use; raises JournalError if that fails.
        """
        executor = self._at(site)
        if executor is not None:
            executor.distrust_journal(now)
            self._unpublished_sites.add(site)

    def stalled_sites(self, now_s: float) -> frozenset[str]:
        """Return the sites whose thread has had no progress for `STEP_LIMIT_S`.

        `now_s` is of `time.monotonic()`. A look or an order that hangs stops its site only.
        """
        return frozenset(
            site
            for site, executor in self._executors.items()
            if isinstance(executor, SiteThread) and executor.cycle_s(now_s) > STEP_LIMIT_S
        )

    def _live_entries(self) -> Iterator[JournalEntry]:
        for _, journal in sorted(self._journals.items()):
            yield from journal.live()

    def submit(self, issued: JobIssued, now: datetime) -> None:
        """Give a job to its site's executor, which journals the job or its refusal.

        For a job that the journal has already, only its newest result is published again. Raises
        JournalError if the journal of the site cannot be opened.
        """
        executor = self._at(issued.job.site)
        if executor is not None:
            executor.submit(issued, now)
            self._unpublished_sites.add(issued.job.site)

    def supersede(self, superseded: JobSuperseded, now: datetime) -> None:
        """Withdraw a job from its site's executor, which journals the withdrawal.

        A job whose Mac is untouched ends as superseded; any other job runs to its end. A job that
        arrives after its withdrawal does not run.
        """
        executor = self._at(superseded.site)
        if executor is not None:
            executor.supersede(superseded, now)
            self._unpublished_sites.add(superseded.site)

    def set_keys(self, keys: KeyRing) -> None:
        """Verify jobs with these keys from now on, also those that have not begun."""
        self._keys = keys
        for executor in self._executors.values():
            executor.set_keys(keys)

    def set_halts(self, scopes: Iterable[HaltScope]) -> None:
        """Replace the scopes in which no executor may start a job; without scopes all may start."""
        wanted = tuple(scopes)
        if wanted != self._halts:
            self._halts = wanted
            for executor in self._executors.values():
                executor.set_halts(wanted)

    def tick(self, now: datetime) -> None:
        """Advance the due jobs of every executor by one step, as far as the budget allows.

        Starts the threads of live sites; raises the exception that ended one.
        """
        budget_s, started = self._tick_budget_s, time.monotonic()

        def is_spent() -> bool:
            return budget_s is not None and time.monotonic() - started > budget_s

        for site, executor in sorted(self._executors.items()):
            wake = executor.next_wake(now)
            if wake is not None and wake <= now:
                executor.tick(now, is_spent)
                self._unpublished_sites.add(site)

    def wake(self, udids: Collection[str], now: datetime) -> None:
        """Make the jobs of these Macs due at `now`: there is news about them."""
        for executor in self._executors.values():
            executor.wake(udids, now)

    def next_wake(self, now: datetime) -> datetime | None:
        """Return the next time at which `tick` or `results` has work, never before `now`.

        It is `now` if a site may have unpublished results. None if no work is due until a job, a
        withdrawal or other halts arrive.
        """
        if self._unpublished_sites:
            return now
        wakes = [executor.next_wake(now) for executor in self._executors.values()]
        return min((wake for wake in wakes if wake is not None), default=None)

    def results(self) -> Iterator[tuple[str, Results]]:
        """Yield (site, results) for each site whose results the store may not have yet.

        The results are the oldest unpublished ones, at most _RESULTS_AT_ONCE, each with its event.
        The list may be empty.
        """
        for site in sorted(self._unpublished_sites):
            unpublished = self._executors[site].results(_RESULTS_AT_ONCE)
            yield site, [(item, item.event(f"/drydock/executor/{site}")) for item in unpublished]

    def mark_published(self, site: str, results: Results) -> None:
        """Record that the store has these results: `results` does not yield them again."""
        self._executors[site].mark_published([result for result, _ in results])
        if len(results) < _RESULTS_AT_ONCE:
            self._unpublished_sites.discard(site)

    def _at(self, site: str) -> SiteExecutor | None:
        """Return the executor of a site; open its journal at the first use.

        None if the journal cannot be read. Raises JournalError if it is in use.
        """
        if site in self._executors or site in self.unusable:
            return self._executors.get(site)
        try:
            journal = self._journals[site] = self._open_journal(site)
        except (JournalError, sqlite3.Error, *UNREADABLE) as error:
            is_content = isinstance(error, (UnreadableJournalError, *UNREADABLE))
            if not is_content and not is_damage(error):
                raise
            self.unusable[site] = (
                error if isinstance(error, JournalError) else JournalError(f"{site}: {error!r}")
            )
            return None
        executor = self._executors[site] = self._make(site, journal)
        executor.set_halts(self._halts)
        self._unpublished_sites.add(site)
        return executor

    def _open_journal(self, site: str) -> Journal:
        """Return the journal of a site, after all its live entries were read.

        Raises UnreadableJournalError if it cannot be read or is that of another site.
        """
        path = self._folder / f"{site}.sqlite"
        journal = Journal(path, self._hook)
        try:
            written_for = journal.newest_site()
            if written_for not in (None, site):
                raise UnreadableJournalError(
                    f"{path} is the journal of {written_for}: put back the journal of {site}, or"
                    " restore a backup with `drydock restore`"
                )
            journal.live()
            journal.unpublished()
        except BaseException:
            journal.close()
            raise
        return journal

    def _make(self, site: str, journal: Journal) -> SiteExecutor:
        access = self._access(site)
        if access is None or self._threads is None:
            return DeferringExecutor(site, journal, self._keys, access, self._slots)
        return SiteThread(
            site,
            journal,
            self._keys,
            access,
            slots=self._slots,
            max_results=_RESULTS_AT_ONCE,
            shared=self._threads,
        )
