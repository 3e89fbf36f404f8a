"""The metrics of `drydock run` and `drydock worker`; `metric_texts` has their meanings.

docs/reference/metrics.md is made from them. Label values are closed sets, never a UDID,
a job id or an advisory. Every series exists as zero from the first scrape, with two exceptions:
those of HTTP requests, and those of a site, which begin when the site is first in the policy or
counted.
"""

from collections import Counter as Counts
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.fleet_counts import (
    EXPOSURE_AGES,
    HALT_SCOPES,
    JOB_AGES,
    OLDER,
    FleetCounts,
)
from pipeline.metric_texts import TEXTS
from runtime.metrics import (
    clock_skew_gauge,
    damaged_file_counter,
    dead_letter_counter,
    lost_records_counter,
    moved_offsets_counter,
    ready_gauge,
)
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Reason, Severity, Verdict
from schemas.findings import FeedFindingCode, FindingCode
from schemas.jobs import Action, Method
from schemas.queries import QueryKind
from schemas.results import FINAL_OUTCOMES, ErrorCode, Outcome
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
# `Reason` lists first the reasons of NOTHING, then of SEND, then of HOLD: each has a series with
# that verdict from the start. Another pair gets its series when it first occurs.
_FIRST_SEND, _FIRST_HOLD = (
    [*Reason].index(one) for one in (Reason.SECURITY_UPDATE, Reason.NO_POLICY)
)
_DECISIONS: Final = [
    (
        Verdict.NOTHING
        if at < _FIRST_SEND
        else (Verdict.SEND if at < _FIRST_HOLD else Verdict.HOLD),
        reason.value,
    )
    for at, reason in enumerate(Reason)
]
# As a log shows it; 48 bits distinguish all policies of an installation.
_DIGEST_LENGTH: Final = 12
_PARTITION_STATES: Final = ("ready", "recovering", "standby")
DOUBT_CAUSES: Final = ("lost", "older", "copied")
_FOLDED, _DUPLICATE = "folded", "duplicate"
_AGES_S: Final = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600)
_LATENCIES_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ATTEMPT_OUTCOMES: Final = FINAL_OUTCOMES | {Outcome.STARTED}
_JOB_S: Final = tuple(60 * m for m in (1, 5, 15, 30, 60, 120, 240, 480, 1440, 2880, 4320, 10080))
_DEAD_LETTER_TOPICS: Final = (
    *EVENT_TOPICS,
    *(topic.name for topic in (DISPATCH, STATE, DISPATCH_STATE)),
    *(EVENTS, WEBHOOKS, FEEDS),
)


class _Described:
    """Registers metrics with their texts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, *labels: str) -> Counter:
        return Counter(name, TEXTS[name], labels, registry=self._registry)

    def gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(name, TEXTS[name], labels, registry=self._registry)

    def histogram(self, name: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, TEXTS[name], labels, buckets=buckets, registry=self._registry)


class Metrics:
    """The metrics, registered on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        new = _Described(registry)
        self._events = new.counter("drydock_events", "topic", "outcome")
        self._age = new.histogram("drydock_event_age_seconds", "topic", buckets=_AGES_S)
        self._decisions = new.counter("drydock_decisions", "action", "reason")
        self._latency = new.histogram("drydock_decision_latency_seconds", buckets=_LATENCIES_S)
        self._job_latency = new.histogram("drydock_job_latency_seconds", buckets=_LATENCIES_S)
        self._devices = new.gauge("drydock_devices")
        self._overdue = new.gauge("drydock_overdue_devices", "site")
        self._ready = ready_gauge(registry)
        self._volume_full = new.gauge("drydock_volume_full")
        self._site_stalled = new.gauge("drydock_site_stalled", "site")
        self._lag = new.gauge("drydock_lag_records", "topic")
        self._recovering = new.gauge("drydock_recovering_records")
        self._partitions = new.gauge("drydock_partitions", "state")
        self._results = new.counter("drydock_job_results", "action", "outcome")
        self._attempts = new.counter("drydock_job_attempts", "site", "method", "outcome")
        self._failures = new.counter("drydock_job_failures", "site", "error_code")
        self._duration = new.histogram("drydock_job_duration_seconds", "action", buckets=_JOB_S)
        self._define_fleet(new)
        self._define_losses(new)
        self._sites: dict[str, None] = {}
        # The values of the gauges that `_set_all` sets.
        self._values: dict[Gauge, dict[tuple[str, ...], int]] = {}
        self._initialise_series()

    def _define_fleet(self, new: "_Described") -> None:
        # The first label of the gauges by site is `site`, as in the keys of FleetCounts.
        self._exposed = new.gauge("drydock_exposed_devices", "site", "severity")
        self._exposure_ages = new.gauge("drydock_exposure_age_devices", "site", "severity", "age")
        self._exploited_cves = new.gauge("drydock_exploited_cve_devices", "cve")
        self._decided = new.gauge("drydock_decided_devices", "site", "decision", "reason")
        self._jobs_open = new.gauge("drydock_jobs_open", "site", "action")
        self._job_ages = new.gauge("drydock_open_job_age_jobs", "site", "age")
        self._halts = new.gauge("drydock_halts", "scope")
        self._automatic_halts = new.gauge("drydock_automatic_halts", "action")
        self._policy = new.gauge("drydock_policy_info", "digest")
        self._policy_in_force = new.gauge("drydock_policy_in_force")
        self._findings = new.gauge("drydock_device_findings", "site", "code")
        self._feed_findings = new.gauge("drydock_feed_findings", "code")

    def _define_losses(self, new: "_Described") -> None:
        self._doubted = new.counter("drydock_doubted_journals", "cause")
        self._lost_entries = new.counter("drydock_lost_log_entries")
        self._dead_letters = dead_letter_counter(self.registry, _DEAD_LETTER_TOPICS)
        self._damaged_files = damaged_file_counter(self.registry, STATE_STORE)
        self._clock_skew = clock_skew_gauge(self.registry)
        self._records_lost = lost_records_counter(self.registry)
        self._moved_offsets = moved_offsets_counter(self.registry)
        self._offered_again = new.counter("drydock_jobs_offered_again", "site")
        self._due_queries = new.counter("drydock_queries_due", "kind")

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
        self.set_control({}, {}, None)

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
            self._site_stalled.labels(site)
            for method in Method:
                for outcome in _ATTEMPT_OUTCOMES:
                    self._attempts.labels(site, method.value, outcome.value)
            for error in ErrorCode:
                self._failures.labels(site, error.value)
            for gauge, values in self._gauges_by_site():
                for value in values:
                    self._values.setdefault(gauge, {})[site, *value] = 0
                    gauge.labels(site, *value)

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

    def count_attempt(
        self, site: str, method: Method, outcome: Outcome, error: ErrorCode | None, count: int = 1
    ) -> None:
        """Count results of known jobs by site and method, and failures by their error code.

        Progress between the start and the end of an attempt is not counted.
        """
        if outcome not in _ATTEMPT_OUTCOMES:
            return
        self.add_sites((site,))
        self._attempts.labels(site, method.value, outcome.value).inc(count)
        if error is not None:
            self._failures.labels(site, error.value).inc(count)

    def observe_latency(self, seconds: float, *, has_job: bool) -> None:
        """Observe the seconds from the receipt of an event to the end of the step that it led to.

        The step made a decision durable, with `has_job` also a job. Below 0 counts as 0: the clocks
        of two programs differ.
        """
        self._latency.observe(max(seconds, 0.0))
        if has_job:
            self._job_latency.observe(max(seconds, 0.0))

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

    def _gauges_by_site(self) -> Iterator[tuple[Gauge, Iterable[tuple[str, ...]]]]:
        """Yield each gauge of FleetCounts by site, with the values of its other labels."""
        ages = (*EXPOSURE_AGES, OLDER)
        yield self._exposed, [(one.value,) for one in Severity]
        yield self._exposure_ages, [(one.value, age) for one in Severity for age in ages]
        yield self._decided, _DECISIONS
        yield self._jobs_open, [(one.value,) for one in Action]
        yield self._job_ages, [(age,) for age in (*JOB_AGES, OLDER)]
        yield self._findings, [(one.value,) for one in FindingCode]

    def set_fleet(self, counts: FleetCounts) -> None:
        """Set the gauges of Macs and open jobs; what the counts lack becomes zero."""
        given: list[Mapping[Any, int]] = [
            *(counts.exposed, counts.exposure_ages, counts.decided),
            *(counts.open_jobs, counts.job_ages, counts.findings),
        ]
        self.add_sites(key[0] for one in given for key in one if key[0])
        for (gauge, _), values in zip(self._gauges_by_site(), given, strict=True):
            named = {(key[0] or NO_SITE, *key[1:]): one for key, one in values.items()}
            self._set_all(gauge, named)
        cves: dict[tuple[str, ...], int] = {(cve,): n for cve, n in counts.exploited_cves.items()}
        self._set_all(self._exploited_cves, cves, keeps_zeros=False)

    def _set_all(
        self, gauge: Gauge, values: Mapping[tuple[str, ...], int], *, keeps_zeros: bool = True
    ) -> None:
        """Set the series of a gauge that change. Other series become zero, or are removed.

        Of hundreds of series a commit changes a few; a scrape sees no series missing meanwhile.
        """
        known = self._values.setdefault(gauge, {})
        for labels, value in values.items():
            if known.get(labels) != value:
                known[labels] = value
                gauge.labels(*labels).set(value)
        for labels in [one for one in known if one not in values]:
            if not keeps_zeros:
                del known[labels]
                gauge.remove(*labels)
            elif known[labels]:
                known[labels] = 0
                gauge.labels(*labels).set(0)

    def set_control(
        self,
        halts: Mapping[str, int],
        automatic_halts: Mapping[str, int],
        policy_digest: str | None,
    ) -> None:
        """Set the halts in force, and the digest of the policy in force.

        `halts` counts them by the kind of their scope, `automatic_halts` those that Drydock itself
        set by action.
        """
        for scope in HALT_SCOPES:
            self._halts.labels(scope).set(halts.get(scope, 0))
        for action in Action:
            self._automatic_halts.labels(action).set(automatic_halts.get(action, 0))
        digest = [] if policy_digest is None else [(policy_digest[:_DIGEST_LENGTH],)]
        self._set_all(self._policy, dict.fromkeys(digest, 1), keeps_zeros=False)
        self._policy_in_force.set(policy_digest is not None)

    def set_overdue(self, overdue: Mapping[str, int]) -> None:
        """Set the number of exposed Macs past their deadline, by site; absent sites become zero.

        The name of the site is empty for Macs without one.
        """
        self.add_sites(site for site in overdue if site)
        for site in self._sites:
            self._overdue.labels(site).set(overdue.get("" if site == NO_SITE else site, 0))

    def set_feed_findings(self, findings: Iterable[FeedFindingCode]) -> None:
        """Set the number of disagreements of the feeds, by code; absent codes become zero."""
        counts = Counts(findings)
        for code in FeedFindingCode:
            self._feed_findings.labels(code.value).set(counts[code])

    def watch_volume(self, is_full: Callable[[], bool]) -> None:
        """Let the gauge `drydock_volume_full` have the value of this function."""
        self._volume_full.set_function(is_full)

    def set_stalled_sites(self, sites: Collection[str]) -> None:
        """Set the gauge `drydock_site_stalled` of all known sites: 1 for these, 0 for others."""
        self._set_all(self._site_stalled, dict.fromkeys([(one,) for one in sites], 1))

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

    def set_clock_skew(self, seconds: float) -> None:
        """Set the least difference between this clock and the brokers', in seconds."""
        self._clock_skew.set(seconds)
