"""Every metric of a site's executor. Labels are closed sets, there as zeros from the start."""

import time
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from schemas.dead_letters import DeadLetterCode
from schemas.results import Outcome

FENCED: Final = "fenced"
UNCONFIRMED: Final = "unconfirmed"
HALTED: Final = "halted"
HALTS_UNKNOWN: Final = "halts_unknown"
LEASE_TOO_OLD: Final = "lease_too_old"
ENDING: Final = "ending"
_JOBS_TOPIC: Final = "drydock.jobs"


class AgentMetrics:
    """The metrics of one process. Gauges of a partition are added up."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(f"drydock_agent_{name}", help_text, registry=registry)

        self._live = gauge("jobs_live", "Jobs accepted and not over.")
        self._touched = gauge("jobs_under_way", "Jobs between first touch and end.")
        self._waiting = gauge("results_waiting", "Results not yet confirmed by Kafka.")
        self._partitions = gauge("partitions", "Partitions of the site's jobs held here.")
        self._lag = gauge("lag_records", "Orders in Kafka that are not yet journalled.")
        self._halted = gauge("halted", "1 while a halt covers the whole site, else 0.")
        self._known = gauge("halts_known", "1 while the halt switch is read up to its end, else 0.")
        self._polled = gauge("last_poll_timestamp_seconds", "When Kafka was last asked for orders.")
        self._results = Counter(
            "drydock_agent_results", "Results published.", ["outcome"], registry=registry
        )
        self._orders = Counter("drydock_agent_orders", "Orders journalled.", registry=registry)
        self._lost = Counter(
            "drydock_agent_leases_lost",
            "Times a partition was given up because a write was refused or not confirmed.",
            ["why"],
            registry=registry,
        )
        self._blocked = Counter(
            "drydock_agent_actions_blocked",
            "Actions blocked at the last moment.",
            ["why"],
            registry=registry,
        )
        self._dead_letters = Counter(
            "drydock_dead_letters", "Dead letters written.", ["topic", "code"], registry=registry
        )
        for outcome in Outcome:
            self._results.labels(outcome.value)
        for why in (FENCED, UNCONFIRMED):
            self._lost.labels(why)
        for why in (HALTED, HALTS_UNKNOWN, LEASE_TOO_OLD, ENDING):
            self._blocked.labels(why)
        for code in DeadLetterCode:
            self._dead_letters.labels(_JOBS_TOPIC, code.value)

    def render(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

    def record_poll(self) -> None:
        """Kafka was asked for orders."""
        self._polled.set(time.time())

    def set_jobs(self, live: int, touched: int, waiting: int) -> None:
        """How the jobs of all partitions stand."""
        self._live.set(live)
        self._touched.set(touched)
        self._waiting.set(waiting)

    def set_assignment(self, partitions: int, lag: int) -> None:
        """What is assigned here, and how far behind it is."""
        self._partitions.set(partitions)
        self._lag.set(lag)

    def set_halts(self, *, known: bool, halted: bool) -> None:
        """What the halt switch says."""
        self._known.set(known)
        self._halted.set(halted)

    def count_orders(self, orders: int) -> None:
        """Orders are in the journal."""
        self._orders.inc(orders)

    def count_result(self, outcome: Outcome) -> None:
        """A result is confirmed."""
        self._results.labels(outcome.value).inc()

    def count_lost_lease(self, *, fenced: bool) -> None:
        """A partition was given up."""
        self._lost.labels(FENCED if fenced else UNCONFIRMED).inc()

    def count_blocked_action(self, why: str) -> None:
        """An act was not done at the last moment."""
        self._blocked.labels(why).inc()

    def count_dead_letter(self, code: DeadLetterCode) -> None:
        """An order became a dead letter."""
        self._dead_letters.labels(_JOBS_TOPIC, code.value).inc()
