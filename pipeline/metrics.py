"""The metrics of `drydock run` and `drydock worker`, described in docs/metrics.md.

A test compares names, types and labels with that page. Label values are closed sets, never a UDID,
a job id or an advisory. Every series exists as zero from the first scrape, with two exceptions:
those of HTTP requests, and those of a site, which begin when the site is first in the policy or
counted.
"""

from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from runtime.metrics import (
    clock_skew_gauge,
    damaged_file_counter,
    dead_letter_counter,
    lost_records_counter,
    moved_offsets_counter,
    request_histogram,
)
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Reason, Severity
from schemas.findings import FeedFindingCode, FindingCode
from schemas.jobs import Action
from schemas.queries import QueryKind
from schemas.results import Outcome
from schemas.topics import DEAD_LETTERS, DECISIONS, DISPATCH, DISPATCH_STATE, STATE, TOPICS

NO_SITE: Final = "none"
STATE_STORE: Final = "state"
NO_ACTION: Final = "none"
# Values of the label `topic` for input over HTTP.
EVENTS: Final = "events"
WEBHOOKS: Final = "webhooks"
FEEDS: Final = "feeds"
_NO_EVENTS: Final = frozenset({DECISIONS, DEAD_LETTERS})
EVENT_TOPICS: Final = tuple(topic.name for topic in TOPICS if topic not in _NO_EVENTS)
_PARTITION_STATES: Final = ("ready", "recovering", "standby")
DOUBT_CAUSES: Final = ("lost", "older", "copied")
_FOLDED, _DUPLICATE = "folded", "duplicate"
_AGES_S: Final = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600)
_JOB_S: Final = tuple(60 * m for m in (1, 5, 15, 30, 60, 120, 240, 480, 1440, 2880, 4320, 10080))
_DEAD_LETTER_TOPICS: Final = (
    *EVENT_TOPICS,
    *(topic.name for topic in (DISPATCH, STATE, DISPATCH_STATE)),
    *(EVENTS, WEBHOOKS, FEEDS),
)


class Metrics:
    """The metrics, registered on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        self._events = counter("drydock_events", "Accepted events.", "topic", "outcome")
        self._age = histogram(
            "drydock_event_age_seconds",
            *("Time from an event's own time to its fold.", "topic"),
            buckets=_AGES_S,
        )
        self._decisions = counter(
            "drydock_decisions",
            "Decisions that differ from the previous one of the same Mac.",
            *("action", "reason"),
        )
        self._jobs_open = gauge("drydock_jobs_open", "Jobs without a known end.", "site", "action")
        self._results = counter("drydock_job_results", "Results of jobs.", "action", "outcome")
        self._duration = histogram(
            "drydock_job_duration_seconds",
            "Time from the issue of a job to the Mac's own report that shows its success.",
            "action",
            buckets=_JOB_S,
        )
        self._dead_letters = dead_letter_counter(
            registry, _DEAD_LETTER_TOPICS, "Inputs that became dead letters."
        )
        self._devices = gauge("drydock_devices", "Known Macs.")
        self._exposed = gauge(
            "drydock_exposed_devices",
            *("Macs that lack a fix, by the worst severity.", "severity", "site"),
        )
        self._overdue = gauge(
            "drydock_overdue_devices", "Exposed Macs past their deadline.", "site"
        )
        self._requests = request_histogram(registry, "HTTP requests, by the pattern of the path.")
        self._ready = gauge("drydock_ready", "1 while the program accepts inputs, else 0.")
        self._lag = gauge(
            "drydock_lag_records",
            *("Records in the worker's partitions that it has not processed yet.", "topic"),
        )
        self._recovering = gauge(
            "drydock_recovering_records",
            "Records of state to read before all partitions are ready.",
        )
        self._partitions = gauge("drydock_partitions", "Partitions of the worker.", "state")
        self._define_findings(registry)
        self._define_losses(registry)
        self._sites: dict[str, None] = {}
        self._initialise_series()

    def _define_findings(self, registry: CollectorRegistry) -> None:
        self._findings = Gauge(
            "drydock_device_findings",
            "Macs with a finding of this code.",
            ("code", "site"),
            registry=registry,
        )
        self._feed_findings = Gauge(
            "drydock_feed_findings",
            "Releases about which the feeds disagree.",
            ("code",),
            registry=registry,
        )

    def _define_losses(self, registry: CollectorRegistry) -> None:
        self._doubted = Counter(
            "drydock_doubted_journals",
            "Journals that may lack orders, found at a start.",
            ("cause",),
            registry=registry,
        )
        self._lost_entries = Counter(
            "drydock_lost_log_entries",
            "Committed entries that the log of `drydock run` has lost, found at a start.",
            registry=registry,
        )
        self._damaged_files = damaged_file_counter(registry, STATE_STORE)
        self._clock_skew = clock_skew_gauge(registry)
        self._policy_in_force = Gauge(
            "drydock_policy_in_force",
            "1 while the worker has a policy, else 0.",
            registry=registry,
        )
        self._records_lost = lost_records_counter(registry)
        self._moved_offsets = moved_offsets_counter(registry)
        self._offered_again = Counter(
            "drydock_jobs_offered_again",
            "Jobs sent to a site again because none of its agents had accepted them.",
            ["site"],
            registry=registry,
        )

        self._due_queries = Counter(
            "drydock_queries_due",
            "Queries of Macs that became due and were given to the site's agent.",
            ["kind"],
            registry=registry,
        )

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
        for kind in QueryKind:
            self._due_queries.labels(kind.value)
        for cause in DOUBT_CAUSES:
            self._doubted.labels(cause)
        self._initialise_worker_series()
        self.set_feed_findings(())
        self.add_sites(())

    def _initialise_worker_series(self) -> None:
        for topic in (*EVENT_TOPICS, DISPATCH.name):
            self._lag.labels(topic)
            self._records_lost.labels(topic)
            self._moved_offsets.labels(topic)
        for state in _PARTITION_STATES:
            self._partitions.labels(state)

    def count_lost_entries(self, count: int) -> None:
        """Count entries that the log of `drydock run` has lost."""
        self._lost_entries.inc(count)

    def count_doubted_journal(self, cause: str) -> None:
        """Count a journal that may lack orders; `cause` is one of DOUBT_CAUSES."""
        self._doubted.labels(cause).inc()

    def add_sites(self, sites: Iterable[str]) -> None:
        """Create every series of these sites and of NO_SITE, as zeros; known sites keep values."""
        for site in (*sites, NO_SITE):
            if site in self._sites:
                continue
            self._sites[site] = None
            self._overdue.labels(site)
            self._offered_again.labels(site)
            for code in FindingCode:
                self._findings.labels(code.value, site)
            for severity in Severity:
                self._exposed.labels(severity.value, site)
            for action in Action:
                self._jobs_open.labels(site, action.value)

    def count_event(self, topic: str, age_s: float) -> None:
        """Count an event that was folded `age_s` seconds after its own time; below 0 is 0."""
        self._events.labels(topic, _FOLDED).inc()
        self._age.labels(topic).observe(max(age_s, 0.0))

    def count_folded(self, topic: str, count: int, oldest_s: float) -> None:
        """Count the folded events of one batch; observe only the age of the oldest, `oldest_s`.

        `oldest_s` is in seconds; below 0 counts as 0.
        """
        self._events.labels(topic, _FOLDED).inc(count)
        self._age.labels(topic).observe(max(oldest_s, 0.0))

    def count_damaged_file(self) -> None:
        """Count a damaged local store of a worker that was renamed and replaced."""
        self._damaged_files.labels(STATE_STORE).inc()

    def count_duplicate(self, topic: str) -> None:
        """Count an accepted event that is in the log already, and so is not folded again."""
        self._events.labels(topic, _DUPLICATE).inc()

    def count_decision(self, action: Action | None, reason: Reason, count: int = 1) -> None:
        """Count decisions that differ from the Mac's previous one.

        `action` is None for decisions without an action.
        """
        name = NO_ACTION if action is None else action.value
        self._decisions.labels(name, reason.value).inc(count)

    def count_result(self, action: Action | None, outcome: Outcome, count: int = 1) -> None:
        """Count results of jobs; `action` is None if the job is unknown."""
        name = NO_ACTION if action is None else action.value
        self._results.labels(name, outcome.value).inc(count)

    def count_offered_again(self, site: str, count: int) -> None:
        """Count jobs that were sent to a site again: none of its agents had accepted them."""
        self.add_sites((site,))
        self._offered_again.labels(site).inc(count)

    def count_due_queries(self, kind: QueryKind, count: int = 1) -> None:
        """Count queries of Macs that became due."""
        self._due_queries.labels(kind.value).inc(count)

    def observe_job_duration(self, action: Action, duration_s: float) -> None:
        """Observe the seconds from the issue of a job to its success; below 0 counts as 0."""
        self._duration.labels(action.value).observe(max(duration_s, 0.0))

    def count_dead_letter(self, topic: str, code: DeadLetterCode, count: int = 1) -> None:
        """Count inputs that became dead letters.

        `topic` is EVENTS, WEBHOOKS or FEEDS for inputs over HTTP.
        """
        self._dead_letters.labels(topic, code.value).inc(count)

    def set_devices(self, devices: int) -> None:
        """Set the number of known Macs."""
        self._devices.set(devices)

    def set_fleet(
        self,
        exposed: Mapping[tuple[str, str], int],
        open_jobs: Mapping[tuple[str, str], int],
    ) -> None:
        """Set the exposed Macs by (site, severity), and the open jobs by (site, action).

        The name of the site is empty for Macs without one. Keys that are absent become zero.
        """
        self.add_sites(site for site, _ in (*exposed, *open_jobs) if site)
        for site in self._sites:
            key = "" if site == NO_SITE else site
            for severity in Severity:
                self._exposed.labels(severity.value, site).set(exposed.get((key, severity), 0))
            for action in Action:
                self._jobs_open.labels(site, action.value).set(open_jobs.get((key, action), 0))

    def set_overdue(self, overdue: Mapping[str, int]) -> None:
        """Set the number of exposed Macs past their deadline, by site; absent sites become zero.

        The name of the site is empty for Macs without one.
        """
        self.add_sites(site for site in overdue if site)
        for site in self._sites:
            self._overdue.labels(site).set(overdue.get("" if site == NO_SITE else site, 0))

    def set_findings(self, findings: Mapping[tuple[str, str], int]) -> None:
        """Set the number of Macs by (site, code of a finding); absent keys become zero.

        The name of the site is empty for Macs without one.
        """
        self.add_sites(site for site, _ in findings if site)
        for site in self._sites:
            key = "" if site == NO_SITE else site
            for code in FindingCode:
                self._findings.labels(code.value, site).set(findings.get((key, code), 0))

    def set_feed_findings(self, findings: Iterable[FeedFindingCode]) -> None:
        """Set the number of disagreements of the feeds, by code; absent codes become zero."""
        counts = Counts(findings)
        for code in FeedFindingCode:
            self._feed_findings.labels(code.value).set(counts[code])

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """Observe an HTTP request. `route` is the pattern of its path, never the path itself."""
        self._requests.labels(route, str(status)).observe(duration_s)

    def set_lag(self, topic: str, records: int) -> None:
        """Set the number of records of a topic that this worker has not processed yet."""
        self._lag.labels(topic).set(records)

    def set_partitions(
        self, *, ready: int, recovering: int, standby: int, recovering_records: int
    ) -> None:
        """Set the number of partitions in each state, and the records of state left to read."""
        for state, count in zip(_PARTITION_STATES, (ready, recovering, standby), strict=True):
            self._partitions.labels(state).set(count)
        self._recovering.set(recovering_records)

    def set_ready(self, *, ready: bool) -> None:
        """Set the gauge `drydock_ready` to 1 if `ready`, else to 0."""
        self._ready.set(ready)

    def count_lost_records(self, topic: str, count: int) -> None:
        """Count records that were deleted or skipped before this worker processed them."""
        self._records_lost.labels(topic).inc(count)

    def count_moved_offset(self, topic: str) -> None:
        """Count a partition whose committed offset another program moved."""
        self._moved_offsets.labels(topic).inc()

    def set_policy_in_force(self, *, is_in_force: bool) -> None:
        """Set the gauge `drydock_policy_in_force`."""
        self._policy_in_force.set(is_in_force)

    def set_clock_skew(self, seconds: float) -> None:
        """Set the least difference between this clock and the brokers', in seconds."""
        self._clock_skew.set(seconds)
