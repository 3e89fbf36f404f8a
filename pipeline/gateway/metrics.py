"""The metrics of `drydock gateway`. Labels are closed sets, there as zeros from the start."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.config import WEBHOOK_SOURCES
from pipeline.gateway.link import Where
from pipeline.gateway.spool import Spool
from schemas.dead_letters import DeadLetterCode
from schemas.topics import ADVISORIES, CHECKINS, DEAD_LETTERS, INVENTORY

EVENTS: Final = "events"
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
_TOPICS: Final = (INVENTORY, CHECKINS, ADVISORIES, DEAD_LETTERS)
_REQUEST_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class GatewayMetrics:
    """The metrics on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Histogram(
            "drydock_http_request_duration_seconds",
            "HTTP requests answered.",
            ["route", "status"],
            buckets=_REQUEST_S,
            registry=registry,
        )
        self._posts = Counter(
            "drydock_gateway_posts", "What was posted.", ["source", "outcome"], registry=registry
        )
        self._records = Counter(
            "drydock_gateway_records", "Records made durable.", ["topic", "by"], registry=registry
        )
        self._durable = Histogram(
            "drydock_gateway_durable_seconds",
            "From a record's translation until it was durable.",
            ["by"],
            buckets=_REQUEST_S,
            registry=registry,
        )
        self._dead_letters = Counter(
            "drydock_dead_letters", "Inputs set aside.", ["topic", "code"], registry=registry
        )
        self._ready = Gauge("drydock_ready", "1 while inputs are taken, else 0.", registry=registry)
        self._spooling = Gauge(
            "drydock_gateway_spooling",
            "1 while records go through the spool, else 0.",
            registry=registry,
        )
        self._start()

    def _start(self) -> None:
        for source in SOURCES:
            for outcome in {ACCEPTED, _BUG, *_REASONS.values()}:
                self._posts.labels(source, outcome)
        for where in Where:
            self._durable.labels(where.value)
            for topic in _TOPICS:
                self._records.labels(topic.name, where.value)
        for code in DeadLetterCode:
            self._dead_letters.labels("webhooks", code.value)

    def watch(self, spool: Spool) -> None:
        """Tell of this spool whenever asked."""

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"drydock_gateway_spool_{name}", what, registry=self.registry)

        gauge("records", "Records that wait on disk.").set_function(lambda: spool.depth)
        gauge("bytes", "What they take.").set_function(lambda: spool.size)
        gauge("max_bytes", "What they may take.").set(spool.max_bytes)
        gauge("oldest_age_seconds", "How long the first has waited.").set_function(spool.age_s)

    def answered(self, route: str, status: int, duration_s: float) -> None:
        """An HTTP request was answered. `route` is the path's pattern."""
        self._requests.labels(route, str(status)).observe(duration_s)

    def posted(self, source: str, status: int) -> None:
        """What a source posted was answered with this status."""
        outcome = ACCEPTED if status == 200 else _REASONS.get(status, _BUG)
        self._posts.labels(source, outcome).inc()

    def set_aside(self, code: DeadLetterCode) -> None:
        """A part of a webhook became a dead letter."""
        self._dead_letters.labels("webhooks", code.value).inc()

    def durable(self, topic: str, where: Where, seconds: float) -> None:
        """A record for this topic is durable, so long after it was given."""
        self._records.labels(topic, where.value).inc()
        self._durable.labels(where.value).observe(seconds)

    def set_spooling(self, *, spooling: bool) -> None:
        """Which way records go."""
        self._spooling.set(spooling)

    def set_ready(self, *, ready: bool) -> None:
        """Whether inputs are taken."""
        self._ready.set(ready)
