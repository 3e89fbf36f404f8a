"""The registry of every process, and the metrics that several programs have."""

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
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
STATUSES: Final = (200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 503)
"""HTTP statuses whose series start at zero; another one gets its series when it occurs."""
# The server's and the agent's.
_DISTRIBUTIONS: Final = ("drydock", "drydock-agent")


def make_registry() -> CollectorRegistry:
    """Return a new registry with the metrics of the Python process.

    Also turns off the `_created` series of all registries of the process.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Gauge(
        "drydock_build_info",
        "1 for the version of the program. By every program.",
        ["version"],
        registry=registry,
    )
    build.labels(_version()).set(1)
    return registry


def _version() -> str:
    for distribution in _DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            return version(distribution)
    return "unknown"


def ready_gauge(registry: CollectorRegistry) -> Gauge:
    """Return the gauge of readiness, registered."""
    return Gauge(
        "drydock_ready",
        (
            "1 while the program accepts inputs, else 0; in `drydock feeds` 1 while it polls "
            "or waits to, in `drydock agent` 1 while it can start jobs, in `drydock query` 1 "
            "once its view was complete. By every program."
        ),
        registry=registry,
    )


def dead_letter_counter(registry: CollectorRegistry, topics: Iterable[str]) -> Counter:
    """Return the counter of dead letters, registered, with each topic and code at zero."""
    counter = Counter(
        "drydock_dead_letters",
        (
            "Inputs that became dead letters. Code `bug` is a fault of Drydock and needs a "
            "look at the log; `user_channel` is normal traffic. By every program."
        ),
        ["topic", "code"],
        registry=registry,
    )
    for topic in topics:
        for code in DeadLetterCode:
            counter.labels(topic, code.value)
    return counter


def lost_records_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of lost records by topic, registered, without series."""
    text = (
        "Records that were deleted or skipped before a program processed them. Those that "
        "a broadcast topic has lost count too."
    )
    return Counter("drydock_records_lost", text, ["topic"], registry=registry)


def moved_offsets_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of moved offsets by topic, registered, without series."""
    text = "Committed offsets that another program moved. A partition counts once, forward or back."
    return Counter("drydock_moved_offsets", text, ["topic"], registry=registry)


class RequestMetrics:
    """Number and duration of HTTP requests, by route: the pattern of a path, a closed set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "drydock_http_requests",
            (
                "HTTP requests, by the pattern of the path, `none` if no route has path and "
                "method. By gateway, feeds, query and `drydock run`."
            ),
            ["route", "status"],
            registry=registry,
        )
        self._duration = Histogram(
            "drydock_http_request_duration_seconds",
            (
                "Duration of HTTP requests until the response. By gateway, feeds, query and "
                "`drydock run`."
            ),
            ["route"],
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )

    def add_route(self, route: str) -> None:
        """Create the series of a route, as zeros: the first error is then an increase."""
        self._duration.labels(route)
        for status in STATUSES:
            self._requests.labels(route, str(status))

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """Count one response."""
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(duration_s)


def damaged_file_counter(registry: CollectorRegistry, store: str) -> Counter:
    """Return the counter of damaged files, registered, with the label of this store at zero."""
    counter = Counter(
        "drydock_damaged_files",
        (
            "Damaged local files that were renamed and replaced. A worker counts `state`, a "
            "gateway `spool`, an agent `journal`. More than one in a week on a machine: its "
            "disk is failing."
        ),
        ["store"],
        registry=registry,
    )
    counter.labels(store)
    return counter


def clock_skew_gauge(registry: CollectorRegistry) -> Gauge:
    """Return the gauge of `runtime.clock_skew`, registered."""
    return Gauge(
        "drydock_clock_skew_seconds",
        (
            "Least difference between the program's clock and the brokers', above 0 if it is "
            "ahead. 0 if the last confirmed write proves none."
        ),
        registry=registry,
    )
