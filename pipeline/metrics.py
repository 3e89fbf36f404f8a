"""Every metric of the pipeline. docs/metrics.md describes them; a test holds the two equal.

Labels are closed sets, never a UDID, a job or an advisory; all of them but sites are there, as
zeros, from the first scrape. Sites come from the policy.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Reason, Severity
from schemas.jobs import Action
from schemas.results import Outcome
from schemas.topics import DEAD_LETTERS, DECISIONS, DISPATCH, TOPICS

NO_SITE: Final = "none"
NO_ACTION: Final = "none"
# What comes in over HTTP, where no topic is.
EVENTS: Final = "events"
WEBHOOKS: Final = "webhooks"
FEEDS: Final = "feeds"
_NO_EVENTS: Final = frozenset({DECISIONS, DEAD_LETTERS})
EVENT_TOPICS: Final = tuple(topic.name for topic in TOPICS if topic not in _NO_EVENTS)
_PARTITION_STATES: Final = ("ready", "recovering", "standby")
_FOLDED, _DUPLICATE = "folded", "duplicate"
_AGES_S: Final = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600)
_JOB_S: Final = tuple(60 * m for m in (1, 5, 15, 30, 60, 120, 240, 480, 1440, 2880, 4320, 10080))
_REQUEST_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The metrics on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        self._events = counter("drydock_events", "Events taken in.", "topic", "outcome")
        self._age = histogram(
            "drydock_event_age_seconds",
            "How old an event was when it was folded.",
            "topic",
            buckets=_AGES_S,
        )
        self._decisions = counter(
            "drydock_decisions", "Decisions that changed.", "action", "reason"
        )
        self._jobs_open = gauge(
            "drydock_jobs_open", "Jobs whose end is not known.", "site", "action"
        )
        self._results = counter("drydock_job_results", "Job results.", "action", "outcome")
        self._duration = histogram(
            "drydock_job_duration_seconds",
            "From a job's issue to its success.",
            "action",
            buckets=_JOB_S,
        )
        self._dead_letters = counter(
            "drydock_dead_letters", "Dead letters written.", "topic", "code"
        )
        self._devices = gauge("drydock_devices", "Macs that are known.")
        self._exposed = gauge(
            "drydock_exposed_devices",
            *("Macs that lack a fix, by the worst severity.", "severity", "site"),
        )
        self._overdue = gauge(
            "drydock_overdue_devices", "Exposed Macs whose deadline has passed.", "site"
        )
        self._requests = histogram(
            "drydock_http_request_duration_seconds",
            "HTTP requests answered.",
            "route",
            "status",
            buckets=_REQUEST_S,
        )
        self._ready = gauge("drydock_ready", "1 while inputs are taken, else 0.")
        self._lag = gauge("drydock_lag_records", "Records not yet taken.", "topic")
        self._recovering = gauge(
            "drydock_recovering_records",
            "Records of state to be read before all partitions are ready.",
        )
        self._partitions = gauge("drydock_partitions", "Partitions of this worker.", "state")
        self._sites: dict[str, None] = {}
        self._initialise_series()

    def _initialise_series(self) -> None:
        for topic in EVENT_TOPICS:
            self._age.labels(topic)
            for outcome in (_FOLDED, _DUPLICATE):
                self._events.labels(topic, outcome)
        for action in (*(action.value for action in Action), NO_ACTION):
            for reason in Reason:
                self._decisions.labels(action, reason.value)
        for action in Action:
            self._duration.labels(action.value)
        for action in (*(action.value for action in Action), NO_ACTION):
            for outcome in Outcome:
                self._results.labels(action, outcome.value)
        for topic in (*EVENT_TOPICS, DISPATCH.name, EVENTS, WEBHOOKS, FEEDS):
            for code in DeadLetterCode:
                self._dead_letters.labels(topic, code.value)
        self._initialise_worker_series()
        self.add_sites(())

    def _initialise_worker_series(self) -> None:
        for topic in (*EVENT_TOPICS, DISPATCH.name):
            self._lag.labels(topic)
        for state in _PARTITION_STATES:
            self._partitions.labels(state)

    def add_sites(self, sites: Iterable[str]) -> None:
        """Have every series of these sites from now on."""
        for site in (*sites, NO_SITE):
            if site in self._sites:
                continue
            self._sites[site] = None
            self._overdue.labels(site)
            for severity in Severity:
                self._exposed.labels(severity.value, site)
            for action in Action:
                self._jobs_open.labels(site, action.value)

    def count_event(self, topic: str, age_s: float) -> None:
        """An event was folded, so long after it was true."""
        self._events.labels(topic, _FOLDED).inc()
        self._age.labels(topic).observe(max(age_s, 0.0))

    def count_folded(self, topic: str, count: int, oldest_s: float) -> None:
        """Events of one batch were folded, the oldest of them so long after it was true."""
        self._events.labels(topic, _FOLDED).inc(count)
        self._age.labels(topic).observe(max(oldest_s, 0.0))

    def count_duplicate(self, topic: str) -> None:
        """An event was there already."""
        self._events.labels(topic, _DUPLICATE).inc()

    def count_decision(self, action: Action | None, reason: Reason, count: int = 1) -> None:
        """An answer changed."""
        name = NO_ACTION if action is None else action.value
        self._decisions.labels(name, reason.value).inc(count)

    def count_result(self, action: Action | None, outcome: Outcome, count: int = 1) -> None:
        """Something was told of a job; of an unknown job without its action."""
        name = NO_ACTION if action is None else action.value
        self._results.labels(name, outcome.value).inc(count)

    def observe_job_duration(self, action: Action, duration_s: float) -> None:
        """A job did what it was for."""
        self._duration.labels(action.value).observe(max(duration_s, 0.0))

    def count_dead_letter(self, topic: str, code: DeadLetterCode, count: int = 1) -> None:
        """An input became a dead letter."""
        self._dead_letters.labels(topic, code.value).inc(count)

    def set_devices(self, devices: int) -> None:
        """How many Macs are known."""
        self._devices.set(devices)

    def set_fleet(
        self,
        exposed: Mapping[tuple[str, str], int],
        open_jobs: Mapping[tuple[str, str], int],
    ) -> None:
        """How the fleet stands: exposed by (site, severity), open jobs by (site, action); a
        site's name is empty for Macs without one."""
        self.add_sites(site for site, _ in (*exposed, *open_jobs) if site)
        for site in self._sites:
            key = "" if site == NO_SITE else site
            for severity in Severity:
                self._exposed.labels(severity.value, site).set(exposed.get((key, severity), 0))
            for action in Action:
                self._jobs_open.labels(site, action.value).set(open_jobs.get((key, action), 0))

    def set_overdue(self, overdue: Mapping[str, int]) -> None:
        """How many exposed Macs of each site are past their deadline."""
        self.add_sites(site for site in overdue if site)
        for site in self._sites:
            self._overdue.labels(site).set(overdue.get("" if site == NO_SITE else site, 0))

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """An HTTP request was answered. `route` is the path's pattern."""
        self._requests.labels(route, str(status)).observe(duration_s)

    def set_lag(self, topic: str, records: int) -> None:
        """How many records of a topic's partitions of this worker are not yet taken."""
        self._lag.labels(topic).set(records)

    def set_partitions(
        self, *, ready: int, recovering: int, standby: int, recovering_records: int
    ) -> None:
        """What this worker has, and how many records of state are still to be read for it."""
        for state, count in zip(_PARTITION_STATES, (ready, recovering, standby), strict=True):
            self._partitions.labels(state).set(count)
        self._recovering.set(recovering_records)

    def set_ready(self, *, ready: bool) -> None:
        """Whether inputs are taken."""
        self._ready.set(ready)
