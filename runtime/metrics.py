"""The registry of every process, and the metrics that several programs have."""

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from schemas.dead_letters import DeadLetterCode


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
