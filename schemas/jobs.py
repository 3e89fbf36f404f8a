"""Jobs: signed instructions, each to carry out one action on one Mac."""

import hashlib
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AwareDatetime, Field, model_validator

from schemas.events.control import HaltScope
from schemas.ids import SerialField, SiteField, TextField, UdidField, derive_job_id
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel
from schemas.signing import Signed


class Action(StrEnum):
    """The kind of a remediation."""

    UPDATE = "update"
    UPGRADE = "upgrade"
    REINSTALL = "reinstall"
    REIMAGE = "reimage"
    REENROLL = "reenroll"
    RESTART = "restart"
    ACTIVATE = "activate"


# The actions that install a system: they need disk space, power and a slot of their site.
INSTALLATIONS = frozenset({Action.UPDATE, Action.UPGRADE, Action.REINSTALL, Action.REIMAGE})


class Method(StrEnum):
    """The ways to carry out an action. A Mac never has two at work at the same time."""

    DDM = "ddm"
    MDM_COMMAND = "mdm_command"
    SOFTWAREUPDATE = "softwareupdate"
    STARTOSINSTALL = "startosinstall"
    ERASE_DEVICE = "erase_device"
    ASR = "asr"
    PROFILES_RENEW = "profiles_renew"
    INSTALL_PROFILE = "install_profile"
    RESTART_DEVICE = "restart_device"
    RESTART_UPDATE_SERVICE = "restart_update_service"
    ACTIVATION_COMMAND = "activation_command"


MDM_METHODS = frozenset(
    {
        Method.DDM,
        Method.MDM_COMMAND,
        Method.ERASE_DEVICE,
        Method.INSTALL_PROFILE,
        Method.RESTART_DEVICE,
    }
)
# The site's executor logs in to the Mac for these.
SSH_METHODS = frozenset(
    {
        Method.SOFTWAREUPDATE,
        Method.STARTOSINSTALL,
        Method.ASR,
        Method.PROFILES_RENEW,
        Method.RESTART_UPDATE_SERVICE,
        Method.ACTIVATION_COMMAND,
    }
)


ERASING_METHODS: Final = frozenset({Method.ERASE_DEVICE, Method.ASR})
DESTRUCTIVE_METHODS: Final = ERASING_METHODS | {Method.STARTOSINSTALL}
_DESTRUCTIVE_ACTIONS: Final = frozenset({Action.REINSTALL, Action.REIMAGE})


# From issue to expiry: an executor refuses a job that lasts longer.
MAX_JOB_LIFETIME: Final = timedelta(days=31)
# macOS shows the user a countdown before it forces a declared update; this leaves time for it.
ENFORCEMENT_NOTICE: Final = timedelta(hours=1)


def is_destructive(action: Action, method: Method | None, *, erases: bool) -> bool:
    """Return True for work that erases or reinstalls a Mac, by its flag, method or action."""
    return erases or method in DESTRUCTIVE_METHODS or action in _DESTRUCTIVE_ACTIONS


class Backup(StrEnum):
    """The kinds of a copy that a Mac must have before destructive work."""

    SNAPSHOT = "snapshot"  # an APFS snapshot on its own disk, which no erase leaves
    TIME_MACHINE = "time_machine"  # a complete backup by Time Machine


class Permit(StrEnum):
    """Why the site's policy permits a job to erase or reinstall its Mac (`sites.*.destructive`)."""

    CANARY = "canary"  # the policy names the Mac
    SHARE = "share"  # the Mac is in the policy's share of the site


class RequiredBackup(WireModel):
    """A copy of the Mac, not older than `max_age_minutes`, without which the job is not begun."""

    kind: Backup
    max_age_minutes: Annotated[int, Field(gt=0)]


class Target(WireModel):
    """The release to install; with `build` None, any build of the version."""

    version: OSVersionField
    build: BuildField | None = None

    @property
    def key(self) -> str:
        """The target as text: `26.2/25C56`, or `26.2/` without a build."""
        return f"{self.version}/{self.build or ''}"

    def to_wire(self) -> dict[str, str | None]:
        """Return `version` and `build` as texts; `build` is None for any build."""
        build = self.build
        return {"version": str(self.version), "build": None if build is None else str(build)}


class Job(WireModel):
    """One instruction to a site's executor: one action by one method on one Mac.

    - `intent`: the target's version, the cause of a reinstall, restart or re-enrollment, or the
      name of an activation (`schemas.activations`). The id is derived from UDID, action, intent and
      generation.
    - `enforce_at`: the time at which the Mac itself must install (the deadline in a DDM
      declaration); an order less than an hour before it declares an hour later, but no time after
      `expires_at`.
    - `expires_at`: after it no executor starts the job.
    - `report_by`: if the job was begun and no report of the Mac confirms it until then, it has
      failed; None means `expires_at`.
    - `erases`: True if the Mac is erased; the job then needs an approval.
    - `advisory_ids`: a halt of one of these advisories covers the job.
    - `notice_minutes`: time between a notice to the user at the screen and an installation over
      SSH; None means 15.
    - `backup`: the copy that the Mac must have before the order; None: none is needed.
    - `known_until`: the time of the newest record of the Mac, present only if it is later than
      `issued_at`, because a sender's clock is ahead. Only a record that is later than both proves
      that the job was done.
    - `permit`: why the policy permits this job to erase or reinstall the Mac; None for other jobs,
      and if the policy leaves that to the site's file.
    - `site_macs`: the confirmed Macs of the site that the issuer of the job knows: on Kafka those
      of the Mac's partition. Dispatch adds them up for the jobs an hour of the site.
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
    notice_minutes: Annotated[int, Field(ge=0, le=120)] | None = None
    backup: RequiredBackup | None = None
    permit: Permit | None = None
    site_macs: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _id_is_derived(self) -> "Job":
        """Return the job unchanged.

        Raises ValueError if its id is not the derived one, or `expires_at` is not after
        `issued_at`.
        """
        if self.job_id != derive_job_id(self.udid, self.action, self.intent, self.generation):
            raise ValueError("job_id is not derived from udid, action, intent and generation")
        if self.expires_at <= self.issued_at:
            raise ValueError("expires_at is not after issued_at")
        return self

    def halted_by(self, scope: HaltScope) -> bool:
        """Return True if a halt of this scope covers the job.

        The scope is everything, one site, one action at a site, or one advisory, which must be in
        `advisory_ids`.
        """
        if scope.everything:
            return True
        if scope.site is not None:
            return scope.covers_jobs_of(self.site, self.action)
        return scope.advisory_id in self.advisory_ids


class JobIssued(WireModel):
    """A job was published, with the signature that executors check."""

    job: Job
    signed: Signed

    @property
    def sha256(self) -> str:
        """The SHA-256 of the job and its envelope as JSON, in hex: equal for equal records only."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()


class JobSuperseded(WireModel):
    """A job was withdrawn: an executor that has not yet touched the Mac drops it."""

    job_id: TextField
    udid: UdidField
    site: SiteField
    by: TextField = ""
