"""The status of the fleet, read from a data directory; the service may write meanwhile."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple, Self

from pipeline.embedded.journal_check import (
    SETTING,
    UNREADABLE_SETTING,
    count_doubtful,
    decode_doubts,
)
from pipeline.embedded.log import Log
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.advisories import Advisories
from pipeline.state.device import from_us, to_us
from pipeline.state.feed_comparison import FeedFinding, compare_feeds
from pipeline.state.jobs import JobEntry, rehearsals
from schemas.dead_letters import DeadLetterCode
from schemas.events.control import DRYDOCK_ITSELF
from schemas.findings import FeedFindingCode


@dataclass(frozen=True, slots=True)
class Status:
    """Counts over the whole fleet.

    `exposed` is by site and severity, `open_jobs` by site and action, `decisions` by verdict and
    reason. The site is empty for Macs without one. `overdue` are the exposed Macs past their
    deadline, by site. `dead_letters` are by code, without replayed ones. `halts` are the scope keys
    of the halts in force. `doubtful_jobs` are the open jobs, by site, that were issued before their
    site's journal was found to lack orders, `unreadable_journals` the sites whose journal the last
    start could not read. `dry_run` counts, by site and action, the Macs whose job would have been
    sent if the site were not in dry run. `findings` counts, by site and code,
    the Macs with a finding. `feed_findings` are the disagreements of the feeds. `policy` is the
    digest of the policy in force, None without one. `halt_details` are scope, author (`by`), reason
    (`why`), begin (`since`) and end (`until`) of each of `halts`, `policy_details` digest, author,
    reason and begin of the policy. `strikes` are the struck statements about advisories: scope,
    author, reason, begin, and `has_effect`, `no` if the source states something else now. `last_at`
    is the latest time of a log entry,
    None for an empty log.
    """

    devices: int
    exposed: dict[str, dict[str, int]]
    overdue: dict[str, int]
    open_jobs: dict[str, dict[str, int]]
    decisions: dict[str, dict[str, int]]
    dead_letters: dict[str, int]
    halts: list[str]
    doubtful_jobs: dict[str, int]
    unreadable_journals: list[str]
    dry_run: dict[str, dict[str, int]]
    findings: dict[str, dict[str, int]]
    feed_findings: list[FeedFinding]
    policy: str | None
    halt_details: list[dict[str, str | None]]
    policy_details: dict[str, str | None] | None
    strikes: list[dict[str, str | None]]
    last_at: datetime | None

    @property
    def problems(self) -> list[str]:
        """The problems that need a person, one text each; empty if the fleet is healthy."""
        found = []
        if self.policy is None:
            found.append("no policy is in force: nothing is decided")
        found += [
            f"Drydock halted {halt['scope']} itself: {halt['why']}"
            for halt in self.halt_details
            if halt["by"] == DRYDOCK_ITSELF
        ]
        late = sum(self.overdue.values())
        if late:
            found.append(f"exposed Macs past their deadline: {late}")
        doubtful = sum(self.doubtful_jobs.values())
        if doubtful:
            found.append(
                f"open jobs from before a journal was lost or a backup restored: {doubtful};"
                " each is checked on its Mac, an erasing one needs a new approval"
            )
        if self.unreadable_journals:
            sites = ", ".join(self.unreadable_journals)
            found.append(
                f"sites without orders, because their journal cannot be read: {sites};"
                " restore the journal (docs/embedded.md, Problems)"
            )
        bugs = self.dead_letters.get(DeadLetterCode.BUG.value, 0)
        if bugs:
            found.append(f"dead letters because of a bug in Drydock: {bugs}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the status and its problems as JSON values."""
        wire = asdict(self)
        wire["last_at"] = None if self.last_at is None else self.last_at.isoformat()
        wire["feed_findings"] = [one._asdict() for one in self.feed_findings]
        wire["problems"] = self.problems
        return wire

    @classmethod
    def from_json(cls, wire: Mapping[str, Any]) -> Self:
        """Return the status of `to_json`; other keys are ignored.

        Raises KeyError, TypeError or ValueError for other values.
        """
        known = {one.name: wire[one.name] for one in fields(cls)}
        last_at = known["last_at"]
        known["last_at"] = None if last_at is None else datetime.fromisoformat(last_at)
        known["feed_findings"] = [
            FeedFinding(**{**one, "code": FeedFindingCode(one["code"])})
            for one in known["feed_findings"]
        ]
        return cls(**known)


class MacCounts(NamedTuple):
    """The counts of a Status that are those of Macs and their jobs, each by the keys named there.

    `doubtful` is `doubtful_jobs`, `open_jobs` and `dry_run` have the same names.
    """

    decisions: Counter[tuple[str, str]]
    exposed: Counter[tuple[str, str]]
    overdue: Counter[str]
    findings: Counter[tuple[str, str]]
    open_jobs: Counter[tuple[str, str]]
    dry_run: Counter[tuple[str, str]]
    doubtful: Mapping[str, int]


def read_status(log: Log, now: datetime) -> Status:
    """Return the counts of the fleet from a data directory's log.

    Deadlines and ends of halts are compared with `now`. Each Mac's row is read.
    """
    return _status(log, _stored_counts(log, now), now)


def status_of(log: Log, reconciler: Reconciler, now: datetime) -> Status:
    """Return what `read_status` returns, with the counts that the reconciler at its end keeps.

    Only deadlines, and the jobs of a fleet with doubtful journals, are visited one by one.
    """
    decisions: Counter[tuple[str, str]] = Counter()
    for (_, verdict, reason), count in reconciler.counts.decided.items():
        decisions[verdict.value, reason.value] += count
    doubts = decode_doubts(log.setting(SETTING))
    histories = reconciler.fleet.job_histories.values() if doubts else ()
    counts = MacCounts(
        decisions,
        reconciler.exposed,
        reconciler.count_overdue(now),
        reconciler.findings,
        reconciler.open_jobs,
        reconciler.capacity.withheld,
        count_doubtful(histories, doubts),
    )
    return _status(log, counts, now)


def _stored_counts(log: Log, now: datetime) -> MacCounts:
    counts = MacCounts(*(Counter() for _ in MacCounts._fields))
    for _, _, verdict, reason, _, site, severity, deadline_us, *_, codes in log.last_decisions():
        counts.decisions[verdict, reason] += 1
        counts.findings.update((site or "", code) for code in codes.split())
        if severity is None:
            continue
        counts.exposed[site or "", severity] += 1
        counts.overdue[site or ""] += 0 < deadline_us <= to_us(now)
    doubts, doubtful = decode_doubts(log.setting(SETTING)), Counter[str]()
    for _, body in log.job_histories():
        history = tuple(map(JobEntry.from_wire, json.loads(body)))
        doubtful.update(count_doubtful([history], doubts))
        counts.dry_run.update((entry.site, entry.action.value) for entry in rehearsals(history))
        for entry in history:
            if entry.is_open:
                counts.open_jobs[entry.site, entry.action.value] += 1
    return counts._replace(doubtful=doubtful)


def _status(log: Log, counts: MacCounts, now: datetime) -> Status:
    policy = _policy(log)
    halts = _halts(log, now)
    advisories = _advisories(log)
    return Status(
        devices=log.count_devices(),
        exposed=_nested(counts.exposed),
        overdue=_positive(counts.overdue),
        open_jobs=_nested(counts.open_jobs),
        decisions=_nested(counts.decisions),
        dead_letters=log.dead_letter_counts(),
        halts=[str(one["scope"]) for one in halts],
        doubtful_jobs=_positive(counts.doubtful),
        unreadable_journals=json.loads(log.setting(UNREADABLE_SETTING) or b"[]"),
        dry_run=_nested(counts.dry_run),
        findings=_nested(counts.findings),
        feed_findings=list(compare_feeds(advisories, now)),
        policy=None if policy is None else policy["digest"],
        halt_details=halts,
        policy_details=policy,
        strikes=[*_strikes(advisories)],
        last_at=log.last_at(),
    )


def _advisories(log: Log) -> Advisories:
    return Advisories.from_wire(json.loads(log.setting("advisories") or b"{}"))


def _strikes(advisories: Advisories) -> Iterator[dict[str, str | None]]:
    """Yield the struck statements, sorted by scope, as `Status.strikes`."""
    for act, has_effect in advisories.strikes():
        yield {
            "scope": act.scope.key,
            "by": act.by,
            "why": act.why,
            "since": from_us(act.us).isoformat(),
            "has_effect": "yes" if has_effect else "no",
        }


def _halts(log: Log, now: datetime) -> list[dict[str, str | None]]:
    """Return the halts in force at `now`, sorted by scope, as `Status.halt_details`."""
    halts = json.loads(log.setting("halts") or b"{}")
    in_force = []
    for scope, (since_us, halt) in sorted(halts.items()):
        until = None if halt is None else halt.get("until")
        if halt is not None and (until is None or datetime.fromisoformat(until) > now):
            details = {"scope": scope, "by": halt["by"], "why": halt.get("why") or None}
            in_force.append(details | {"since": from_us(since_us).isoformat(), "until": until})
    return in_force


def _policy(log: Log) -> dict[str, str | None] | None:
    """Return the policy in force as `Status.policy_details`; None without one."""
    stored = json.loads(log.setting("policy") or b"null")
    if stored is None:
        return None
    since_us, policy = stored
    return {
        "digest": policy["digest"],
        "by": policy.get("by"),
        "why": policy.get("why"),
        "since": from_us(since_us).isoformat(),
    }


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Return the counts as {first key part: {second key part: count}}, both sorted, without zeros.

    A count that is kept stays at zero when its last Mac has left it.
    """
    found: dict[str, dict[str, int]] = {}
    for (outer, inner), count in sorted(counts.items()):
        if count:
            found.setdefault(outer, {})[inner] = count
    return found
