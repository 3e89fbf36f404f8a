"""What came of a job."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from schemas.ids import SiteField, TextField, UdidField
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel


class Outcome(StrEnum):
    """Progress of an attempt, or its end. Only the Mac's later report makes a `succeeded`."""

    ACCEPTED = "accepted"
    STARTED = "started"
    PROGRESSED = "progressed"
    ACTED = "acted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


FINAL_OUTCOMES = frozenset(
    {Outcome.SUCCEEDED, Outcome.FAILED, Outcome.REFUSED, Outcome.EXPIRED, Outcome.SUPERSEDED}
)


class ErrorCode(StrEnum):
    """Why a job did not do what it was for."""

    BAD_SIGNATURE = "bad_signature"
    WRONG_SITE = "wrong_site"
    EXPIRED = "expired"
    NO_APPROVAL = "no_approval"
    SUPERSEDED = "superseded"
    UNREACHABLE = "unreachable"
    NO_DISK_SPACE = "no_disk_space"
    LOW_POWER = "low_power"
    NOT_ENROLLED = "not_enrolled"
    NO_VOLUME_OWNER = "no_volume_owner"
    NO_BOOTSTRAP_TOKEN = "no_bootstrap_token"
    DOWNLOAD_FAILED = "download_failed"
    INSTALL_FAILED = "install_failed"
    COMMAND_REJECTED = "command_rejected"
    NOTHING_HAPPENED = "nothing_happened"
    NO_REPORT = "no_report"
    USER_DECLINED = "user_declined"
    UNSUPPORTED = "unsupported"
    BUG = "bug"


class JobResult(WireModel):
    """One step of one attempt, told by the site's executor.

    `job_id` + `attempt` + `outcome` + `percent` identify it. `attempt` counts from 1. The observed
    fields are what the executor saw on the Mac, never what it hoped for.
    """

    job_id: TextField
    udid: UdidField
    site: SiteField
    outcome: Outcome
    attempt: Annotated[int, Field(ge=0)] = 1
    error_code: ErrorCode | None = None
    detail: TextField = ""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    observed_version: OSVersionField | None = None
    observed_build: BuildField | None = None
    observed_boot_at: AwareDatetime | None = None
