"""The metrics of `drydock query`. Labels are closed sets; each series starts at zero."""

from collections.abc import Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipeline.query.time_merge import READ_TOPICS
from runtime.metrics import RequestMetrics, ready_gauge


class QueryMetrics(RequestMetrics):
    """All metrics of `drydock query`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.registry = registry
        self._records = Counter(
            "drydock_query_records",
            (
                "Records of a topic in the view. After a restart the advisories are read and "
                "counted again."
            ),
            ["topic"],
            registry=registry,
        )
        self._unusable = Counter(
            "drydock_query_unusable_records",
            (
                "Records without effect, as in a worker: unreadable, not signed, not stamped. The "
                "log has the reason."
            ),
            ["topic"],
            registry=registry,
        )
        self._lost = Counter(
            "drydock_query_lost_records",
            (
                "Records that were deleted before the view read them: it was down for longer than "
                "the topic's retention."
            ),
            ["topic"],
            registry=registry,
        )
        self._lag = Gauge(
            "drydock_query_lag_records",
            "Records of a topic that the view does not have yet.",
            ["topic"],
            registry=registry,
        )
        self._read_at = Gauge(
            "drydock_query_read_timestamp_seconds",
            (
                "Last time at which all leaders of the topics' partitions responded; 0 before the "
                "first. If it is old, so is the view."
            ),
            registry=registry,
        )
        self._ready = ready_gauge(registry)
        for topic in READ_TOPICS:
            for metric in (self._records, self._unusable, self._lost, self._lag):
                metric.labels(topic.name)

    def count_unusable(self, topic: str) -> None:
        """Count a record without effect."""
        self._unusable.labels(topic).inc()

    def count_lost(self, lost: Mapping[str, int]) -> None:
        """Count records that were deleted before they were read, by topic."""
        for topic, count in lost.items():
            self._lost.labels(topic).inc(count)

    def count_read(
        self, records: Mapping[str, int], lag: Mapping[str, int], read_at: datetime
    ) -> None:
        """Count one read: its records, and the lag as of `read_at`, by topic."""
        for topic, count in records.items():
            self._records.labels(topic).inc(count)
        for topic, count in lag.items():
            self._lag.labels(topic).set(count)
        self._read_at.set(read_at.timestamp())

    def set_ready(self, *, ready: bool) -> None:
        """Set the gauge `drydock_ready`: 1 if the view can be read, else 0."""
        self._ready.set(ready)
