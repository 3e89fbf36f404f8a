"""Metrics and log lines for committed transactions."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pipeline.embedded.journal_check import Doubt
from pipeline.embedded.service import Service
from pipeline.embedded.transaction import Committed
from pipeline.ingest.sources import FEED_DIFFS, TRANSLATORS
from pipeline.metrics import EVENTS, FEEDS, WEBHOOKS, Metrics
from pipeline.reconcile.counting import count_automatic_halts, count_fleet, count_halts
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import from_us
from pipeline.state.feed_comparison import compare_feeds
from pipeline.state.jobs import JobEntry
from runtime.dead_letters import log_dead_letter
from runtime.logs import Log
from schemas import logkeys as key
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, JobIssuedEvent, JobResultedEvent
from schemas.queries import MacQuery
from schemas.results import Outcome
from schemas.topics import TOPICS

# Overdue Macs are counted one by one, and time alone changes their number. Deadlines are hours or
# days: once a minute is precise enough, and soon after new Macs.
_COUNT_INTERVAL: Final = timedelta(minutes=1)
_COUNT_INTERVAL_OF_NEW: Final = timedelta(seconds=5)
_SET_INTERVAL: Final = timedelta(seconds=1)
_TOPIC_OF: Final[dict[type[Any], str]] = {
    model: topic.name for topic in TOPICS for model in topic.models
}


class MetricsLog:
    """Counts and logs each commit, and updates the gauges of the fleet."""

    def __init__(
        self,
        metrics: Metrics,
        log: Log,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._set_at: datetime | None = None
        self._counted_at: datetime | None = None
        self._known = 0
        self._stalled: frozenset[str] = frozenset()

    def record_commit(self, done: Committed, reconciler: Reconciler) -> None:
        """Count and log the work of a committed transaction, then update the fleet's gauges."""
        for event in done.events:
            self._record_event(event, done.at, reconciler)
        for repeat in done.duplicates:
            self._metrics.count_duplicate(_TOPIC_OF[type(repeat)])
        for record in done.decisions:
            self._record_decision(record)
        received = [one.receivedat for one in done.events if one.receivedat is not None]
        if received and done.decisions:
            waited_s = (self._clock() - min(received)).total_seconds()
            has_job = any(isinstance(one, JobIssuedEvent) for one in done.events)
            self._metrics.observe_latency(waited_s, has_job=has_job)
        for letter in done.dead_letters:
            self._metrics.count_dead_letter(_topic_of_source(letter.source), letter.code)
            log_dead_letter(self._log, letter)
        self.update_fleet(reconciler, done.at)

    def update_if_late(self, service: Service, now: datetime) -> None:
        """Set the gauges of the fleet, unless that was done in the last second: time changes ages.

        The service calls it at least every 2 s.
        """
        if self._set_at is None or now >= self._set_at + _SET_INTERVAL:
            self.update_fleet(service.reconciler, now)
            self._report_stalled(service.executors.stalled_sites(time.monotonic()))

    def _report_stalled(self, sites: frozenset[str]) -> None:
        """Set the gauges of stalled sites, and log each site once until it has progress again."""
        for site in sorted(sites - self._stalled):
            self._log.error("site has no progress: a step hangs", **{key.SITE: site})
        for site in sorted(self._stalled - sites):
            self._log.info("site has progress again", **{key.SITE: site})
        self._stalled = sites
        self._metrics.set_stalled_sites(sites)

    def update_fleet(self, reconciler: Reconciler, now: datetime) -> None:
        """Set the gauges of the fleet; those that visit every Mac are set once a minute."""
        self._set_at = now
        policy = reconciler.policy
        if policy is not None:
            self._metrics.add_sites(policy.sites)
        self._metrics.set_fleet(count_fleet([reconciler], now))
        fleet = reconciler.fleet
        self._metrics.set_control(
            count_halts(fleet, now), count_automatic_halts(fleet, now), reconciler.policy_digest
        )
        known = len(reconciler.fleet.devices)
        every = _COUNT_INTERVAL if known == self._known else _COUNT_INTERVAL_OF_NEW
        if self._counted_at is None or now >= self._counted_at + every:
            self._counted_at, self._known = now, known
            self._metrics.set_devices(sum(1 for _ in reconciler.fleet.macs()))
            self._metrics.set_overdue(reconciler.count_overdue(now))
            found = compare_feeds(reconciler.fleet.advisories, now)
            self._metrics.set_feed_findings(one.code for one in found)

    def record_lost_entries(self, count: int) -> None:
        """Count and log entries of the log that were committed and are gone."""
        if count:
            self._metrics.count_lost_entries(count)
            self._log.error(
                "entries of the log are lost: the file drydock.sqlite-wal was lost or an older"
                " database put in place; Macs are checked, erasing jobs need a new approval",
                **{key.COUNT: count},
            )

    def record_doubts(self, doubts: Sequence[Doubt]) -> None:
        """Count and log the journals that may lack orders."""
        for doubt in doubts:
            self._metrics.count_doubted_journal(doubt.cause)
            self._log.error(
                "journal may lack orders; its Macs are checked, erasing jobs need a new approval",
                **{key.SITE: doubt.site, key.REASON: doubt.cause},
            )

    def counting(self, ask: Callable[[MacQuery], None]) -> Callable[[MacQuery], None]:
        """Return a function that counts a query as due, then calls `ask` with it."""

        def count_and_ask(query: MacQuery) -> None:
            self._metrics.count_due_queries(query.kind)
            ask(query)

        return count_and_ask

    def _record_event(self, event: Event, now: datetime, reconciler: Reconciler) -> None:
        self._metrics.count_event(_TOPIC_OF[type(event)], (now - event.time).total_seconds())
        if isinstance(event, JobIssuedEvent):
            job = event.data.job
            self._log.info(
                "job issued",
                **{key.JOB_ID: job.job_id, key.UDID: job.udid, key.SITE: job.site},
                **{key.ACTION: job.action, key.METHOD: job.method, key.REASON: job.reason},
            )
        elif isinstance(event, JobResultedEvent):
            self._record_result(event, reconciler)

    def _record_result(self, event: JobResultedEvent, reconciler: Reconciler) -> None:
        result = event.data
        entry = _find_job(reconciler, result.udid, result.job_id)
        self._metrics.count_result(None if entry is None else entry.action, result.outcome)
        if entry is not None:
            self._metrics.count_attempt(entry.site, entry.method, result.outcome, result.error_code)
        if entry is not None and result.outcome is Outcome.SUCCEEDED:
            took = event.time - from_us(entry.issued_us)
            self._metrics.observe_job_duration(entry.action, took.total_seconds())
        self._log.info(
            "job resulted",
            **{key.JOB_ID: result.job_id, key.UDID: result.udid, key.SITE: result.site},
            **{key.OUTCOME: result.outcome, key.ERROR_CODE: result.error_code},
            **{key.ATTEMPT: result.attempt},
        )

    def _record_decision(self, record: DecisionRecord) -> None:
        decision = record.decision
        self._metrics.count_decision(decision.action, decision.reason)
        self._log.info(
            "decided",
            **{key.UDID: decision.udid, key.SERIAL: decision.serial, key.SITE: decision.site},
            **{key.ACTION: decision.action, key.REASON: decision.reason},
        )


def _find_job(reconciler: Reconciler, udid: str, job_id: str) -> JobEntry | None:
    history = reconciler.fleet.job_histories.get(udid, ())
    return next((entry for entry in history if entry.job_id == job_id), None)


def _topic_of_source(source: str) -> str:
    """Return the topic label of a dead letter: `feeds`, `webhooks`, or else `events`."""
    if source in FEED_DIFFS:
        return FEEDS
    return WEBHOOKS if source in TRANSLATORS else EVENTS
