"""The output of `drydock explain` for one Mac, as JSON values or as tables."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.cli.log_options import console, format_time, print_table
from pipeline.replay.explain import Explanation, JobStep, JobStory, LoggedEvent
from pipeline.state.device import Device
from pipeline.state.hardware import model_name
from schemas.decisions import Decision, Gate, Verdict
from schemas.jobs import Target

_MAX_DECISIONS_SHOWN = 10
_MAX_EVENT_LINE = 120
# The heading has the Mac's names; status items are too long for a line.
_HIDDEN_FIELDS = frozenset({"udid", "serial", "status_items"})


def explanation_wire(found: Explanation) -> dict[str, Any]:
    """Return the explanation as JSON values."""
    record, blocked = found.record, found.blocked_by
    return {
        "udid": found.udid,
        "keys": list(found.keys),
        "seq": found.seq,
        "at": None if record is None else record.inputs.now.isoformat(),
        "decision": None if record is None else record.decision.model_dump(mode="json"),
        "blocked_by": None if blocked is None else blocked.model_dump(mode="json"),
        "device": None if record is None else record.inputs.device,
        "decisions": [
            {
                "seq": one.seq,
                "at": one.at.isoformat(),
                "decision": one.decision.decision.value,
                "action": None if one.decision.action is None else one.decision.action.value,
                "reason": one.decision.reason.value,
            }
            for one in found.decisions
        ],
        "jobs": [_job_wire(story) for story in found.jobs],
        "events": [
            {
                "seq": one.seq,
                "at": one.at.isoformat(),
                "type": one.event.type,
                "data": _event_fields(one),
            }
            for one in found.events
        ],
        "events_total": found.events_total,
    }


def _job_wire(story: JobStory) -> dict[str, Any]:
    return {
        "job_id": story.job.job_id,
        "seq": story.seq,
        "issued_at": story.issued_at.isoformat(),
        "action": story.job.action.value,
        "method": story.job.method.value,
        "target": None if story.job.target is None else story.job.target.model_dump(mode="json"),
        "reason": story.job.reason,
        "outcome": story.outcome,
        "steps": [
            {
                "seq": step.seq,
                "at": step.at.isoformat(),
                "outcome": step.outcome,
                "error_code": step.error_code,
                "attempt": step.attempt,
                "percent": step.percent,
                "detail": step.detail,
            }
            for step in story.steps
        ],
    }


def print_explanation(found: Explanation) -> None:
    """Print the decision, then gates, evidence, jobs, earlier decisions and events."""
    out = console()
    if found.record is None:
        out.print(f"{found.udid}: there is no decision for it (no policy was in force)")
    else:
        device = Device.from_wire(found.record.inputs.device)
        for line in _heading(found, device, found.record.decision):
            out.print(line)
        _print_gates(found.record.decision.gates, found.blocked_by)
        for title, lines in (
            ("Evidence", found.record.decision.evidence),
            ("Findings", found.record.decision.findings),
        ):
            if lines:
                print_table(("",), [(line,) for line in lines], f"\n{title}")
    _print_jobs(found.jobs)
    _print_decisions(found)
    rows = [
        (str(one.seq), format_time(one.at), _kind(one), _event_line(one)) for one in found.events
    ]
    if rows:
        title = f"\nLast events ({len(rows)} of {found.events_total:,})"
        print_table(("entry", "at", "event", "data"), rows, title)


def _heading(found: Explanation, device: Device, decision: Decision) -> list[str]:
    site = decision.site or "site unknown"
    system = f"macOS {device.os_version or 'unknown'}" + (
        f" ({device.build})" if device.build else ""
    )
    model = (
        "model unknown" if device.model is None else f"{device.model} {model_name(device.model)}"
    )
    assert found.record is not None
    decided_at = format_time(found.record.inputs.now)
    lines = [
        f"{decision.serial or 'no serial number'}  {decision.udid}  {site}",
        f"{system}, {model}, {device.hardware.value}",
        f"Decided {decided_at} (entry {found.seq}): {_decision_line(decision)}",
    ]
    if decision.decision is Verdict.HOLD:
        blocked = found.blocked_by
        gate = "" if blocked is None else f", at gate {blocked.gate}: {blocked.detail}"
        lines.append(f"Held by {decision.reason.value}{gate.removesuffix(': ')}")
    next_at = format_time(decision.next_eligible_at) or "only an event can change this decision"
    lines += [f"Next eligible: {next_at}", _exposure(decision)]
    if decision.supersedes is not None:
        lines.append(f"Withdraws {decision.supersedes}")
    return lines


def _decision_line(decision: Decision) -> str:
    words = [decision.decision.value]
    words += [part.value for part in (decision.action, decision.method) if part is not None]
    if decision.target is not None:
        words.append(f"to {_target(decision.target)}")
    return f"{' '.join(words)} ({decision.reason.value})"


def _target(target: Target | None) -> str:
    if target is None:
        return ""
    return str(target.version) + (f" ({target.build})" if target.build is not None else "")


def _exposure(decision: Decision) -> str:
    if not decision.advisory_ids:
        return "Exposed to no known CVE"
    worst = "" if decision.severity is None else f", {decision.severity.value}"
    exploited = f" ({', '.join(decision.exploited_cves)})" if decision.exploited_cves else ""
    due = format_time(decision.deadline_at)
    return (
        f"Exposed to {len(decision.cves)} CVEs, {len(decision.exploited_cves)} exploited{exploited}"
        f"{worst}: {', '.join(decision.advisory_ids)}" + (f"; deadline {due}" if due else "")
    )


def _print_gates(gates: tuple[Gate, ...], blocked: Gate | None) -> None:
    rows = [
        (
            str(number),
            gate.gate,
            "passed" if gate.passed else "HELD" if gate is blocked else "held",
            gate.detail,
            format_time(gate.until),
        )
        for number, gate in enumerate(gates, 1)
    ]
    if rows:
        print_table(("#", "gate", "", "detail", "until"), rows, "\nGates, in order")


def _print_jobs(jobs: tuple[JobStory, ...]) -> None:
    rows: list[tuple[str, ...]] = []
    for story in jobs:
        job = story.job
        what = f"{job.action.value} by {job.method.value} {_target(job.target)}".rstrip()
        rows.append(
            (str(story.seq), format_time(story.issued_at), "issued", f"{what}  {job.job_id}")
        )
        rows += [
            (str(step.seq), format_time(step.at), step.outcome, _step(step)) for step in story.steps
        ]
    if rows:
        print_table(("entry", "at", "", "job"), rows, "\nJobs")


def _step(step: JobStep) -> str:
    parts = [
        "" if not step.attempt else f"attempt {step.attempt}",
        "" if step.percent is None else f"{step.percent} %",
        step.error_code or "",
        step.detail,
    ]
    return "  " + ", ".join(part for part in parts if part)


def _print_decisions(found: Explanation) -> None:
    shown = found.decisions[-_MAX_DECISIONS_SHOWN:]
    rows = [(str(one.seq), format_time(one.at), _decision_line(one.decision)) for one in shown]
    if rows:
        title = f"\nLast decisions ({len(rows)} of {len(found.decisions):,})"
        print_table(("entry", "at", "decision"), rows, title)


def _kind(one: LoggedEvent) -> str:
    return one.event.type.removeprefix("drydock.").removesuffix(".v1")


def _event_fields(one: LoggedEvent) -> Mapping[str, Any]:
    data: Mapping[str, Any] = one.event.data.model_dump(mode="json", exclude_defaults=True)
    return data


def _event_line(one: LoggedEvent) -> str:
    words = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in _event_fields(one).items()
        if name not in _HIDDEN_FIELDS
    ]
    line = " ".join(words)
    return line if len(line) <= _MAX_EVENT_LINE else f"{line[: _MAX_EVENT_LINE - 1]}…"
