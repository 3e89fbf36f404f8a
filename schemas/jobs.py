"""What an executor is asked to do to one Mac."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, model_validator

from schemas.events.control import HaltScope
from schemas.ids import SerialField, SiteField, TextField, UdidField, derive_job_id
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel
from schemas.signing import Signed


class Action(StrEnum):
    """What a Mac needs."""

    UPDATE = "update"
    UPGRADE = "upgrade"
    REINSTALL = "reinstall"
    REIMAGE = "reimage"
    REENROLL = "reenroll"


class Method(StrEnum):
    """How it is done; never two at once on one Mac."""

    DDM = "ddm"
    MDM_COMMAND = "mdm_command"
    SOFTWAREUPDATE = "softwareupdate"
    STARTOSINSTALL = "startosinstall"
    ERASE_DEVICE = "erase_device"
    ASR = "asr"
    PROFILES_RENEW = "profiles_renew"


MDM_METHODS = frozenset({Method.DDM, Method.MDM_COMMAND, Method.ERASE_DEVICE})


class Target(WireModel):
    """The release wanted on the Mac; `build` None where any build of the version will do."""

    version: OSVersionField
    build: BuildField | None = None

    @property
    def key(self) -> str:
        """`26.2/25C56`, or `26.2/` without a build."""
        return f"{self.version}/{self.build or ''}"

    def to_wire(self) -> dict[str, str | None]:
        """The target as JSON values."""
        build = self.build
        return {"version": str(self.version), "build": None if build is None else str(build)}


class Job(WireModel):
    """One order: this action, by this method, on this Mac, by its site's executor.

    `intent` is what the id is derived from besides UDID, action and generation: the target's
    version, or what a re-enrolment or a reinstall answers. `enforce_at` is when the Mac itself
    must install (a DDM declaration's deadline). After `expires_at` no executor starts it; after
    `report_by` nobody waits for the Mac's report any more. `erases` jobs need an approval.
    `advisory_ids` let a halt on an advisory find it. `known_until`, told where it is later than
    `issued_at`, is the newest moment of which anything was known of the Mac: some clock is ahead of
    ours, and only what is told of later moments than both can show that the job was done.
    """

    job_id: TextField
    udid: UdidField
    serial: SerialField | None = None
    site: SiteField
    action: Action
    method: Method
    intent: TextField
    target: Target | None = None
    generation: Annotated[int, Field(ge=0)] = 0
    reason: TextField
    advisory_ids: tuple[TextField, ...] = ()
    issued_at: AwareDatetime
    known_until: AwareDatetime | None = None
    expires_at: AwareDatetime
    report_by: AwareDatetime | None = None
    deadline_at: AwareDatetime | None = None
    enforce_at: AwareDatetime | None = None
    erases: bool = False
    approval: Signed | None = None

    @model_validator(mode="after")
    def _id_is_derived(self) -> "Job":
        if self.job_id != derive_job_id(self.udid, self.action, self.intent, self.generation):
            raise ValueError("job_id is not derived from udid, action, intent and generation")
        if self.expires_at <= self.issued_at:
            raise ValueError("expires_at is not after issued_at")
        return self

    def halted_by(self, scope: HaltScope) -> bool:
        """Whether a halt of this scope covers the job."""
        if scope.everything:
            return True
        if scope.site is not None:
            return scope.site == self.site
        return scope.advisory_id in self.advisory_ids


class JobIssued(WireModel):
    """A job was published, with the signature that executors check."""

    job: Job
    signed: Signed


class JobSuperseded(WireModel):
    """The job's intent no longer stands; an executor that has not touched the Mac drops it."""

    job_id: TextField
    udid: UdidField
    site: SiteField
    by: TextField = ""


def job_fields(job: Job) -> dict[str, Any]:
    """What `fast_json` makes the bytes of `job.model_dump_json(exclude_none=True)` from."""
    fields = {name: value for name, value in job.__dict__.items() if value is not None}
    if job.target is not None:
        wire = job.target.to_wire()
        fields["target"] = {name: text for name, text in wire.items() if text is not None}
    return fields
