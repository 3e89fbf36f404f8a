"""Jobs of one partition's Macs that no executor has accepted: when to offer each one again. Pure.

A job can be lost on its way to the executor: records of `drydock.dispatch.v1` or of the site's
topic are deleted, a row of dispatch is unreadable, committed offsets are moved. The owner of the
Mac therefore sends the job's event to dispatch again until a result of the job arrives, after
any loss. Each receiver knows a repeat by the job's id.

| job | is offered again |
| --- | --- |
| open, without a result | 5, 15, 35 and 75 minutes after its issue, then every hour |
| accepted, ended, superseded, or past `expires_at` | never; its event is forgotten |

The times depend on the time of issue only. A new owner, which may have missed one, begins with an
offer of each job that is older than five minutes.
"""

import heapq
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from pipeline.state.device import duration_us, to_us
from pipeline.state.jobs import JobEntry, JobHistory, open_job

FIRST_OFFER_AFTER: Final = timedelta(minutes=5)
_FIRST_US: Final = duration_us(FIRST_OFFER_AFTER)
# A site whose agents are away reads all repeats when they return: a job has 75 in three days.
_LONGEST_US: Final = duration_us(timedelta(hours=1))


class Offer(NamedTuple):
    """A job and the bytes of its JobIssuedEvent."""

    job: JobEntry
    issued_event: bytes


class UnacceptedJobs:
    """The events of the jobs without a result, at most one for each Mac, with their next times."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}
        # The time of each Mac's next offer. A heap entry with another time is stale.
        self._due_us: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def add(self, udid: str, offer: Offer) -> None:
        """Keep the event of a job without a result, instead of the Mac's earlier one."""
        self._offers[udid] = offer
        self._schedule(udid, offer.job.issued_us + _FIRST_US)

    def event_of(self, udid: str, history: JobHistory) -> bytes | None:
        """Return the event of the Mac's unaccepted job; None, and forget it, if there is none.

        `history` has the Mac's jobs.
        """
        offer = self._offers.get(udid)
        if offer is None:
            return None
        entry = open_job(history)
        if entry is None or entry.job_id != offer.job.job_id or entry.outcome is not None:
            self._forget(udid)
            return None
        return offer.issued_event

    def pop_due(
        self, histories: Mapping[str, JobHistory], now: datetime, limit: int
    ) -> Iterator[Offer]:
        """Yield at most `limit` jobs to offer again at `now`, and schedule each for its next time.

        A job that has expired, or has a result in `histories`, is forgotten.
        """
        now_us = to_us(now)
        for _ in range(limit):
            if not self.is_due(now):
                return
            at_us, udid = heapq.heappop(self._heap)
            if self._due_us.get(udid) != at_us:
                continue
            offer = self._offers[udid]
            if offer.job.expires_us <= now_us:
                self._forget(udid)
            elif self.event_of(udid, histories.get(udid, ())) is not None:
                self._schedule(udid, _next_time_us(offer.job.issued_us, now_us))
                yield offer

    def is_due(self, now: datetime) -> bool:
        """Return True if `pop_due` has work."""
        return bool(self._heap) and self._heap[0][0] <= to_us(now)

    def _schedule(self, udid: str, at_us: int) -> None:
        self._due_us[udid] = at_us
        heapq.heappush(self._heap, (at_us, udid))

    def _forget(self, udid: str) -> None:
        del self._offers[udid], self._due_us[udid]


def _next_time_us(issued_us: int, now_us: int) -> int:
    """Return the first time after `now_us` at which a job is offered again."""
    at_us, interval_us = issued_us + _FIRST_US, _FIRST_US
    while at_us <= now_us:
        interval_us = min(2 * interval_us, _LONGEST_US)
        at_us += interval_us
    return at_us
