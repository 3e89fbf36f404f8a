"""The outcome of a run, computed from its log or topics alone: exposure over time, jobs, and the
Macs that are still exposed, with the reason."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

# These change while the decision stays the same: pipeline.reconcile.last_decision.fingerprint.
_VOLATILE_FIELDS: Final = frozenset({"gates", "evidence"})
_FINAL: Final = frozenset({"succeeded", "failed", "refused", "expired", "superseded"})


class LogEntry(NamedTuple):
    """A line of the log: `kind` is `event` or `decision`, `at` the time of its transaction."""

    kind: str
    at: datetime
    body: bytes


class ExposureLevel(NamedTuple):
    """The number of exposed Macs of a site from this time on."""

    at: datetime
    site: str
    exposed: int


class DecisionState(NamedTuple):
    """A Mac's decision at the end of a moment, and its decision before that moment."""

    at: datetime
    before: str | None
    after: str

    @property
    def is_new(self) -> bool:
        """True if the moment changed the decision."""
        return self.after != self.before


@dataclass(slots=True)
class RunJob:
    """One job from issue to end; `outcome` is `open` until it ends."""

    job_id: str
    udid: str
    serial: str
    site: str
    action: str
    method: str
    target: str
    issued_at: datetime
    acted_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str = "open"
    error_code: str | None = None


@dataclass(slots=True)
class RunOutcome:
    """The outcome of a run.

    `latest` is each Mac's last decision, as recorded. `patched` are the (start, end) of each Mac's
    exposure that ended. The counts do not depend on the order of events within one moment: `events`
    are the events from outside, without those of jobs; `decisions` counts a Mac once per moment, if
    its decision after the moment differs from the one before.
    """

    levels: list[ExposureLevel] = field(default_factory=list)
    jobs: dict[str, RunJob] = field(default_factory=dict)
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)
    exposed_since: dict[str, datetime] = field(default_factory=dict)
    patched: list[tuple[datetime, datetime]] = field(default_factory=list)
    events: int = 0
    decisions: int = 0
    ends_at: datetime | None = None
    _exposed_at: Counter[str] = field(default_factory=Counter)
    _decision_states: dict[str, DecisionState] = field(default_factory=dict)

    def read_line(self, line: LogEntry) -> None:
        """Add the next line of the log to the outcome; the lines must come in their order."""
        self.ends_at = line.at
        if line.kind == "decision":
            self._read_decision(line)
        # Most events are reports. Only events of jobs are parsed: parsing costs the most.
        elif b'"drydock.job.' in line.body:
            _read_job(self, json.loads(line.body), line.at)
        else:
            self.events += 1

    def _read_decision(self, line: LogEntry) -> None:
        """Update the Mac's last decision and exposure, and the levels of its sites."""
        decision = json.loads(line.body)["decision"]
        decision.setdefault("cves", [])
        for name in ("site", "serial", "reason"):
            decision.setdefault(name, None)
        udid, old = decision["udid"], self.latest.get(decision["udid"])
        self.latest[udid] = decision
        self._count_decision(udid, line.at, decision)
        was, now = bool(old and old["cves"]), bool(decision["cves"])
        if was and old is not None:
            self._exposed_at[old["site"] or ""] -= 1
        if now:
            self._exposed_at[decision["site"] or ""] += 1
        if was != now or (old and now and old["site"] != decision["site"]):
            for site in {decision["site"] or "", (old or decision)["site"] or ""}:
                self.levels.append(ExposureLevel(line.at, site, self._exposed_at[site]))
        if now and not was:
            self.exposed_since[udid] = line.at
        elif was and not now:
            self.patched.append((self.exposed_since.pop(udid), line.at))

    def _count_decision(self, udid: str, at: datetime, decision: dict[str, Any]) -> None:
        """Count the decision, once per Mac and moment, if it differs from the one before."""
        after = json.dumps({k: v for k, v in decision.items() if k not in _VOLATILE_FIELDS})
        last = self._decision_states.get(udid)
        if last is not None and last.at == at:
            self.decisions -= last.is_new
            now = last._replace(after=after)
        else:
            now = DecisionState(at, None if last is None else last.after, after)
        self.decisions += now.is_new
        self._decision_states[udid] = now

    @property
    def exposed(self) -> int:
        """The number of Macs exposed at the end."""
        return sum(bool(decision["cves"]) for decision in self.latest.values())

    def exposed_at(self, time: datetime) -> int:
        """Return the number of Macs exposed at `time`, after the events of that time."""
        by_site: dict[str, int] = {}
        for level in self.levels:
            if level.at > time:
                break
            by_site[level.site] = level.exposed
        return sum(by_site.values())

    def jobs_by(self) -> Counter[tuple[str, str, str]]:
        """Return the number of jobs by (action, method, outcome)."""
        return Counter((job.action, job.method, job.outcome) for job in self.jobs.values())

    def still_exposed(self) -> list[dict[str, Any]]:
        """Return the last decision of each exposed Mac, in order of site and serial number."""
        still = [decision for decision in self.latest.values() if decision["cves"]]
        return sorted(still, key=lambda one: (one["site"] or "", one["serial"] or "", one["udid"]))


def read_outcome(lines: Iterable[LogEntry]) -> RunOutcome:
    """Return the outcome of a whole log."""
    outcome = RunOutcome()
    for line in lines:
        outcome.read_line(line)
    return outcome


def _read_job(outcome: RunOutcome, event: dict[str, Any], at: datetime) -> None:
    """Update the job of an event: its issue, its first `acted`, or its end.

    Results of a job that was not issued in this log, and results after the end, are ignored.
    """
    data = event["data"]
    if event["type"] == "drydock.job.issued.v1":
        job = data["job"]
        target = job.get("target") or {}
        outcome.jobs[job["job_id"]] = RunJob(
            job["job_id"],
            job["udid"],
            job.get("serial") or "",
            job["site"],
            job["action"],
            job["method"],
            target.get("version", ""),
            at,
        )
        return
    line = outcome.jobs.get(data["job_id"])
    if line is None:
        return
    outcome_name = data.get("outcome", "superseded")
    if outcome_name == "acted" and line.acted_at is None:
        line.acted_at = at
    if outcome_name in _FINAL and line.outcome not in _FINAL:
        line.outcome, line.ended_at, line.error_code = outcome_name, at, data.get("error_code")


def time_to_patch(outcome: RunOutcome, since: datetime, share: float) -> float | None:
    """Return the hours from `since` until `share` (0 to 1) of the counted exposures had ended.

    Only exposures that ended after `since` count; Macs that stay exposed do not count. None if no
    exposure ended after `since`.
    """
    ends = sorted(end for start, end in outcome.patched if end > since)
    if not ends:
        return None
    nth = max(1, -(-round(share * 1000) * len(ends) // 1000))
    return (ends[nth - 1] - since).total_seconds() / 3600
