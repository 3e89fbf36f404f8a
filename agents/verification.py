"""Verification of a job that arrives: signature, bytes, site, expiry, approval. Pure."""

from dataclasses import dataclass
from datetime import datetime

from agents.preflight import erases
from runtime.trusted_keys import KeyRing
from schemas.jobs import Job, JobIssued
from schemas.results import ErrorCode, Outcome
from schemas.signed_payloads import verify_approval, verify_job
from schemas.signing import SignatureError


@dataclass(frozen=True, slots=True)
class Proven:
    """A job read from its signed bytes.

    `approved_until` is the expiry of its approval, None if it needs no approval.
    """

    job: Job
    approved_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason not to run a job, in the form of its result."""

    outcome: Outcome
    error_code: ErrorCode
    detail: str


def examine(issued: JobIssued, site: str, keys: KeyRing, now: datetime) -> Proven | Refusal:
    """Return Proven for a job that may run, otherwise Refusal with the first check that failed.

    Checks in this order: signature, `job` equal to the signed bytes, site, expiry at `now`, and for
    an erasing job the approval. The outcome of a refusal is EXPIRED for the expiry, else REFUSED.
    """
    try:
        job = verify_job(issued.signed, keys.jobs)
    except SignatureError as error:
        return Refusal(Outcome.REFUSED, ErrorCode.BAD_SIGNATURE, str(error))
    if job != issued.job:
        detail = "the job differs from the signed bytes"
        return Refusal(Outcome.REFUSED, ErrorCode.BAD_SIGNATURE, detail)
    if job.site != site:
        return Refusal(Outcome.REFUSED, ErrorCode.WRONG_SITE, f"signed for {job.site}")
    if now >= job.expires_at:
        return Refusal(Outcome.EXPIRED, ErrorCode.EXPIRED, "arrived after it expired")
    if not erases(job):
        return Proven(job)
    return _approved(job, keys, now)


def _approved(job: Job, keys: KeyRing, now: datetime) -> Proven | Refusal:
    """Return Proven with the expiry of the approval, or Refusal with the code `no_approval`.

    The approval of an erasing job must be signed by a trusted key, name this job, its Mac and its
    action, and not be expired at `now`.
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
    if now >= approval.expires_at:
        return _unapproved("the approval ran out")
    return Proven(job, approval.expires_at)


def _unapproved(detail: str) -> Refusal:
    return Refusal(Outcome.REFUSED, ErrorCode.NO_APPROVAL, detail)
