"""The registry of every process, and the metrics that several programs have."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from schemas.dead_letters import DeadLetterCode

REQUEST_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Upper limits of the buckets of the time until a response."""


def make_registry() -> CollectorRegistry:
    """Return a new registry with the metrics of the Python process.

    Also turns off the `_created` series of all registries of the process.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def dead_letter_counter(
    registry: CollectorRegistry, topics: Iterable[str], text: str = "Dead letters written."
) -> Counter:
    """Return the counter of dead letters, registered, with each topic and code at zero."""
    counter = Counter("drydock_dead_letters", text, ["topic", "code"], registry=registry)
    for topic in topics:
        for code in DeadLetterCode:
            counter.labels(topic, code.value)
    return counter


def lost_records_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of lost records by topic, registered, without series."""
    text = "Records that were deleted or skipped before a program processed them."
    return Counter("drydock_records_lost", text, ["topic"], registry=registry)


def moved_offsets_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of moved offsets by topic, registered, without series."""
    text = "Committed offsets that another program moved."
    return Counter("drydock_moved_offsets", text, ["topic"], registry=registry)


def request_histogram(
    registry: CollectorRegistry, text: str = "Duration of HTTP requests until the response."
) -> Histogram:
    """Return the histogram of HTTP requests by route and status, registered, without series.

    A route is the pattern of a path: the paths themselves are no closed set.
    """
    return Histogram(
        "drydock_http_request_duration_seconds",
        text,
        ["route", "status"],
        buckets=REQUEST_BUCKETS_S,
        registry=registry,
    )


def damaged_file_counter(registry: CollectorRegistry, store: str) -> Counter:
    """Return the counter of damaged files, registered, with the label of this store at zero."""
    counter = Counter(
        "drydock_damaged_files",
        "Damaged local files that were renamed and replaced.",
        ["store"],
        registry=registry,
    )
    counter.labels(store)
    return counter


def clock_skew_gauge(registry: CollectorRegistry) -> Gauge:
    """Return the gauge of `runtime.clock_skew`, registered."""
    return Gauge(
        "drydock_clock_skew_seconds",
        "Least difference between the program's clock and the brokers', above 0 if it is ahead.",
        registry=registry,
    )
