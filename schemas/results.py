"""Results of jobs, as executors and Drydock itself report them."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from schemas.ids import SiteField, TextField, UdidField
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel


class Outcome(StrEnum):
    """Progress of an attempt, or its end.

    A job has `succeeded` only if a later report of the Mac shows it; an executor's own `succeeded`
    counts as `acted`. `withheld`: the site is in dry run, the order would have been given and was
    not. `rehearsed`: the job was withheld, and the time that it would have taken is over.
    """

    ACCEPTED = "accepted"
    WITHHELD = "withheld"
    STARTED = "started"
    PROGRESSED = "progressed"
    ACTED = "acted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    REHEARSED = "rehearsed"


FINAL_OUTCOMES = frozenset(
    {
        Outcome.SUCCEEDED,
        Outcome.FAILED,
        Outcome.REFUSED,
        Outcome.EXPIRED,
        Outcome.SUPERSEDED,
        Outcome.REHEARSED,
    }
)


class ErrorCode(StrEnum):
    """The closed set of reasons for a job that did not succeed."""

    BAD_SIGNATURE = "bad_signature"
    WRONG_SITE = "wrong_site"
    LIFETIME_TOO_LONG = "lifetime_too_long"
    EXPIRED = "expired"
    NO_APPROVAL = "no_approval"
    HISTORY_UNKNOWN = "history_unknown"
    SUPERSEDED = "superseded"
    NEWER_JOB = "newer_job"
    UNREACHABLE = "unreachable"
    NO_DISK_SPACE = "no_disk_space"
    LOW_POWER = "low_power"
    NOT_ENROLLED = "not_enrolled"
    ENROLLMENT_ENDED = "enrollment_ended"
    NO_VOLUME_OWNER = "no_volume_owner"
    NO_BACKUP = "no_backup"
    NO_BOOTSTRAP_TOKEN = "no_bootstrap_token"
    DOWNLOAD_FAILED = "download_failed"
    INSTALL_FAILED = "install_failed"
    COMMAND_REJECTED = "command_rejected"
    NOTHING_HAPPENED = "nothing_happened"
    NO_REPORT = "no_report"
    USER_DECLINED = "user_declined"
    UNSUPPORTED = "unsupported"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    LOCKED = "locked"
    NO_MDM_SERVER = "no_mdm_server"
    MDM_LOGIN_REFUSED = "mdm_login_refused"
    MDM_SERVER_REFUSED = "mdm_server_refused"
    SSH_LOGIN_REFUSED = "ssh_login_refused"
    HOST_KEY_UNKNOWN = "host_key_unknown"
    WRONG_DEVICE = "wrong_device"
    UPDATE_NOT_OFFERED = "update_not_offered"
    UPDATE_DEFERRED = "update_deferred"
    UPDATE_SERVER_UNREACHABLE = "update_server_unreachable"
    INSTALLER_UNAVAILABLE = "installer_unavailable"
    INSTALLER_CORRUPT = "installer_corrupt"
    IMAGE_UNFIT = "image_unfit"
    ACTIVATION_FAILED = "activation_failed"
    NOT_DELIVERED = "not_delivered"
    PUSH_FAILED = "push_failed"
    COMMAND_LOST = "command_lost"
    QUEUE_CLEARED = "queue_cleared"
    DECLARATION_INVALID = "declaration_invalid"
    ERASE_IMPOSSIBLE = "erase_impossible"
    NO_ERASE_PIN = "no_erase_pin"
    ERASE_OUTSTANDING = "erase_outstanding"
    NOT_REENROLLED = "not_reenrolled"
    NOT_USER_APPROVED = "not_user_approved"
    HALTED = "halted"
    BUG = "bug"


class JobResult(WireModel):
    """One step of one attempt, reported by the site's executor.

    `job_id`, `attempt`, `outcome` and `percent` together identify it. `attempt` counts from 1; it
    is 0 in a result that Drydock infers from the Mac's reports. The `observed_` fields are read
    from the Mac; they are never copied from the job's target. `order_sha256` is present if the
    executor could not prove that Drydock issued the job for its site: the result then counts only
    for the job whose record has this SHA-256 (`JobIssued.sha256`).
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
    order_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
