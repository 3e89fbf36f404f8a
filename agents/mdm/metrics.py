"""Metrics of the answers of Macs to commands, for each program with executors."""

from prometheus_client import CollectorRegistry, Counter

from agents.mdm.answers import FindingKind


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

    def count_finding(self, kind: FindingKind) -> None:
        """Count one answer."""
        self._findings.labels(kind.value).inc()
