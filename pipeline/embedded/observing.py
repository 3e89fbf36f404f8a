"""What a transaction made durable, as metrics and log lines."""

from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from pipeline.decide.engine import Engine
from pipeline.embedded.unit import Committed
from pipeline.ingest.judging import FOLLOWERS
from pipeline.ingest.sources import TRANSLATORS
from pipeline.metrics import EVENTS, FEEDS, WEBHOOKS, Metrics
from pipeline.state.device import from_us
from pipeline.state.jobs import JobEntry
from schemas import logkeys as key
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, JobIssuedEvent, JobResultedEvent
from schemas.results import Outcome
from schemas.topics import TOPICS

# These counts walk over all Macs; a minute is finer than any deadline.
_COUNTED_EVERY: Final = timedelta(minutes=1)
_TOPIC_OF: Final[dict[type[Any], str]] = {
    model: topic.name for topic in TOPICS for model in topic.models
}


class Observer:
    """Counts and logs what was committed, and how the fleet stands after it."""

    def __init__(self, metrics: Metrics, log: structlog.typing.FilteringBoundLogger) -> None:
        self._metrics = metrics
        self._log = log
        self._counted_at: datetime | None = None

    def committed(self, done: Committed, engine: Engine) -> None:
        """Tell of a transaction."""
        for event in done.events:
            self._event(event, done.at, engine)
        for repeat in done.repeated:
            self._metrics.repeated(_TOPIC_OF[type(repeat)])
        for record in done.decisions:
            self._decision(record)
        for letter in done.dead_letters:
            self._metrics.set_aside(_topic_of_source(letter.source), letter.code)
            bug = letter.code is DeadLetterCode.BUG
            (self._log.error if bug else self._log.warning)(
                "input set aside",
                **{key.ERROR_CODE: letter.code, key.SOURCE: letter.source},
                **{key.DETAIL: letter.detail},
            )
        self.fleet(engine, done.at)

    def fleet(self, engine: Engine, now: datetime) -> None:
        """Tell how the fleet stands."""
        policy = engine.policy
        if policy is not None:
            self._metrics.know_sites(policy.sites)
        self._metrics.set_fleet(engine.exposed, engine.open_jobs)
        if self._counted_at is None or now >= self._counted_at + _COUNTED_EVERY:
            self._counted_at = now
            self._metrics.set_devices(sum(1 for _ in engine.fleet.macs()))
            self._metrics.set_overdue(engine.overdue(now))

    def _event(self, event: Event, now: datetime, engine: Engine) -> None:
        self._metrics.event(_TOPIC_OF[type(event)], (now - event.time).total_seconds())
        if isinstance(event, JobIssuedEvent):
            job = event.data.job
            self._log.info(
                "job issued",
                **{key.JOB_ID: job.job_id, key.UDID: job.udid, key.SITE: job.site},
                **{key.ACTION: job.action, key.METHOD: job.method, key.REASON: job.reason},
            )
        elif isinstance(event, JobResultedEvent):
            self._result(event, engine)

    def _result(self, event: JobResultedEvent, engine: Engine) -> None:
        result = event.data
        entry = _entry(engine, result.udid, result.job_id)
        self._metrics.resulted(None if entry is None else entry.action, result.outcome)
        if entry is not None and result.outcome is Outcome.SUCCEEDED:
            took = event.time - from_us(entry.issued_us)
            self._metrics.succeeded(entry.action, took.total_seconds())
        self._log.info(
            "job resulted",
            **{key.JOB_ID: result.job_id, key.UDID: result.udid, key.SITE: result.site},
            **{key.OUTCOME: result.outcome, key.ERROR_CODE: result.error_code},
            **{key.ATTEMPT: result.attempt},
        )

    def _decision(self, record: DecisionRecord) -> None:
        decision = record.decision
        self._metrics.decided(decision.action, decision.reason)
        self._log.info(
            "decided",
            **{key.UDID: decision.udid, key.SERIAL: decision.serial, key.SITE: decision.site},
            **{key.ACTION: decision.action, key.REASON: decision.reason},
        )


def _entry(engine: Engine, udid: str, job_id: str) -> JobEntry | None:
    ledger = engine.fleet.ledgers.get(udid, ())
    return next((entry for entry in ledger if entry.job_id == job_id), None)


def _topic_of_source(source: str) -> str:
    if source in FOLLOWERS:
        return FEEDS
    return WEBHOOKS if source in TRANSLATORS else EVENTS
