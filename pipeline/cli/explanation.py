"""The output of `drydock explain` for one Mac, as JSON values or as tables.

The tables have five sections: what is known of the Mac, what was decided, what was done, what the
Mac reported, and what remains.
"""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pipeline.cli.log_options import console, format_time, print_table
from pipeline.decide.texts import text_of
from pipeline.replay.explain import (
    Explanation,
    JobStep,
    JobStory,
    LoggedEvent,
    Remaining,
    finding_details,
)
from pipeline.replay.operator_steps import OperatorStep, PutInForce
from pipeline.state.device import Device, from_us
from pipeline.state.hardware import model_name
from pipeline.state.strikes import StrikeState
from schemas import sentences
from schemas.decisions import Decision, DecisionRecord, Gate, Verdict
from schemas.jobs import Target

_MAX_DECISIONS_SHOWN = 10
_MAX_EVENT_LINE = 120
# The heading has the Mac's names; status items are too long for a line.
_HIDDEN_FIELDS = frozenset({"udid", "serial", "status_items"})
_HEADING_FIELDS = frozenset({"serial", "os_version", "build", "model", "device_id"})


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
        "policy_digest": None if record is None else record.inputs.policy_digest,
        "policy": None if found.policy is None else _policy_wire(found.policy),
        "sent_by": None if found.sent is None else found.sent.seq,
        "methods": [row._asdict() for row in found.methods],
        "policy_rules": {gate: rule._asdict() for gate, rule in found.rules.items()},
        "device": None if record is None else record.inputs.device,
        "sources": dict(found.sources),
        "decisions": [
            {
                "seq": one.seq,
                "at": one.at.isoformat(),
                "decision": one.decision.decision.value,
                "action": None if one.decision.action is None else one.decision.action.value,
                "reason": one.decision.reason.value,
                "policy_digest": one.policy_digest,
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
        "resets": [
            {"seq": one.seq, "at": one.at.isoformat(), **one.reset.model_dump(mode="json")}
            for one in found.resets
        ],
        "operator_steps": [_step_wire(one) for one in found.operator_steps],
        "strikes": [_strike_wire(one) for one in found.strikes],
        "remaining": [
            {
                "what": one.what,
                "detail": one.detail,
                "until": None if one.until is None else one.until.isoformat(),
            }
            for one in found.remaining
        ],
    }


def _strike_wire(act: StrikeState) -> dict[str, Any]:
    at = from_us(act.us).isoformat()
    return {"scope": act.scope.key, "by": act.by, "why": act.why, "at": at}


def _policy_wire(policy: PutInForce) -> dict[str, Any]:
    """Return a policy without its text."""
    return {
        "seq": policy.seq,
        "at": policy.at.isoformat(),
        "digest": policy.digest,
        "by": policy.by,
        "why": policy.why,
    }


def _step_wire(step: OperatorStep) -> dict[str, Any]:
    return {
        "seq": step.seq,
        "at": step.at.isoformat(),
        "step": step.step.value,
        "scope": step.scope,
        "by": step.by,
        "why": step.why or None,
        "until": None if step.until is None else step.until.isoformat(),
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
    """Print the sections known, decided, done, reported and remaining."""
    out = console()
    if found.record is None:
        out.print(f"{found.udid}: there is no decision for it (no policy was in force)")
    else:
        _print_known(found, found.record)
        _print_decided(found, found.record.decision)
    _print_done(found)
    _print_operator_steps(found.operator_steps)
    rows = [
        (str(one.seq), format_time(one.at), _kind(one), _event_line(one)) for one in found.events
    ]
    if rows:
        title = f"\nReported: last events ({len(rows)} of {found.events_total:,})"
        print_table(("entry", "at", "event", "data"), rows, title)
    else:
        out.print("\nReported: nothing")
    if found.record is not None:
        _print_remaining(found.remaining, found.record.decision)


def _print_known(found: Explanation, record: DecisionRecord) -> None:
    """Print the Mac's names, system, exposure, and each field with source, time and age."""
    out, decision = console(), record.decision
    device = Device.from_wire(record.inputs.device)
    system = f"macOS {device.os_version or 'unknown'}" + (
        f" ({device.build})" if device.build else ""
    )
    model = (
        "model unknown" if device.model is None else f"{device.model} {model_name(device.model)}"
    )
    site = decision.site or "site unknown"
    out.print(f"{decision.serial or 'no serial number'}  {decision.udid}  {site}")
    out.print(f"{system}, {model}, {device.hardware.value}")
    out.print(_exposure(decision))
    rows = [
        (
            name,
            "unknown" if value is None else _text(value),
            found.sources.get(name, ""),
            format_time(from_us(us)),
            _age(record.inputs.now - from_us(us)),
        )
        for name, (us, value) in record.inputs.device["facts"].items()
        if name not in _HEADING_FIELDS
    ]
    if rows:
        print_table(("field", "value", "source", "reported at", "age"), rows, "\nKnown")


def _age(age: timedelta) -> str:
    """Return an age as text, in days and hours or in hours and minutes."""
    step = timedelta(hours=1) if age >= timedelta(days=1) else timedelta(minutes=1)
    return text_of(age // step * step) if age >= step else "now"


def _print_decided(found: Explanation, decision: Decision) -> None:
    """Print the last decision with its gates, evidence and findings, then the last decisions."""
    out = console()
    assert found.record is not None
    decided_at = format_time(found.record.inputs.now)
    out.print(f"\nDecided {decided_at} (entry {found.seq}): {decision_line(decision)}")
    out.print(sentences.REASONS[decision.reason])
    if found.record.inputs.policy_digest is not None:
        out.print(f"Policy: digest {found.record.inputs.policy_digest}{_author(found.policy)}")
    if decision.decision is Verdict.HOLD:
        blocked = found.blocked_by
        gate = "" if blocked is None else f", at gate {blocked.gate}: {blocked.detail}"
        out.print(f"Held by {decision.reason.value}{gate.removesuffix(': ')}")
    if found.sent is not None:
        sent = found.sent
        out.print(
            f"The open job was sent by entry {sent.seq}, {format_time(sent.at)}:"
            f" {decision_line(sent.decision)}; --entry {sent.seq} explains it"
        )
    if decision.supersedes is not None:
        out.print(f"Withdraws {decision.supersedes}")
    _print_gates(found, decision.gates)
    if found.methods:
        methods = [(row.method.value, row.state, row.detail) for row in found.methods]
        print_table(("method", "", "why"), methods, "\nMethods of the policy, in order")
    if decision.evidence:
        print_table(("",), [(line,) for line in decision.evidence], "\nEvidence")
    findings = list(finding_details(decision).items())
    if findings:
        print_table(("finding", "observed"), findings, "\nFindings")
    for one in found.strikes:
        out.print(f"Advisories lack what was struck: struck {one.scope.key} by {one.by}: {one.why}")
    _print_decisions(found)


def _author(policy: PutInForce | None) -> str:
    if policy is None:
        return ""
    why = f": {policy.why}" if policy.why else ""
    return f", by {policy.by} since {format_time(policy.at)}{why}"


def _print_operator_steps(steps: tuple[OperatorStep, ...]) -> None:
    rows = [
        (
            *(str(one.seq), format_time(one.at), one.step.value, one.scope),
            *(one.by, one.why, format_time(one.until)),
        )
        for one in steps
    ]
    if rows:
        columns = ("entry", "at", "", "scope", "by", "why", "until")
        print_table(columns, rows, "\nHalts and approvals")


def _print_remaining(remaining: tuple[Remaining, ...], decision: Decision) -> None:
    out = console()
    out.print("\nRemaining" if remaining else "\nRemaining: nothing")
    next_at = format_time(decision.next_eligible_at) or "only an event can change this decision"
    out.print(f"Next eligible: {next_at}")
    rows = [(one.what, one.detail, format_time(one.until)) for one in remaining]
    if rows:
        print_table(("what", "detail", "until"), rows)


def decision_line(decision: Decision) -> str:
    """Return verdict, action, method, target and reason as one line."""
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


def _print_gates(found: Explanation, gates: tuple[Gate, ...]) -> None:
    rows = [
        (
            str(number),
            gate.gate,
            "passed" if gate.passed else "HELD" if gate is found.blocked_by else "held",
            gate.detail,
            str(found.rules.get(gate.gate, "")),
            format_time(gate.until),
        )
        for number, gate in enumerate(gates, 1)
    ]
    if rows:
        print_table(("#", "gate", "", "detail", "policy", "until"), rows, "\nGates, in order")


def _print_done(found: Explanation) -> None:
    """Print the jobs with their steps, then the resets of attempts."""
    rows: list[tuple[str, ...]] = []
    for story in found.jobs:
        job = story.job
        what = f"{job.action.value} by {job.method.value} {_target(job.target)}".rstrip()
        rows.append(
            (str(story.seq), format_time(story.issued_at), "issued", f"{what}  {job.job_id}")
        )
        rows += [
            (str(step.seq), format_time(step.at), step.outcome, _step(step)) for step in story.steps
        ]
    if rows:
        print_table(("entry", "at", "", "job"), rows, "\nDone: jobs")
    resets = [
        (str(one.seq), format_time(one.at), one.reset.key, one.reset.by, one.reset.why)
        for one in found.resets
    ]
    if not rows and not resets:
        console().print("\nDone: nothing")
    if resets:
        print_table(("entry", "at", "scope", "by", "why"), resets, "\nDone: resets of attempts")


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
    rows = [
        (
            *(str(one.seq), format_time(one.at), decision_line(one.decision)),
            (one.policy_digest or "none")[:12],
        )
        for one in shown
    ]
    if rows:
        title = f"\nLast decisions ({len(rows)} of {len(found.decisions):,})"
        print_table(("entry", "at", "decision", "policy"), rows, title)


def _kind(one: LoggedEvent) -> str:
    return one.event.type.removeprefix("drydock.").removesuffix(".v1")


def _event_fields(one: LoggedEvent) -> Mapping[str, Any]:
    data: Mapping[str, Any] = one.event.data.model_dump(mode="json", exclude_defaults=True)
    return data


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _event_line(one: LoggedEvent) -> str:
    words = [
        f"{name}={_text(value)}"
        for name, value in _event_fields(one).items()
        if name not in _HIDDEN_FIELDS
    ]
    line = " ".join(words)
    return line if len(line) <= _MAX_EVENT_LINE else f"{line[: _MAX_EVENT_LINE - 1]}…"
