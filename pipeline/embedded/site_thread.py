"""The executor of one live site, in a thread of its own: a Mac or its server can be slow.

    service thread                               thread of the site
    submit, supersede, wake, mark_published  ->  inbox   ->  executor, journal
    set_halts                                ->  halts, read again before each order
    results                                  <-  outbox  <-  journal

The methods of the service's thread return at once. An input that is lost with the process is
repeated at the next start: a job is in the store before it is submitted, and a result stays in the
journal until the store has it. The thread takes no new inputs while a look or an order lasts, which
`timeout_s` of a server and the timeouts of SSH limit.

After an exception the thread ends, and the next `tick` raises it: the service then closes all
executors and opens them again, as after a crash.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agents.guard import GuardedMac
from agents.journal import Journal, UnpublishedResult
from agents.mac import Mac
from agents.site_access import SiteAccess
from pipeline.embedded.deferring_executor import DeferringExecutor
from runtime.trusted_keys import KeyRing
from schemas.events.control import HaltScope
from schemas.jobs import Job, JobIssued, JobSuperseded

# A cycle begins no step after this: inputs wait for its end, and its time must be recent.
_CYCLE_S: Final = 1.0
_MAX_WAIT_S: Final = 60.0
# While the thread is held it asks so often if it may continue.
_HELD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SiteThreads:
    """Clock and callbacks of the threads of live sites.

    `now` is the clock. `notify` is called from a thread that has results or has failed; `tick` is
    then due. While `is_held` returns True nothing is written, so no step begins.
    """

    now: Callable[[], datetime]
    notify: Callable[[], None]
    is_held: Callable[[], bool] = lambda: False


class SiteThread:
    """An executor in a thread, which the first `tick` starts.

    The methods are those of Executor, for one calling thread. `results` returns at most
    `max_results` of them. The journal is not closed here.
    """

    def __init__(
        self,
        site: str,
        journal: Journal,
        keys: KeyRing,
        access: SiteAccess,
        *,
        slots: int,
        max_results: int,
        shared: SiteThreads,
    ) -> None:
        def guarded(job: Job) -> Mac:
            return GuardedMac(access.mac_for(job), self._refresh_halts, self._block_reason)

        guarded_access = replace(access, mac_for=guarded)
        self._executor = DeferringExecutor(site, journal, keys, guarded_access, slots)
        self._max_results = max_results
        self._shared = shared
        self._changed = threading.Condition()
        self._inbox: deque[Callable[[datetime], None]] = deque()
        self._outbox: list[UnpublishedResult] = []
        self._halts: tuple[HaltScope, ...] | None = None
        self._has_news = False
        self._is_ending = False
        self._failure: BaseException | None = None
        self._cycle_until_s = 0.0
        # The begin of the current cycle, in seconds of `time.monotonic()`; None between cycles.
        self._cycle_began_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"site-{site}", daemon=True)

    # --- for the service's thread ---

    def distrust_journal(self, now: datetime) -> None:
        """As of Executor; only before the first `tick`."""
        assert self._thread.ident is None, "the thread of the site runs already"
        self._executor.distrust_journal(now)

    def submit(self, issued: JobIssued, _: datetime) -> None:
        """Let the executor verify and journal a job; one of the future waits for its time."""
        self._put(lambda now: self._executor.submit(issued, now))

    def set_keys(self, keys: KeyRing) -> None:
        """Let the executor verify jobs with these keys, also those that have not begun."""
        self._put(lambda _: self._executor.set_keys(keys))

    def supersede(self, superseded: JobSuperseded, _: datetime) -> None:
        """Let the executor withdraw a job."""
        self._put(lambda now: self._executor.supersede(superseded, now))

    def wake(self, udids: Iterable[str], _: datetime) -> None:
        """Make the jobs of these Macs due."""
        due = tuple(udids)
        if due:
            self._put(lambda now: self._executor.wake(due, now))

    def set_halts(self, scopes: Collection[HaltScope] | None) -> None:
        """Set the halts in force: no order of a job that they cover begins after this returns.

        An order that is being given meanwhile may reach its Mac.
        """
        with self._changed:
            self._halts = None if scopes is None else tuple(scopes)
            self._has_news = True
            self._changed.notify()

    def tick(self, _: datetime, __: Callable[[], bool] = lambda: False) -> None:
        """Start the thread at the first call, and let it look for due jobs at the others.

        Raises the exception that ended the thread.
        """
        if self._failure is not None:
            raise self._failure
        if self._thread.ident is None:
            self._thread.start()
        with self._changed:
            self._has_news = True
            self._changed.notify()

    def next_wake(self, now: datetime) -> datetime | None:
        """Return `now` if `tick` or `results` has something to do, else None."""
        is_due = self._outbox or self._failure is not None or self._thread.ident is None
        return now if is_due else None

    def results(self, limit: int) -> list[UnpublishedResult]:
        """Return the oldest results that are not marked as published and are known here."""
        return self._outbox[:limit]

    def mark_published(self, results: Iterable[UnpublishedResult]) -> None:
        """Let the executor mark these results; the next ones follow."""
        marked = tuple(results)
        if marked:
            with self._changed:  # else the thread could offer them again in between
                self._outbox = []
                self._put(lambda _: self._executor.mark_published(marked))

    def cycle_s(self, now_s: float) -> float:
        """Return the seconds for which the present cycle lasts; 0 while the thread waits.

        `now_s` is of `time.monotonic()`.
        """
        began_s = self._cycle_began_s
        return 0.0 if began_s is None else max(now_s - began_s, 0.0)

    def begin_end(self) -> None:
        """Request the end of the thread after its current step; returns at once."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the end of the thread."""
        if self._thread.ident is not None:
            self._thread.join()

    def _put(self, handle: Callable[[datetime], None]) -> None:
        with self._changed:
            self._inbox.append(handle)
            self._changed.notify()

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._is_ending:
                if self._shared.is_held():
                    self._wait(_HELD_S, for_news=False)
                else:
                    self._cycle_began_s = time.monotonic()
                    self._cycle()
                    self._cycle_began_s = None
                    self._wait(self._pause_s(), for_news=True)
        except BaseException as error:  # noqa: BLE001 - raised again in the service's thread
            self._failure = error
            self._shared.notify()

    def _cycle(self) -> None:
        """Handle the inputs, then advance the due jobs.

        Results of the inputs leave before a look, which can last long.
        """
        now = self._shared.now()
        self._cycle_until_s = time.monotonic() + _CYCLE_S
        with self._changed:
            inputs, self._inbox, self._has_news = self._inbox, deque(), False
        for handle in inputs:
            handle(now)
        self._refresh_halts()
        self._offer_results()
        self._executor.tick(now, self._should_yield)
        self._offer_results()

    def _offer_results(self) -> None:
        """Put the next results into the outbox, if the service has none to store."""
        with self._changed:
            # While marks wait in the inbox, the journal would return their results again.
            if self._outbox or self._inbox:
                return
            self._outbox = self._executor.results(self._max_results)
        if self._outbox:
            self._shared.notify()

    def _wait(self, seconds: float, *, for_news: bool) -> None:
        """Wait so long, and with `for_news` at most until the next input."""
        with self._changed:
            if not self._is_ending and not (for_news and (self._inbox or self._has_news)):
                self._changed.wait(seconds)

    def _pause_s(self) -> float:
        """Return the seconds until the next due job, from 0 to 60."""
        now = self._shared.now()
        wake = self._executor.next_wake(now)
        if wake is None:
            return _MAX_WAIT_S
        return min(max((wake - now).total_seconds(), 0.0), _MAX_WAIT_S)

    def _should_yield(self) -> bool:
        return self._is_ending or time.monotonic() > self._cycle_until_s

    def _refresh_halts(self) -> None:
        self._executor.set_halts(self._halts)

    def _block_reason(self, job: Job) -> str | None:
        """Return the reason not to give the order now, None without one."""
        halts = self._halts
        if self._is_ending:
            return "ending"
        if halts is None or any(job.halted_by(scope) for scope in halts):
            return "halted"
        return "expired" if self._shared.now() >= job.expires_at else None
