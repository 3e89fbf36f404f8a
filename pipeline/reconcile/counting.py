"""Counts the Macs, jobs and halts of the present state, for the gauges of both forms."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from pipeline.fleet_counts import EXPOSURE_AGES, JOB_AGES, MAX_CVES, OLDER, FleetCounts
from pipeline.policy.file import policy_digest
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.compact.seen_days import DAY_US
from pipeline.state.device import duration_us, to_us
from pipeline.state.fleet import Fleet
from schemas.decisions import Reason, Verdict
from schemas.events.control import HaltScope


def count_fleet(reconcilers: Iterable[Reconciler], now: datetime) -> FleetCounts:
    """Return the counts of all these reconcilers together. No Mac is visited, only open jobs."""
    decided: Counter[tuple[str, Verdict, Reason]] = Counter()
    exposed: Counter[tuple[str, str]] = Counter()
    findings: Counter[tuple[str, str]] = Counter()
    exposed_days: Counter[tuple[str, str, int]] = Counter()
    exploited: Counter[tuple[str, ...]] = Counter()
    open_jobs: Counter[tuple[str, str]] = Counter()
    job_ages: Counter[tuple[str, str]] = Counter()
    now_us = to_us(now)
    for one in reconcilers:
        decided.update(one.counts.decided)
        exposed.update(one.exposed)
        findings.update(one.findings)
        exposed_days.update(one.counts.exposed_days)
        exploited.update(one.counts.exploited)
        open_jobs.update(one.open_jobs)
        for entry in one.capacity.jobs():
            job_ages[entry.site, _age(now_us - entry.issued_us, JOB_AGES)] += 1
    ages: Counter[tuple[str, str, str]] = Counter()
    for (site, severity, day), count in exposed_days.items():
        ages[site, severity, _age(now_us - day * DAY_US, EXPOSURE_AGES)] += count
    return FleetCounts(decided, exposed, findings, ages, _top_cves(exploited), open_jobs, job_ages)


def count_halts(fleet: Fleet, now: datetime) -> Counter[str]:
    """Return the number of halts in force, by the kind of their scope (HALT_SCOPES)."""
    return Counter(_kind_of(halt.scope) for halt in fleet.halts_in_force(now))


def count_automatic_halts(fleet: Fleet, now: datetime) -> Counter[str]:
    """Return the number of sites at which Drydock itself halts an action, by action."""
    return Counter(
        halt.scope.action or "" for halt in fleet.halts_in_force(now) if halt.is_automatic
    )


def _kind_of(scope: HaltScope) -> str:
    return "action" if scope.action is not None else scope.key.partition(":")[0]


def digest_in_force(fleet: Fleet) -> str | None:
    """Return the digest of the policy in force; None without a policy."""
    return None if fleet.policy is None else policy_digest(fleet.policy.text)


def _age(age_us: int, limits: Mapping[str, timedelta]) -> str:
    """Return the first class whose limit is not below the age; OLDER for none."""
    return next((one for one, limit in limits.items() if age_us <= duration_us(limit)), OLDER)


def _top_cves(exploited: Mapping[tuple[str, ...], int]) -> dict[str, int]:
    """Return the MAX_CVES CVEs with the most Macs; of equal ones the first by name."""
    macs: Counter[str] = Counter()
    for cves, count in exploited.items():
        macs.update(dict.fromkeys(cves, count))
    return dict(sorted(macs.items(), key=lambda one: (-one[1], one[0]))[:MAX_CVES])
