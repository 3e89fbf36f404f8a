"""Metrics of the queries of Macs and of their answers, for each program with executors."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agents.mdm.answers import FindingKind, QueryAnswer
from agents.mdm.queries import QueryOutcome

_HOUR_S: Final = 3600
_DELAYS_S: Final = (1, 10, 60, 600, _HOUR_S, 6 * _HOUR_S, 24 * _HOUR_S, 72 * _HOUR_S)


class MdmMetrics:
    """The metrics, registered on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._findings = Counter(
            "drydock_mdm_answer_findings",
            "Answers of Macs to Drydock's commands that need attention: `different_answer` "
            "(the server delivered a command twice, and the answers differ), "
            "`repeated_answer` (they are equal), `late_answer` (after the end of the job). "
            "The log has the command. By `drydock run` and `drydock agent`.",
            ["kind"],
            registry=registry,
        )
        for kind in FindingKind:
            self._findings.labels(kind.value)
        self._queries = Counter(
            "drydock_mdm_queries",
            "Queries that keep the inventory of Macs fresh: `sent`, `open` (the Mac has not "
            "answered the earlier one), `answered` (it was read again after its answer), "
            "`held` (Setup Assistant, or a new enrollment profile waits), `not_enrolled`, "
            "`failed` (refused), `unavailable` (the server did not respond; sent later), "
            "`refused` (no trusted key signed it for the site), `dropped` (too many waited). "
            "By `drydock run` and, on Kafka, the site's leading agent.",
            ["outcome"],
            registry=registry,
        )
        for outcome in QueryOutcome:
            self._queries.labels(outcome.value)
        self._delays = Histogram(
            "drydock_mdm_query_delay_seconds",
            "Time from which a query was due until it was sent. It grows after an outage, or "
            "if `max_queries_per_minute` is too low.",
            buckets=_DELAYS_S,
            registry=registry,
        )
        self._waiting = Gauge(
            "drydock_mdm_queries_waiting",
            "Queries that are due and wait for the budget of their server. Above 0 for hours: "
            "raise `max_queries_per_minute`.",
            registry=registry,
        )
        self._answered = Counter(
            "drydock_mdm_queries_answered",
            "First final answers of Macs to these queries: `acknowledged`, `failed`.",
            ["status"],
            registry=registry,
        )
        for status in QueryAnswer:
            self._answered.labels(status.value)

        self._ignored = Counter(
            "drydock_mdm_records_ignored",
            "Records of Macs on Kafka that no trusted key for records signed: another program "
            "writes the topics, or a gateway's key is missing in `trust/records`. By `drydock "
            "agent`; always 0 in `drydock run`.",
            registry=registry,
        )

    def count_ignored_record(self) -> None:
        """Count one record."""
        self._ignored.inc()

    def count_finding(self, kind: FindingKind) -> None:
        """Count one answer."""
        self._findings.labels(kind.value).inc()

    def count_query(self, outcome: QueryOutcome, delay_s: float) -> None:
        """Count one query by its outcome; observe the delay of one that was sent."""
        self._queries.labels(outcome.value).inc()
        if outcome is QueryOutcome.SENT:
            self._delays.observe(delay_s)

    def count_query_answer(self, answer: QueryAnswer) -> None:
        """Count the first final answer to a query."""
        self._answered.labels(answer.value).inc()

    def watch_waiting(self, waiting: Callable[[], int]) -> None:
        """Let the gauge of waiting queries have the value of this function."""
        self._waiting.set_function(waiting)
