"""Rows of the lists of Macs, jobs, approvals, halts and findings, from the state of a service.

A row is a mapping of column names to texts, numbers or None; all rows of a list have its columns,
in this order. Times are ISO 8601 in UTC.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import from_us
from pipeline.state.fleet import Fleet
from schemas.decisions import Reason

Row = dict[str, str | int | None]

DEVICE_COLUMNS: Final = (
    *("udid", "serial", "hostname", "site", "os_version", "build", "model"),
    *("decision", "reason", "severity", "deadline_at", "findings"),
)
JOB_COLUMNS: Final = (
    *("job_id", "udid", "serial", "hostname", "site", "action", "method", "target"),
    *("issued_at", "outcome", "outcome_at", "error"),
)
APPROVAL_COLUMNS: Final = (
    *("state", "udid", "serial", "hostname", "site", "job_id", "by", "why", "expires_at"),
)
HALT_COLUMNS: Final = ("scope", "by", "why", "until")
FINDING_COLUMNS: Final = ("finding", "udid", "serial", "hostname", "site")
OPEN: Final = "open"


def device_rows(reconciler: Reconciler) -> Iterator[Row]:
    """Yield a row for each Mac, by UDID, with its last decision; empty columns before the first."""
    for udid in sorted(reconciler.fleet.macs()):
        device = reconciler.fleet.merged_device(udid)
        last = reconciler.last_decisions.get(udid)
        version, build = device.os_version, device.build
        yield {
            **_names(reconciler, udid),
            "os_version": None if version is None else str(version),
            "build": None if build is None else str(build),
            "model": device.model,
            "decision": None if last is None else last.verdict.value,
            "reason": None if last is None else last.reason.value,
            "severity": None if last is None or last.severity is None else last.severity.value,
            "deadline_at": None if last is None else _time(last.deadline_us),
            "findings": None if last is None else " ".join(last.findings) or None,
        }


def job_rows(reconciler: Reconciler) -> Iterator[Row]:
    """Yield a row for each known job, the newest first; the outcome of one without an end is OPEN.

    An open job whose executor has reported has that outcome.
    """
    jobs = [
        (entry, udid)
        for udid, history in reconciler.fleet.job_histories.items()
        for entry in history
    ]
    for entry, udid in sorted(jobs, key=lambda one: (-one[0].issued_us, one[0].job_id)):
        yield {
            "job_id": entry.job_id,
            **_names(reconciler, udid),
            "site": entry.site,
            "action": entry.action.value,
            "method": entry.method.value,
            "target": None if entry.version is None else str(entry.version),
            "issued_at": _time(entry.issued_us),
            "outcome": OPEN if entry.outcome is None else entry.outcome.value,
            "outcome_at": _time(entry.outcome_us),
            "error": None if entry.error_code is None else entry.error_code.value,
        }


def approval_rows(reconciler: Reconciler, now: datetime) -> Iterator[Row]:
    """Yield a row for each Mac that waits for an approval, then for each approval in force."""
    for udid, last in sorted(reconciler.last_decisions.items()):
        if last.reason is Reason.AWAITING_APPROVAL:
            nothing = dict.fromkeys(("job_id", "by", "why", "expires_at"))
            yield {"state": "waiting", **_names(reconciler, udid), **nothing}
    for udid in sorted(reconciler.fleet.macs()):
        for granted in reconciler.fleet.approvals(udid):
            approval = granted.approval
            if approval.expires_at > now:
                yield {
                    "state": "granted",
                    **_names(reconciler, udid),
                    "job_id": approval.job_id,
                    "by": approval.by,
                    "why": approval.why,
                    "expires_at": approval.expires_at.isoformat(),
                }


def halt_rows(fleet: Fleet, now: datetime) -> Iterator[Row]:
    """Yield a row for each halt in force, by scope."""
    for halt in fleet.halts_in_force(now):
        until = None if halt.until is None else halt.until.isoformat()
        yield {"scope": halt.scope.key, "by": halt.by, "why": halt.why or None, "until": until}


def finding_rows(reconciler: Reconciler) -> Iterator[Row]:
    """Yield a row for each finding of each Mac, by code."""
    found = [
        (code, udid) for udid, last in reconciler.last_decisions.items() for code in last.findings
    ]
    for code, udid in sorted(found):
        yield {"finding": code, **_names(reconciler, udid)}


def _names(reconciler: Reconciler, udid: str) -> Row:
    device = reconciler.fleet.merged_device(udid)
    last = reconciler.last_decisions.get(udid)
    return {
        "udid": udid,
        "serial": device.serial,
        "hostname": device.hostname,
        "site": None if last is None else last.site,
    }


def _time(us: int) -> str | None:
    return from_us(us).isoformat() if us else None
