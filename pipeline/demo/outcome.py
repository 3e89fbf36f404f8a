"""What came of a run, read off its log or topics alone: exposure over time, jobs, and who is left
and why."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

# Figures that move while an answer stands, as the engine has it.
_VOLATILE_FIELDS: Final = frozenset({"gates", "evidence"})
_FINAL: Final = frozenset({"succeeded", "failed", "refused", "expired", "superseded"})


class LogLine(NamedTuple):
    """A line of the log: `kind` is `event` or `decision`, `at` when it was handled."""

    kind: str
    at: datetime
    body: bytes


class ExposureLevel(NamedTuple):
    """How many Macs of a site were exposed from this time on."""

    at: datetime
    site: str
    exposed: int


class DecisionState(NamedTuple):
    """A Mac's answer at a moment, and before it."""

    at: datetime
    before: str | None
    after: str

    @property
    def is_new(self) -> bool:
        """Whether the moment changed it."""
        return self.after != self.before


@dataclass(slots=True)
class JobLine:
    """One job from issue to end; `outcome` `open` while it has none."""

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
    """The run. `latest` is each Mac's last decision, as recorded.

    What is counted hangs on what happened, not on the order in which things of one moment were
    taken: `events` are those from outside, without what was ordered and told of jobs; `decisions`
    are the answers that stood when a moment was over and not when it began.
    """

    levels: list[ExposureLevel] = field(default_factory=list)
    jobs: dict[str, JobLine] = field(default_factory=dict)
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)
    exposed_since: dict[str, datetime] = field(default_factory=dict)
    patched: list[tuple[datetime, datetime]] = field(default_factory=list)
    events: int = 0
    decisions: int = 0
    ends_at: datetime | None = None
    _exposed_at: Counter[str] = field(default_factory=Counter)
    _decision_states: dict[str, DecisionState] = field(default_factory=dict)

    def read_line(self, line: LogLine) -> None:
        """Read the next line."""
        self.ends_at = line.at
        if line.kind == "decision":
            self._read_decision(line)
        # Most events are reports; only jobs are of interest and parsing is what costs.
        elif b'"drydock.job.' in line.body:
            _read_job(self, json.loads(line.body), line.at)
        else:
            self.events += 1

    def _read_decision(self, line: LogLine) -> None:
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
        """How many Macs are exposed at the end."""
        return sum(bool(decision["cves"]) for decision in self.latest.values())

    def exposed_at(self, time: datetime) -> int:
        """How many were exposed at that moment, it included."""
        by_site: dict[str, int] = {}
        for level in self.levels:
            if level.at > time:
                break
            by_site[level.site] = level.exposed
        return sum(by_site.values())

    def jobs_by(self) -> Counter[tuple[str, str, str]]:
        """Jobs by action, method and outcome."""
        return Counter((job.action, job.method, job.outcome) for job in self.jobs.values())

    def still_exposed(self) -> list[dict[str, Any]]:
        """The last decision of each Mac that is still exposed, by site and serial number."""
        still = [decision for decision in self.latest.values() if decision["cves"]]
        return sorted(still, key=lambda one: (one["site"] or "", one["serial"] or "", one["udid"]))


def read_outcome(lines: Iterable[LogLine]) -> RunOutcome:
    """Read a log from its first line to its last."""
    outcome = RunOutcome()
    for line in lines:
        outcome.read_line(line)
    return outcome


def _read_job(outcome: RunOutcome, event: dict[str, Any], at: datetime) -> None:
    data = event["data"]
    if event["type"] == "drydock.job.issued.v1":
        job = data["job"]
        target = job.get("target") or {}
        outcome.jobs[job["job_id"]] = JobLine(
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
    """Hours from `since` until this share of the Macs exposed then, or soon after by the same
    releases, and patched by the end, was patched; None if there were none."""
    ends = sorted(end for start, end in outcome.patched if end > since)
    if not ends:
        return None
    nth = max(1, -(-round(share * 1000) * len(ends) // 1000))
    return (ends[nth - 1] - since).total_seconds() / 3600
