"""Metrics of the queries of Macs and of their answers, for each program with executors."""

from prometheus_client import CollectorRegistry, Counter

from agents.mdm.answers import FindingKind
from agents.mdm.queries import QueryOutcome


class MdmMetrics:
    """The metrics, registered on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._findings = Counter(
            "drydock_mdm_answer_findings",
            "Answers of Macs to Drydock's commands that need attention.",
            ["kind"],
            registry=registry,
        )
        for kind in FindingKind:
            self._findings.labels(kind.value)
        self._queries = Counter(
            "drydock_mdm_queries",
            "Queries that keep the inventory of Macs fresh.",
            ["outcome"],
            registry=registry,
        )
        for outcome in QueryOutcome:
            self._queries.labels(outcome.value)

    def count_finding(self, kind: FindingKind) -> None:
        """Count one answer."""
        self._findings.labels(kind.value).inc()

    def count_query(self, outcome: QueryOutcome) -> None:
        """Count one query by its outcome."""
        self._queries.labels(outcome.value).inc()
