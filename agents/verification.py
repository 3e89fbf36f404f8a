"""Verification of a job that arrives: signature, bytes, site, expiry, approval. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from agents.preflight import erases
from runtime.trusted_keys import KeyRing
from schemas.jobs import MAX_JOB_LIFETIME, Job, JobIssued
from schemas.results import ErrorCode, Outcome
from schemas.signed_payloads import verify_approval, verify_job_signer
from schemas.signing import SignatureError


@dataclass(frozen=True, slots=True)
class Proven:
    """A job read from its signed bytes, and the id of the key that signed it.

    `approved_until` is the expiry of its approval, None if it needs no approval.
    """

    job: Job
    signed_by: str
    approved_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason not to run a job, in the form of its result.

    `is_proven` is False if a trusted key did not sign the job for this site: anyone who can write
    the topic could have made the record, with the id of any job.
    """

    outcome: Outcome
    error_code: ErrorCode
    detail: str
    is_proven: bool = True


class NotYetValidError(Exception):
    """The job was issued too far in the future by this program's clock: one of both is wrong.

    It is neither run nor refused. The pipeline offers it again.
    """


# Clocks with NTP differ by less than a second; a day is more than any wrong time zone.
MAX_AHEAD: Final = timedelta(days=1)


def examine(issued: JobIssued, site: str, keys: KeyRing, now: datetime) -> Proven | Refusal:
    """Return Proven for a job that may run, otherwise Refusal with the first check that failed.

    Checks in this order: signature, `job` equal to the signed bytes, site, lifetime, expiry at
    `now`, and for an erasing job the approval. The outcome of a refusal is EXPIRED for the expiry,
    else REFUSED. Raises NotYetValidError if the job was issued more than MAX_AHEAD after `now`.
    """
    try:
        job, signed_by = verify_job_signer(issued.signed, keys.jobs)
    except SignatureError as error:
        return _unproven(ErrorCode.BAD_SIGNATURE, str(error))
    if job != issued.job:
        return _unproven(ErrorCode.BAD_SIGNATURE, "the job differs from the signed bytes")
    if job.site != site:
        return _unproven(ErrorCode.WRONG_SITE, f"signed for {job.site}")
    if job.expires_at - job.issued_at > MAX_JOB_LIFETIME:
        detail = f"it lasts longer than {MAX_JOB_LIFETIME.days} days"
        return Refusal(Outcome.REFUSED, ErrorCode.LIFETIME_TOO_LONG, detail)
    if job.issued_at > now + MAX_AHEAD:
        raise NotYetValidError(f"issued at {job.issued_at}, a day ahead of the clock")
    if now >= job.expires_at:
        return Refusal(Outcome.EXPIRED, ErrorCode.EXPIRED, "arrived after it expired")
    if not erases(job):
        return Proven(job, signed_by)
    return _approved(job, signed_by, keys, now)


def revocation(job: Job, signed_by: str, keys: KeyRing) -> Refusal | None:
    """Return the refusal of an accepted job whose keys are no longer trusted; None if they are.

    Checks the key that signed the job, unless `signed_by` is empty, and the one of its approval.
    """
    if signed_by and signed_by not in keys.jobs:
        detail = f"the key {signed_by} is no longer trusted"
        return Refusal(Outcome.REFUSED, ErrorCode.BAD_SIGNATURE, detail)
    if erases(job) and job.approval is not None:
        try:
            verify_approval(job.approval, keys.approvals)
        except SignatureError:
            return _unapproved("the approver's key is no longer trusted")
    return None


def _unproven(code: ErrorCode, detail: str) -> Refusal:
    return Refusal(Outcome.REFUSED, code, detail, is_proven=False)


def _approved(job: Job, signed_by: str, keys: KeyRing, now: datetime) -> Proven | Refusal:
    """Return Proven with the expiry of the approval, or Refusal with the code `no_approval`.

    The approval of an erasing job must be signed by a trusted key, name this job, its Mac and its
    action, the Mac's serial number and the method if it names any, end within MAX_JOB_LIFETIME of
    the issue, and not be expired at `now`.
    """
    if job.approval is None:
        return _unapproved("an erasing job without an approval")
    try:
        approval = verify_approval(job.approval, keys.approvals)
    except SignatureError as error:
        return _unapproved(f"the approval's signature: {error}")
    if (approval.udid, approval.job_id) != (job.udid, job.job_id):
        return _unapproved("the approval is for another Mac or job")
    if approval.action != job.action.value:
        return _unapproved(f"the approval is for a {approval.action}")
    if approval.serial is not None and approval.serial != job.serial:
        return _unapproved(f"the approval is for the serial number {approval.serial}")
    if approval.method is not None and approval.method != job.method.value:
        return _unapproved(f"the approval is for the method {approval.method}")
    if approval.expires_at > job.issued_at + MAX_JOB_LIFETIME:
        return _unapproved(f"the approval lasts longer than {MAX_JOB_LIFETIME.days} days")
    if now >= approval.expires_at:
        return _unapproved("the approval ran out")
    return Proven(job, signed_by, approval.expires_at)


def _unapproved(detail: str) -> Refusal:
    return Refusal(Outcome.REFUSED, ErrorCode.NO_APPROVAL, detail)
