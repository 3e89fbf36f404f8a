"""The status of the fleet, read from a data directory; the service may write meanwhile."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.embedded.journal_check import SETTING, count_doubtful, decode_doubts
from pipeline.embedded.log import Log
from pipeline.state.advisories import Advisories
from pipeline.state.device import to_us
from pipeline.state.feed_comparison import FeedFinding, compare_feeds
from pipeline.state.jobs import JobEntry, rehearsals
from schemas.dead_letters import DeadLetterCode


@dataclass(frozen=True, slots=True)
class Status:
    """Counts over the whole fleet.

    `exposed` is by site and severity, `open_jobs` by site and action, `decisions` by verdict and
    reason. The site is empty for Macs without one. `overdue` are the exposed Macs past their
    deadline, by site. `dead_letters` are by code, without replayed ones. `halts` are the scope keys
    of the halts in force. `doubtful_jobs` are the open jobs, by site, that were issued before their
    site's journal was found to lack orders. `dry_run` counts, by site and action, the Macs whose
    job would have been sent if the site were not in dry run. `findings` counts, by site and code,
    the Macs with a finding. `feed_findings` are the disagreements of the feeds. `policy` is the
    digest of the policy in force, None without one; `last_at` is the latest time of a log entry,
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
    dry_run: dict[str, dict[str, int]]
    findings: dict[str, dict[str, int]]
    feed_findings: list[FeedFinding]
    policy: str | None
    last_at: datetime | None

    @property
    def problems(self) -> list[str]:
        """The problems that need a person, one text each; empty if the fleet is healthy."""
        found = []
        if self.policy is None:
            found.append("no policy is in force: nothing is decided")
        late = sum(self.overdue.values())
        if late:
            found.append(f"exposed Macs past their deadline: {late}")
        doubtful = sum(self.doubtful_jobs.values())
        if doubtful:
            found.append(
                f"open jobs from before a journal was lost or a backup restored: {doubtful};"
                " each is checked on its Mac, an erasing one needs a new approval"
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


def read_status(log: Log, now: datetime) -> Status:
    """Return the counts of the fleet from a data directory's log.

    Deadlines and ends of halts are compared with `now`.
    """
    exposed: Counter[tuple[str, str]] = Counter()
    overdue: Counter[str] = Counter()
    decisions: Counter[tuple[str, str]] = Counter()
    findings: Counter[tuple[str, str]] = Counter()
    for _, _, verdict, reason, _, site, severity, deadline_us, *_, codes in log.last_decisions():
        decisions[verdict, reason] += 1
        findings.update((site or "", code) for code in codes.split())
        if severity is None:
            continue
        exposed[site or "", severity] += 1
        overdue[site or ""] += 0 < deadline_us <= to_us(now)
    open_jobs: Counter[tuple[str, str]] = Counter()
    dry_run: Counter[tuple[str, str]] = Counter()
    doubts = decode_doubts(log.setting(SETTING))
    doubtful: Counter[str] = Counter()
    for _, body in log.job_histories():
        history = tuple(map(JobEntry.from_wire, json.loads(body)))
        doubtful.update(count_doubtful([history], doubts))
        dry_run.update((entry.site, entry.action.value) for entry in rehearsals(history))
        for entry in history:
            if entry.is_open:
                open_jobs[entry.site, entry.action.value] += 1
    policy = json.loads(log.setting("policy") or b"null")
    return Status(
        devices=log.count_devices(),
        exposed=_nested(exposed),
        overdue={site: count for site, count in sorted(overdue.items()) if count},
        open_jobs=_nested(open_jobs),
        decisions=_nested(decisions),
        dead_letters=log.dead_letter_counts(),
        halts=_halts(log, now),
        doubtful_jobs={site: count for site, count in sorted(doubtful.items()) if count},
        dry_run=_nested(dry_run),
        findings=_nested(findings),
        feed_findings=list(compare_feeds(_advisories(log), now)),
        policy=None if policy is None else policy[1]["digest"],
        last_at=log.last_at(),
    )


def _advisories(log: Log) -> Advisories:
    return Advisories.from_wire(json.loads(log.setting("advisories") or b"{}"))


def _halts(log: Log, now: datetime) -> list[str]:
    """Return the scope keys of the halts in force at `now`, sorted."""
    halts = json.loads(log.setting("halts") or b"{}")
    in_force = []
    for scope, (_, halt) in sorted(halts.items()):
        until = None if halt is None else halt.get("until")
        if halt is not None and (until is None or datetime.fromisoformat(until) > now):
            in_force.append(scope)
    return in_force


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Return the counts as {first key part: {second key part: count}}, both sorted."""
    found: dict[str, dict[str, int]] = {}
    for (outer, inner), count in sorted(counts.items()):
        found.setdefault(outer, {})[inner] = count
    return found
