"""What came of a run, read off its log alone: exposure over time, jobs, and who is left and why."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

_FINAL: Final = frozenset({"succeeded", "failed", "refused", "expired", "superseded"})


class LogLine(NamedTuple):
    """A line of the log: `kind` is `event` or `decision`, `at` when it was handled."""

    kind: str
    at: datetime
    body: bytes


class Level(NamedTuple):
    """How many Macs of a site were exposed from this time on."""

    at: datetime
    site: str
    exposed: int


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
class Outcome:
    """The run. `latest` is each Mac's last decision, as recorded."""

    levels: list[Level] = field(default_factory=list)
    jobs: dict[str, JobLine] = field(default_factory=dict)
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)
    exposed_since: dict[str, datetime] = field(default_factory=dict)
    patched: list[tuple[datetime, datetime]] = field(default_factory=list)
    events: int = 0
    decisions: int = 0
    ends_at: datetime | None = None

    @property
    def exposed(self) -> int:
        """How many Macs are exposed at the end."""
        return sum(bool(decision["cves"]) for decision in self.latest.values())

    def exposed_at(self, moment: datetime) -> int:
        """How many were exposed at that moment, it included."""
        by_site: dict[str, int] = {}
        for level in self.levels:
            if level.at > moment:
                break
            by_site[level.site] = level.exposed
        return sum(by_site.values())

    def jobs_by(self) -> Counter[tuple[str, str, str]]:
        """Jobs by action, method and outcome."""
        return Counter((job.action, job.method, job.outcome) for job in self.jobs.values())

    def left(self) -> list[dict[str, Any]]:
        """The last decision of each Mac that is still exposed, by site and serial number."""
        still = [decision for decision in self.latest.values() if decision["cves"]]
        return sorted(still, key=lambda one: (one["site"] or "", one["serial"] or "", one["udid"]))


def read_outcome(lines: Iterable[LogLine]) -> Outcome:
    """Read a log from its first line to its last."""
    outcome, exposed = Outcome(), Counter[str]()
    for line in lines:
        outcome.ends_at = line.at
        if line.kind == "decision":
            outcome.decisions += 1
            _read_decision(outcome, exposed, line)
        else:
            outcome.events += 1
            # Most events are reports; only jobs are of interest and parsing is what costs.
            if b'"drydock.job.' in line.body:
                _read_job(outcome, json.loads(line.body), line.at)
    return outcome


def _read_decision(outcome: Outcome, exposed: Counter[str], line: LogLine) -> None:
    decision = json.loads(line.body)["decision"]
    decision.setdefault("cves", [])
    for name in ("site", "serial", "reason"):
        decision.setdefault(name, None)
    udid, old = decision["udid"], outcome.latest.get(decision["udid"])
    outcome.latest[udid] = decision
    was, now = bool(old and old["cves"]), bool(decision["cves"])
    if was and old is not None:
        exposed[old["site"] or ""] -= 1
    if now:
        exposed[decision["site"] or ""] += 1
    if was != now or (old and now and old["site"] != decision["site"]):
        for site in {decision["site"] or "", (old or decision)["site"] or ""}:
            outcome.levels.append(Level(line.at, site, exposed[site]))
    if now and not was:
        outcome.exposed_since[udid] = line.at
    elif was and not now:
        outcome.patched.append((outcome.exposed_since.pop(udid), line.at))


def _read_job(outcome: Outcome, event: dict[str, Any], at: datetime) -> None:
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
    told = data.get("outcome", "superseded")
    if told == "acted" and line.acted_at is None:
        line.acted_at = at
    if told in _FINAL and line.outcome not in _FINAL:
        line.outcome, line.ended_at, line.error_code = told, at, data.get("error_code")


def time_to_patch(outcome: Outcome, since: datetime, share: float) -> float | None:
    """Hours from `since` until this share of the Macs exposed then, or soon after by the same
    releases, and patched by the end, was patched; None if there were none."""
    ends = sorted(end for start, end in outcome.patched if end > since)
    if not ends:
        return None
    nth = max(1, -(-round(share * 1000) * len(ends) // 1000))
    return (ends[nth - 1] - since).total_seconds() / 3600
