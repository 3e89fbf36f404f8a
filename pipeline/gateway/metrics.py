"""The metrics of `drydock gateway`.

Labels are closed sets; each series starts at zero.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.gateway.producer import DurableIn
from pipeline.gateway.spool import Spool
from pipeline.ingest.sources import WEBHOOK_SOURCES
from pipeline.trust.senders import EVENTS
from runtime.metrics import (
    REQUEST_BUCKETS_S,
    RequestMetrics,
    damaged_file_counter,
    dead_letter_counter,
    ready_gauge,
)
from schemas.dead_letters import DeadLetterCode
from schemas.topics import ADVISORIES, CHECKINS, DEAD_LETTERS, INVENTORY

SOURCES: Final = (*WEBHOOK_SOURCES, EVENTS)
ACCEPTED: Final = "accepted"
_REASONS: Final = {
    400: "rejected",
    401: "unauthorized",
    403: "unauthorized",
    408: "slow",
    413: "too_large",
    415: "encoded",
    429: "busy",
    503: "no_room",
}
_BUG: Final = "bug"
_SPOOL: Final = "spool"
_TOPICS: Final = (INVENTORY, CHECKINS, ADVISORIES, DEAD_LETTERS)


class InputMetrics(RequestMetrics):
    """Metrics of inputs over HTTP, in `drydock gateway` and in `drydock run`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.registry = registry
        self._inputs = Counter(
            "drydock_gateway_requests",
            "Requests with a webhook or with events, by the response: `accepted` (200), "
            "`rejected` (400), `unauthorized` (401, 403), `slow` (408), `too_large` (413), "
            "`encoded` (415), `busy` (429), `no_room` (503), `bug` (any other). By `drydock "
            "run` too.",
            ["source", "outcome"],
            registry=registry,
        )
        self._newest = Gauge(
            "drydock_newest_input_timestamp_seconds",
            "Time of the newest accepted input of a source; 0 if there was none since the "
            "start. With several replicas, use the newest. By `drydock run` too.",
            ["source"],
            registry=registry,
        )
        for source in SOURCES:
            self._newest.labels(source)
            for outcome in {ACCEPTED, _BUG, *_REASONS.values()}:
                self._inputs.labels(source, outcome)

    def count_request(self, source: str, status: int) -> None:
        """Count one webhook or request with events by its source and response status.

        Status 200 counts as accepted, and a status that is no known refusal as the outcome `bug`.
        """
        outcome = ACCEPTED if status == 200 else _REASONS.get(status, _BUG)
        self._inputs.labels(source, outcome).inc()
        if outcome == ACCEPTED:
            self._newest.labels(source).set_to_current_time()


class GatewayMetrics(InputMetrics):
    """The gateway's metrics, registered on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._records = Counter(
            "drydock_gateway_records",
            "Records made durable, in `kafka` or in the `spool`.",
            ["topic", "via"],
            registry=registry,
        )
        self._durable = Histogram(
            "drydock_gateway_durable_seconds",
            "Time from the translation of a record until it is durable.",
            ["via"],
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._dead_letters = dead_letter_counter(registry, ["webhooks"])
        self._ready = ready_gauge(registry)
        self._damaged_files = damaged_file_counter(registry, _SPOOL)
        self._lost = Counter(
            "drydock_gateway_spool_lost_records",
            "Records of damaged spools that could not be read.",
            registry=registry,
        )
        self._spooling = Gauge(
            "drydock_gateway_spooling",
            "1 while records go through the spool, else 0.",
            registry=registry,
        )
        self._initialise_series()

    def _initialise_series(self) -> None:
        for durable_in in DurableIn:
            self._durable.labels(durable_in.value)
            for topic in _TOPICS:
                self._records.labels(topic.name, durable_in.value)

    def expose_spool(self, spool: Spool) -> None:
        """Register gauges that read this spool at each scrape."""

        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(f"drydock_gateway_spool_{name}", help_text, registry=self.registry)

        gauge("records", "Records in the spool.").set_function(lambda: spool.depth)
        gauge("bytes", "Size of the records in the spool.").set_function(lambda: spool.size)
        gauge(
            "max_bytes", "Size limit of the spool. Above it requests get 503 while Kafka is away."
        ).set(spool.max_bytes)
        undeleted = gauge(
            "undeleted_records",
            "Delivered records that the disk refuses to delete. They are not sent again, "
            "except after a kill.",
        )
        undeleted.set_function(lambda: spool.undeleted)
        gauge(
            "failed",
            "1 if the last write to the spool failed, else 0. It is repeated every second.",
        ).set_function(lambda: spool.failure is not None)
        gauge(
            "full",
            "1 if the spool, or its volume beside the reserve, has no room for a record, else 0.",
        ).set_function(lambda: spool.shortage(0) is not None)
        age = gauge(
            "oldest_age_seconds", "Age of the oldest record in the spool; 0 if the spool is empty."
        )
        age.set_function(spool.age_s)

    def count_dead_letter(self, code: DeadLetterCode) -> None:
        """Count one dead letter made of a webhook's payload."""
        self._dead_letters.labels("webhooks", code.value).inc()

    def count_damaged_spool(self, lost: int) -> None:
        """Count a damaged spool that was replaced, and its lost records."""
        self._damaged_files.labels(_SPOOL).inc()
        self._lost.inc(lost)

    def observe_durable(self, topic: str, durable_in: DurableIn, duration_s: float) -> None:
        """Count a record that is durable `duration_s` after its acceptance."""
        self._records.labels(topic, durable_in.value).inc()
        self._durable.labels(durable_in.value).observe(duration_s)

    def set_spooling(self, *, spooling: bool) -> None:
        """Set `drydock_gateway_spooling`: 1 if records go through the spool, 0 if directly."""
        self._spooling.set(spooling)

    def set_ready(self, *, ready: bool) -> None:
        """Set the gauge `drydock_ready`: 1 if inputs are accepted, else 0."""
        self._ready.set(ready)
