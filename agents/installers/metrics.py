"""Metrics of the site cache, for each program with executors."""

from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from agents.installers.refusal import RefusalReason

_HIT: Final = "hit"
_MISS: Final = "miss"


class InstallerMetrics:
    """The metrics, registered on one registry; `watch` adds the caches of sites."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "drydock_installer_requests",
            "Jobs that asked the site cache for their installer, each once: `hit` if it was "
            "there, else `miss`.",
            ["outcome"],
            registry=registry,
        )
        self._fetched = Counter(
            "drydock_installer_fetched_bytes",
            "Bytes that the site cache fetched from the bucket: the load of the uplink.",
            registry=registry,
        )
        self._served = Counter(
            "drydock_installer_served_bytes",
            "Bytes that the site cache sent to Macs.",
            registry=registry,
        )
        self._evicted = Counter(
            "drydock_installer_evictions",
            "Installers deleted from the site cache to make room.",
            registry=registry,
        )
        self._refused = Counter(
            "drydock_installers_refused",
            "Installers that the site cache refused: `corrupt` (another SHA-256), `too_large` "
            "(over the budget), `unusable` (the object has no valid metadata).",
            ["reason"],
            registry=registry,
        )
        self._cuts = Counter(
            "drydock_installer_cuts",
            "Failed or cut requests to the bucket; they are continued.",
            registry=registry,
        )
        self._bytes = Gauge(
            "drydock_installer_cache_bytes",
            "Size of the files in the site cache, unfinished ones too.",
            registry=registry,
        )
        self._budget = Gauge(
            "drydock_installer_cache_max_bytes",
            "Budget of the site cache.",
            registry=registry,
        )
        self._held = Gauge(
            "drydock_installer_jobs_held",
            "Open jobs whose installer is not at the site yet.",
            registry=registry,
        )
        self._used_bytes: list[Callable[[], float]] = []
        self._budget_bytes: list[Callable[[], float]] = []
        self._held_jobs: list[Callable[[], float]] = []
        for outcome in (_HIT, _MISS):
            self._requests.labels(outcome)
        for reason in RefusalReason:
            self._refused.labels(reason.value)

    def count_request(self, *, hit: bool) -> None:
        """Count the first request of a job; a hit if the installer was there."""
        self._requests.labels(_HIT if hit else _MISS).inc()

    def count_fetched(self, size: int) -> None:
        """Count bytes from the bucket."""
        self._fetched.inc(size)

    def count_served(self, size: int) -> None:
        """Count bytes to a Mac."""
        self._served.inc(size)

    def count_eviction(self) -> None:
        """Count an installer that was deleted to make room."""
        self._evicted.inc()

    def count_refusal(self, reason: RefusalReason) -> None:
        """Count an installer that was refused."""
        self._refused.labels(reason.value).inc()

    def count_cut(self) -> None:
        """Count a failed or cut transfer."""
        self._cuts.inc()

    def watch(
        self, used: Callable[[], float], budget: Callable[[], float], held: Callable[[], float]
    ) -> None:
        """Add the values of these functions, of one more cache, to the gauges."""
        for gauge, functions, function in (
            (self._bytes, self._used_bytes, used),
            (self._budget, self._budget_bytes, budget),
            (self._held, self._held_jobs, held),
        ):
            functions.append(function)
            gauge.set_function(partial(_total, functions))


def _total(functions: list[Callable[[], float]]) -> float:
    return sum(function() for function in functions)
