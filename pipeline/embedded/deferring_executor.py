"""An executor that keeps the jobs of the future, as of a clock that was ahead and is set right."""

from collections.abc import Callable
from datetime import datetime

from agents.executor import Executor
from agents.verification import MAX_AHEAD, NotYetValidError
from schemas.jobs import JobIssued


class DeferringExecutor(Executor):
    """An Executor whose `submit` takes a job of the future, and submits it when it is valid.

    On Kafka the pipeline offers such a job again; in one process this class does that. If the
    process ends first, the next one submits the job from the store.
    """

    _early: tuple[JobIssued, ...] = ()

    def submit(self, issued: JobIssued, now: datetime) -> None:
        """Submit a job as Executor does; keep it in memory if it is not yet valid."""
        try:
            super().submit(issued, now)
        except NotYetValidError:
            self._early = (*self._early, issued)

    def tick(self, now: datetime, should_yield: Callable[[], bool] = lambda: False) -> None:
        """Submit the kept jobs that are valid by now, then advance the due ones."""
        if self._early and self._first_valid_at() <= now:
            early, self._early = self._early, ()
            for issued in early:
                self.submit(issued, now)
        super().tick(now, should_yield)

    def next_wake(self, now: datetime) -> datetime | None:
        """Return the time of the next useful `tick` if no job arrives; None without jobs."""
        wake = super().next_wake(now)
        if not self._early:
            return wake
        valid_at = max(self._first_valid_at(), now)
        return valid_at if wake is None else min(wake, valid_at)

    def _first_valid_at(self) -> datetime:
        return min(issued.job.issued_at for issued in self._early) - MAX_AHEAD
