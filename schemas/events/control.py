"""Decisions of operators.

They are policies, halts, approvals, resets of attempts, identities of Macs, and struck statements
about advisories.
"""

from typing import Annotated, Final, Literal, get_args

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from schemas.events.advisory import AdvisorySource
from schemas.ids import SerialField, SiteField, TextField, UdidField
from schemas.model import WireModel
from schemas.results import ErrorCode
from schemas.signing import Signed

# The author of what Drydock itself holds. No operator has this name: it cannot be the name of a
# login or of a key.
DRYDOCK_ITSELF: Final = "(drydock)"


class PolicyChanged(WireModel):
    """A new policy is in force: its text, and the SHA-256 of the text.

    `by` and `why` are the author's name and reason.
    """

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    text: str
    by: TextField = "unknown"
    why: TextField | None = None


class HaltScope(WireModel):
    """The scope of a halt: everything, one site, one action at a site, or one advisory's jobs.

    A reader that does not know `action` takes the halt of an action as that of its site.
    """

    everything: bool = False
    site: SiteField | None = None
    advisory_id: TextField | None = None
    # Left out if it is None: the halts in earlier records of decisions have no such member.
    action: Annotated[
        Literal["update", "upgrade", "reinstall", "reimage", "reenroll", "restart"] | None,
        Field(exclude_if=lambda action: action is None),
    ] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "HaltScope":
        if [self.everything, self.site is not None, self.advisory_id is not None].count(True) != 1:
            raise ValueError("a halt covers exactly one of: everything, a site, an advisory")
        if self.action is not None and self.site is None:
            raise ValueError("a halt of an action names its site")
        return self

    @property
    def key(self) -> str:
        """The scope as text: `all`, `site:london`, `site:london/update`, `advisory:macOS-26.2`."""
        if self.everything:
            return "all"
        if self.site is None:
            return f"advisory:{self.advisory_id}"
        return f"site:{self.site}" if self.action is None else f"site:{self.site}/{self.action}"

    def covers_jobs_of(self, site: str | None, action: str) -> bool:
        """Return True if the scope is a site, and covers its jobs for this action."""
        return self.site is not None and self.site == site and self.action in (None, action)


class HaltSet(WireModel):
    """A halt was set: no new job starts in its scope. `until` None means until it is cleared."""

    scope: HaltScope
    by: TextField
    why: TextField = ""
    until: AwareDatetime | None = None

    @property
    def is_automatic(self) -> bool:
        """True if Drydock itself halted an action at a site."""
        return self.by == DRYDOCK_ITSELF and self.scope.action is not None


class HaltCleared(WireModel):
    """A halt was cleared: jobs may start again in its scope."""

    scope: HaltScope
    by: TextField
    why: TextField | None = None


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


StruckList = Literal["builds", "cves", "exploited_cves", "device_ids"]
StruckField = StruckList | Literal["released_at", "expires_at", "severity", "kev_due_at"]
_LISTS: Final = frozenset(get_args(StruckList))


class StrikeScope(WireModel):
    """The scope of a strike: a source's statement about an advisory, or a part of it.

    The part is the value of a `field`, or, with `value`, one value of the list in the field.
    """

    advisory_id: TextField
    source: AdvisorySource
    field: StruckField | None = None
    value: TextField | None = None

    @model_validator(mode="after")
    def _value_is_of_a_list(self) -> "StrikeScope":
        if self.value is not None and self.field not in _LISTS:
            raise ValueError(f"a value is one of a list: {', '.join(sorted(_LISTS))}")
        return self

    @property
    def key(self) -> str:
        """The scope as text, such as `macOS-26.2 sofa cves CVE-2026-1000`."""
        parts = (self.advisory_id, self.source, self.field, self.value)
        return " ".join(part for part in parts if part is not None)


class Strike(StrikeScope):
    """A struck statement, or part of one, which has no effect.

    `sha256` identifies the struck content: other content of the source counts. It is None for one
    value of a list, which has no effect in any statement of the source.
    """

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _content_is_named(self) -> "Strike":
        if (self.sha256 is None) is not (self.value is not None):
            raise ValueError("a strike has either the value of a list or the SHA-256 of a content")
        return self

    @property
    def scope(self) -> StrikeScope:
        """The scope of the strike."""
        return StrikeScope(
            advisory_id=self.advisory_id, source=self.source, field=self.field, value=self.value
        )


class StrikeSet(WireModel):
    """A person struck statements of sources about advisories: they have no effect.

    `by` and `why` are the person's name and reason.
    """

    strikes: Annotated[tuple[Strike, ...], Field(min_length=1)]
    by: TextField
    why: Annotated[TextField, StringConstraints(min_length=1)]


class StrikeCleared(WireModel):
    """A person ended strikes: the statements count again.

    `by` and `why` are the person's name and reason.
    """

    scopes: Annotated[tuple[StrikeScope, ...], Field(min_length=1)]
    by: TextField
    why: Annotated[TextField, StringConstraints(min_length=1)]


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
    """Permission of a person (`by`) for one erasing job on one Mac, valid until `expires_at`.

    `serial`, `method` and `destroys` are what the person was shown: the Mac's serial number, the
    method of the job and what it destroys; `why` is the person's reason. The approval counts only
    for a job with this serial number and method. All four are missing in an approval of an older
    version.
    """

    udid: UdidField
    job_id: TextField
    action: Literal["reinstall", "reimage"]
    by: TextField
    expires_at: AwareDatetime
    serial: SerialField | None = None
    method: TextField | None = None
    destroys: TextField | None = None
    why: TextField | None = None


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
