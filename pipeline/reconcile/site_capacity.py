"""Open jobs by site, and the Macs that wait until a site may have another one.

On Kafka each partition counts its own Macs; `dispatch_shard` limits a site over all partitions.
"""

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import Final

from pipeline.reconcile.last_decision import LastDecision
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.jobs import INSTALLATIONS, Action

_NO_DEADLINE: Final = 1 << 62


class SiteCapacity:
    """Counts of open jobs, and one queue of waiting Macs for each site.

    `open_jobs` is by site and action, `site_jobs` by site: the jobs that use its capacity.
    """

    def __init__(self) -> None:
        self.open_jobs: Counter[tuple[str, str]] = Counter()
        self.site_jobs: Counter[str] = Counter()
        # The Macs that have an open job.
        self._with_open_job: set[str] = set()
        self._waiting: dict[str, list[tuple[int, str]]] = {}

    def recount(self, histories: Mapping[str, JobHistory]) -> None:
        """Count the open jobs of all histories, in place of the present counts."""
        self.open_jobs.clear()
        self.site_jobs.clear()
        self._with_open_job.clear()
        for udid, history in histories.items():
            self.count_changes(udid, (), history)

    def count_changes(self, udid: str, before: JobHistory, after: JobHistory) -> tuple[str, ...]:
        """Count a Mac's open jobs again after its history changed.

        Returns the sites (sorted) where a job ended.
        """
        old, new = _open_jobs(before), _open_jobs(after)
        if new:
            self._with_open_job.add(udid)
        else:
            self._with_open_job.discard(udid)
        for sign, changed in ((1, new - old), (-1, old - new)):
            for _, site, action in changed:
                self.site_jobs[site] += sign if action in INSTALLATIONS else 0
                self.open_jobs[site, action.value] += sign
        return tuple(sorted({site for _, site, _ in old - new})) if old else ()

    def has_open_job(self, udid: str) -> bool:
        """Return True if the Mac has an open job."""
        return udid in self._with_open_job

    def count_others(self, site: str | None, own_job: JobEntry | None) -> int:
        """Return the number of jobs that use the site's capacity, besides the Mac's own one."""
        jobs = self.site_jobs[site or ""]
        return max(jobs - (own_job is not None and _uses_capacity(own_job, site)), 0)

    def wait(self, udid: str, last: LastDecision) -> None:
        """Queue the Mac at its site, by deadline, if the decision waits for the site's capacity.

        A Mac without a site is never queued.
        """
        if last.wants_capacity and last.site is not None:
            first = last.deadline_us or _NO_DEADLINE
            heapq.heappush(self._waiting.setdefault(last.site, []), (first, udid))

    def pop_waiting(self, site: str, last_decisions: Mapping[str, LastDecision]) -> str | None:
        """Return and remove the waiting Mac with the first deadline; None if no Mac waits.

        A Mac without a deadline is last. A Mac whose last decision does not wait is skipped.
        """
        waiting = self._waiting.get(site)
        while waiting:
            _, udid = heapq.heappop(waiting)
            last = last_decisions.get(udid)
            if last is not None and last.site == site and last.wants_capacity:
                return udid
        return None


def _open_jobs(history: JobHistory) -> frozenset[tuple[str, str, Action]]:
    """Return the open jobs of a history, each as job id, site and action."""
    if not history:
        return _NO_JOBS
    return frozenset(
        [(entry.job_id, entry.site, entry.action) for entry in history if entry.is_open]
    )


_NO_JOBS: Final[frozenset[tuple[str, str, Action]]] = frozenset()


def _uses_capacity(entry: JobEntry, site: str | None) -> bool:
    """Return True if the open job uses capacity of the site: if it installs something."""
    return entry.site == site and entry.action in INSTALLATIONS
