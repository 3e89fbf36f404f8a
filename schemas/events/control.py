"""Decisions of operators: policy, halts, approvals, resets of attempts, identities of Macs."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, StringConstraints, model_validator

from schemas.ids import SiteField, TextField, UdidField
from schemas.model import WireModel
from schemas.results import ErrorCode
from schemas.signing import Signed


class PolicyChanged(WireModel):
    """A new policy is in force: its text, and the SHA-256 of the text."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    text: str
    by: TextField = "unknown"


class HaltScope(WireModel):
    """The scope of a halt: everything, one site, or the jobs of one advisory."""

    everything: bool = False
    site: SiteField | None = None
    advisory_id: TextField | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "HaltScope":
        if [self.everything, self.site is not None, self.advisory_id is not None].count(True) != 1:
            raise ValueError("a halt covers exactly one of: everything, a site, an advisory")
        return self

    @property
    def key(self) -> str:
        """The scope as text: `all`, `site:london` or `advisory:macOS-26.2`."""
        if self.everything:
            return "all"
        return f"site:{self.site}" if self.site else f"advisory:{self.advisory_id}"


class HaltSet(WireModel):
    """A halt was set: no new job starts in its scope. `until` None means until it is cleared."""

    scope: HaltScope
    by: TextField
    why: TextField = ""
    until: AwareDatetime | None = None


class HaltCleared(WireModel):
    """A halt was cleared: jobs may start again in its scope."""

    scope: HaltScope
    by: TextField


class ResetScope(WireModel):
    """The scope of a reset: everything, the jobs of one site, or one Mac by UDID or serial."""

    everything: bool = False
    site: SiteField | None = None
    device: UdidField | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "ResetScope":
        if [self.everything, self.site is not None, self.device is not None].count(True) != 1:
            raise ValueError("a reset covers exactly one of: everything, a site, a Mac")
        return self

    @property
    def key(self) -> str:
        """The scope as text: `all`, `site:london` or `device:C02XYZ`."""
        if self.everything:
            return "all"
        return f"site:{self.site}" if self.site else f"device:{self.device}"


class AttemptsReset(WireModel):
    """Failed attempts and rehearsals that ended before this event no longer hold a Mac.

    With `cause`, only jobs that failed with this code. `by` and `why` are the person's name and
    reason.
    """

    scope: ResetScope
    cause: ErrorCode | None = None
    by: TextField
    why: Annotated[TextField, StringConstraints(min_length=1)]

    @property
    def key(self) -> str:
        """The scope's key, with a cause after a space: of two resets of one key the later counts.

        Such as `site:london` or `site:london unreachable`.
        """
        return self.scope.key if self.cause is None else f"{self.scope.key} {self.cause.value}"


class IdentitySettled(WireModel):
    """A person settled which Mac a UDID or a serial number belongs to, by all reports so far.

    - `merge`: `device` is history, `other` is the Mac. `device` is a UDID whose logic board was
      exchanged, or an earlier serial number of `other`
    - `separate`: `device` and `other` are two Macs, although they share an identifier
    - `forget`: the reports of `device` no longer count, under its UDID or its serial number

    `by` and `why` are the person's name and reason.
    """

    settlement: Literal["merge", "separate", "forget"]
    device: UdidField
    other: UdidField | None = None
    by: TextField
    why: Annotated[TextField, StringConstraints(min_length=1)]

    @model_validator(mode="after")
    def _names_two_unless_it_forgets(self) -> "IdentitySettled":
        if (self.settlement == "forget") is not (self.other is None):
            raise ValueError("merge and separate name two identifiers, forget names one")
        if self.device == self.other:
            raise ValueError("the two identifiers are the same")
        return self

    @property
    def key(self) -> str:
        """The identifiers, sorted, with a space: of two settlements of one key the later counts."""
        return " ".join(sorted({self.device, self.other or self.device}))


class Approval(WireModel):
    """Permission of a person (`by`) for one erasing job on one Mac, valid until `expires_at`."""

    udid: UdidField
    job_id: TextField
    action: Literal["reinstall", "reimage"]
    by: TextField
    expires_at: AwareDatetime


class ApprovalGranted(WireModel):
    """An approval was granted. Executors check the approver's signature again."""

    approval: Approval
    signed: Signed


class ApprovalDenied(WireModel):
    """A person (`by`) refused a job, or withdrew its approval."""

    udid: UdidField
    job_id: TextField
    by: TextField
    why: TextField = ""
