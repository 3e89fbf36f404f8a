"""The metrics of feeds.

Labels are closed sets; each series starts at zero, except those of HTTP requests by route.
"""

from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipeline.ingest.feed_review import FeedOutcome
from runtime.metrics import dead_letter_counter, request_histogram
from schemas.dead_letters import DeadLetter
from schemas.envelope import AdvisoryEvent, Event
from schemas.feeds import FeedSource

SOURCES: Final[tuple[FeedSource, ...]] = get_args(FeedSource)
FEEDS: Final = "feeds"
_ACCEPTED: Final = frozenset({FeedOutcome.ACCEPTED, FeedOutcome.UNCHANGED})
_TYPES: Final = tuple(str(model.model_fields["type"].default) for model in get_args(AdvisoryEvent))


class FeedPollMetrics:
    """Metrics of polling, in `drydock feeds` and in the embedded service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._polls = Counter(
            "drydock_feed_polls", "Polls of feeds.", ["source", "outcome"], registry=registry
        )
        self._good = Gauge(
            "drydock_feed_last_good_timestamp_seconds",
            "Time of the last accepted or unchanged document.",
            ["source"],
            registry=registry,
        )
        for source in SOURCES:
            self._good.labels(source)
            for outcome in FeedOutcome:
                self._polls.labels(source, outcome.value)

    def count_poll(self, source: FeedSource, outcome: FeedOutcome) -> None:
        """Count one poll of a feed by its outcome.

        An accepted or unchanged document also sets the time of the last good document to now.
        """
        self._polls.labels(source, outcome.value).inc()
        if outcome in _ACCEPTED:
            self._good.labels(source).set_to_current_time()


class FeedsMetrics(FeedPollMetrics):
    """All metrics of `drydock feeds`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.registry = registry
        self._events = Counter(
            "drydock_feed_events",
            "Events published of feeds.",
            ["source", "type"],
            registry=registry,
        )
        self._dead_letters = dead_letter_counter(registry, [FEEDS])
        self._leading = Gauge(
            "drydock_feeds_leading",
            "1 while this replica is the leader and polls, else 0.",
            registry=registry,
        )
        self._ready = Gauge(
            "drydock_ready", "1 while this replica is in the group, else 0.", registry=registry
        )
        self._requests = request_histogram(registry)
        for source in SOURCES:
            for kind in _TYPES:
                self._events.labels(source, kind)

    def count_published(
        self,
        source: FeedSource,
        events: tuple[Event, ...],
        letters: tuple[DeadLetter, ...],
    ) -> None:
        """Count events and dead letters that are committed in Kafka."""
        for event in events:
            self._events.labels(source, event.type).inc()
        for letter in letters:
            self._dead_letters.labels(FEEDS, letter.code.value).inc()

    def set_leading(self, *, leading: bool) -> None:
        """Set the gauge `drydock_feeds_leading`: 1 if this replica is the leader, else 0."""
        self._leading.set(leading)

    def set_ready(self, *, ready: bool) -> None:
        """Set the gauge `drydock_ready`: 1 if this replica is in the group, else 0.

        A replica in the group polls or is on standby.
        """
        self._ready.set(ready)

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """Count one HTTP response. `route` is the pattern of the path, not the path."""
        self._requests.labels(route, str(status)).observe(duration_s)
