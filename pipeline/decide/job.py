"""The job of a decision to send: its validity, its enforcement time and its approval."""

from datetime import datetime, timedelta
from typing import Final

from pipeline.decide.protection import permit_of
from pipeline.decide.situation import Situation
from pipeline.decide.windows import closes_at
from pipeline.state.device import from_us
from schemas.decisions import Decision, Verdict
from schemas.fast.models import construct_unchecked
from schemas.jobs import (
    ENFORCEMENT_NOTICE,
    MAX_JOB_LIFETIME,
    SSH_METHODS,
    Action,
    Backup,
    Job,
    Method,
    RequiredBackup,
)
from schemas.signing import Signed

# A restart takes minutes. Few sources report a boot, and the update waits for the end of the job.
_RESTART_LASTS: Final = timedelta(days=1)
# The notice of an executor for a job without its own (`Job.notice_minutes`).
_USUAL_NOTICE_MINUTES: Final = 15
# The least time that an executor gets to begin, even if the window closes sooner.
_SHORTEST_START: Final = timedelta(minutes=30)


def build_job(s: Situation, decision: Decision, *, fast_paths: bool = True) -> Job:
    """Return the job of a decision to send.

    The caller ensures that the decision is one to send, of this Situation (else AssertionError).
    The executor must begin before `expires_at`, and a report of the Mac must confirm the result
    before `report_by`, a restart within a day. `expires_at` is at most the end of the open window,
    unless the deadline has passed, the job re-enrolls the Mac, or the window ends in less than 30
    minutes. Both are at most MAX_JOB_LIFETIME from now: executors refuse a longer job.
    """
    assert decision.decision is Verdict.SEND
    assert decision.site is not None
    assert decision.action is not None
    assert decision.method is not None
    limits = s.policy.thresholds
    reenrolls = decision.action is Action.REENROLL
    lasts = limits.reenroll_expires_after if reenrolls else limits.job_expires_after
    if decision.action is Action.RESTART:
        lasts = min(lasts, _RESTART_LASTS)
    report_by = s.now + min(max(lasts, _SHORTEST_START), MAX_JOB_LIFETIME)
    expires_at = report_by if reenrolls else min(report_by, _latest_start(s, decision))
    declared = decision.method is Method.DDM
    newest_us = s.device.newest_us
    values = {
        "job_id": decision.job_id or "",
        "udid": decision.udid,
        "serial": decision.serial,
        "site": decision.site,
        "action": decision.action,
        "method": decision.method,
        "intent": decision.intent or "",
        "target": decision.target,
        "generation": decision.generation or 0,
        "reason": decision.reason.value,
        "advisory_ids": decision.advisory_ids,
        "issued_at": s.now,
        "known_until": from_us(newest_us) if newest_us > s.now_us else None,
        "expires_at": expires_at,
        "report_by": report_by,
        "deadline_at": decision.deadline_at,
        "enforce_at": min(s.now + ENFORCEMENT_NOTICE, expires_at) if declared else None,
        "erases": decision.erases,
        "approval": _approval(s, decision),
        "notice_minutes": _notice_minutes(s, decision),
        "backup": _backup(s, decision),
        "permit": permit_of(s, decision.action, decision.method, erases=decision.erases),
        "site_macs": s.site_macs,
    }
    # Most jobs are updates. Their intent is a release's version and no text of the Mac's, so
    # validation could find nothing.
    unchecked = fast_paths and decision.action is Action.UPDATE
    return construct_unchecked(Job, values) if unchecked else Job(**values)


def _notice_minutes(s: Situation, decision: Decision) -> int | None:
    """Return the notice to the user at the screen; None for the usual one and for other methods."""
    minutes = s.policy.deadlines.notice_minutes
    if decision.method not in SSH_METHODS or minutes == _USUAL_NOTICE_MINUTES:
        return None
    return minutes


def _backup(s: Situation, decision: Decision) -> RequiredBackup | None:
    """Return the copy that the Mac must have before a reinstall or an erase; None for no need."""
    if decision.action not in (Action.REINSTALL, Action.REIMAGE):
        return None
    wanted = s.policy.backups
    kind = wanted.erase if decision.erases else wanted.reinstall
    if kind is None:
        return None
    minutes = int(wanted.max_age / timedelta(minutes=1))
    return RequiredBackup(kind=Backup(kind), max_age_minutes=minutes)


def _latest_start(s: Situation, decision: Decision) -> datetime:
    """Return the end of the open window, but at least 30 minutes from now.

    It is `job_expires_after` of the policy from now (at least 30 minutes) if the deadline has
    passed, no window is open, or the open one never closes.
    """
    is_past_deadline = decision.deadline_at is not None and s.now >= decision.deadline_at
    assert s.site is not None
    assert s.site_name is not None
    closes = (
        None
        if is_past_deadline
        else closes_at(s.policy.windows_of(s.site_name), s.site.zone, s.now)
    )
    if closes is None:
        return s.now + max(s.policy.thresholds.job_expires_after, _SHORTEST_START)
    return max(closes, s.now + _SHORTEST_START)


def _approval(s: Situation, decision: Decision) -> Signed | None:
    """Return the signed approval of the decision's job; None if the job erases nothing.

    A decision to send a job that erases the Mac always has one.
    """
    if not decision.erases:
        return None
    return next(
        granted.signed for granted in s.approvals if granted.approval.job_id == decision.job_id
    )
