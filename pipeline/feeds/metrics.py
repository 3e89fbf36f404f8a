"""The metrics of feeds.

Labels are closed sets; each series starts at zero.
"""

from datetime import datetime
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipeline.ingest.feed_review import FeedOutcome
from runtime.metrics import RequestMetrics, dead_letter_counter, ready_gauge
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
            "drydock_feed_polls",
            "Polls of a feed: `accepted`, `unchanged`, `unreachable`, or refused as "
            "`unreadable`, `truncated` (too many entries are gone) or `stale` (older than an "
            "accepted document).",
            ["source", "outcome"],
            registry=registry,
        )
        self._good = Gauge(
            "drydock_feed_last_good_timestamp_seconds",
            "Time of the last accepted or unchanged document; 0 if there was none since the "
            "process started. With several replicas, use the newest.",
            ["source"],
            registry=registry,
        )
        self._documents = Gauge(
            "drydock_feed_document_timestamp_seconds",
            "Date inside the newest accepted document (SOFA's LastCheck, CISA's "
            "dateReleased); 0 while it is not known. An old date with good polls: the "
            "publisher, or a proxy, does not update it.",
            ["source"],
            registry=registry,
        )
        for source in SOURCES:
            self._good.labels(source)
            self._documents.labels(source)
            for outcome in FeedOutcome:
                self._polls.labels(source, outcome.value)

    def count_poll(
        self, source: FeedSource, outcome: FeedOutcome, document_at: datetime | None
    ) -> None:
        """Count one poll of a feed by its outcome.

        An accepted or unchanged document also sets the time of the last good document to now.
        `document_at` is the date inside the newest accepted document; None if it is not known.
        """
        if document_at is not None:
            self._documents.labels(source).set(document_at.timestamp())
        self._polls.labels(source, outcome.value).inc()
        if outcome in _ACCEPTED:
            self._good.labels(source).set_to_current_time()


class FeedsMetrics(FeedPollMetrics, RequestMetrics):
    """All metrics of `drydock feeds`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        FeedPollMetrics.__init__(self, registry)
        RequestMetrics.__init__(self, registry)
        self.registry = registry
        self._events = Counter(
            "drydock_feed_events",
            "Advisory events published.",
            ["source", "type"],
            registry=registry,
        )
        self._dead_letters = dead_letter_counter(registry, [FEEDS])
        self._leading = Gauge(
            "drydock_feeds_leading",
            "1 while this replica polls, 0 while it waits. The sum over all replicas is 1.",
            registry=registry,
        )
        self._ready = ready_gauge(registry)
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
