"""Jobs by site, open and issued in an hour, and the Macs that wait until it may have another one.

On Kafka each partition counts its own Macs; `dispatch_shard` limits a site over all partitions.
The hour of a job follows from its time of issue in the job history, so a restart changes no count.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from pipeline.reconcile.hourly_jobs import HOUR_US, HourlyJobs
from pipeline.reconcile.last_decision import LastDecision
from pipeline.state.jobs import JobEntry, JobHistory, open_job, rehearsals
from schemas.jobs import INSTALLATIONS, Action

_NO_DEADLINE: Final = 1 << 62


class SiteCapacity:
    """Counts of jobs, and one queue of waiting Macs for each site and action.

    `open_jobs` is by site and action, `site_jobs` by site: the jobs that use its capacity.
    `withheld` counts the `rehearsals` by site and action. `issued` are the jobs of two days.
    `has_whole_sites`: False if other partitions have Macs of the same sites.
    """

    def __init__(self, *, has_whole_sites: bool = True) -> None:
        self.has_whole_sites = has_whole_sites
        self.open_jobs: Counter[tuple[str, str]] = Counter()
        self.site_jobs: Counter[str] = Counter()
        self.withheld: Counter[tuple[str, str]] = Counter()
        self._job_of: dict[str, JobEntry] = {}
        self._waiting: dict[str, dict[Action, list[tuple[int, str]]]] = {}
        self.issued = HourlyJobs()

    def recount(self, histories: Mapping[str, JobHistory]) -> None:
        """Count the open jobs of all histories, in place of the present counts."""
        self.open_jobs.clear()
        self.site_jobs.clear()
        self.withheld.clear()
        self._job_of.clear()
        self.issued.clear()
        for udid, history in histories.items():
            self.count_changes(udid, (), history)

    def count_changes(self, udid: str, before: JobHistory, after: JobHistory) -> tuple[str, ...]:
        """Count a Mac's open jobs again after its history changed.

        Returns the sites (sorted) where a job ended.
        """
        self._count_issued(udid, before, after)
        self._count_withheld(before, after)
        old, new = _open_jobs(before), _open_jobs(after)
        job = open_job(after) if new else None
        if job is not None:
            self._job_of[udid] = job
        elif old:
            self._job_of.pop(udid, None)
        for sign, changed in ((1, new - old), (-1, old - new)):
            for _, site, action in changed:
                self.site_jobs[site] += sign if action in INSTALLATIONS else 0
                self.open_jobs[site, action.value] += sign
        return tuple(sorted({site for _, site, _ in old - new})) if old else ()

    def open_job_of(self, udid: str) -> JobEntry | None:
        """Return the Mac's open job, the one of `open_job`; None if no job is open."""
        return self._job_of.get(udid)

    def jobs(self) -> Iterable[JobEntry]:
        """Return the open job of each Mac that has one."""
        return self._job_of.values()

    def count_others(self, site: str | None, own_job: JobEntry | None) -> int:
        """Return the number of jobs that use the site's capacity, besides the Mac's own one."""
        jobs = self.site_jobs[site or ""]
        return max(jobs - (own_job is not None and _uses_capacity(own_job, site)), 0)

    def _count_issued(self, udid: str, before: JobHistory, after: JobHistory) -> None:
        ends = [(len(jobs), jobs[0].job_id, jobs[-1].job_id) for jobs in (before, after) if jobs]
        if not after or (before and ends[0] == ends[1]):
            return  # most often: a result of a job, and no new one
        known = {entry.job_id for entry in before}
        for entry in after:
            if entry.job_id not in known:
                self.issued.add(entry.site, entry.action, entry.issued_us, udid)

    def _count_withheld(self, before: JobHistory, after: JobHistory) -> None:
        for sign, history in ((-1, before), (1, after)):
            for entry in rehearsals(history) if history else ():
                self.withheld[entry.site, entry.action.value] += sign

    def forget_hours(self, now_us: int) -> None:
        """Forget the counts of hours that are long past, at most once an hour."""
        self.issued.forget_before(now_us)

    def count_issued(self, site: str | None, action: Action, now_us: int) -> int:
        """Return the number of jobs for this action that the site got in the hour of `now_us`."""
        return self.issued.count(site or "", action, now_us)

    def others_of_hour(
        self, site: str | None, own_job: JobEntry | None, now_us: int
    ) -> tuple[tuple[str, int], ...]:
        """Return by action, sorted, the jobs that the site got in this hour, but for the own one.

        Actions without a job are left out.
        """
        found = []
        hour = now_us // HOUR_US
        for action in _SORTED_ACTIONS if self.issued else ():
            jobs = self.issued.count(site or "", action, now_us)
            if own_job is not None and own_job.action is action and own_job.site == site:
                jobs -= own_job.issued_us // HOUR_US == hour
            if jobs > 0:
                found.append((action.value, jobs))
        return tuple(found)

    def wait(self, udid: str, last: LastDecision) -> None:
        """Queue the Mac at its site, by deadline, if the decision waits for the site's capacity.

        It is queued for each action for which it waits. A Mac without a site is never queued.
        """
        if last.site is None:
            return
        first = last.deadline_us or _NO_DEADLINE
        for action in last.waiting_actions:
            queues = self._waiting.setdefault(last.site, {})
            heapq.heappush(queues.setdefault(action, []), (first, udid))

    def sites_with_waiting(self) -> Collection[str]:
        """Return the sites at which Macs may wait, sorted."""
        return sorted(site for site, queues in self._waiting.items() if any(queues.values()))

    def pop_waiting(
        self, site: str, actions: Iterable[Action], last_decisions: Mapping[str, LastDecision]
    ) -> str | None:
        """Return and remove the Mac with the first deadline that waits for one of these actions.

        None if no Mac waits. A Mac without a deadline is last. A Mac whose last decision does not
        wait is skipped.
        """
        queues = self._waiting.get(site, {})
        while True:
            heads = [(queues[action][0], action) for action in actions if queues.get(action)]
            if not heads:
                return None
            (_, udid), action = min(heads)
            heapq.heappop(queues[action])
            last = last_decisions.get(udid)
            if last is not None and last.site == site and action in last.waiting_actions:
                return udid


def _open_jobs(history: JobHistory) -> frozenset[tuple[str, str, Action]]:
    """Return the open jobs of a history, each as job id, site and action."""
    if not history:
        return _NO_JOBS
    return frozenset(
        [(entry.job_id, entry.site, entry.action) for entry in history if entry.is_open]
    )


_SORTED_ACTIONS: Final = tuple(sorted(Action, key=lambda action: action.value))
_NO_JOBS: Final[frozenset[tuple[str, str, Action]]] = frozenset()


def _uses_capacity(entry: JobEntry, site: str | None) -> bool:
    """Return True if the open job uses capacity of the site: if it installs something."""
    return entry.site == site and entry.action in INSTALLATIONS
