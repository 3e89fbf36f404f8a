"""What people decided: policy, halts, approvals."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, StringConstraints, model_validator

from schemas.ids import SiteField, TextField, UdidField
from schemas.model import WireModel
from schemas.signing import Signed


class PolicyChanged(WireModel):
    """The policy in force from now on: its text and the SHA-256 of the text."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    text: str
    by: TextField = "unknown"


class HaltScope(WireModel):
    """What a halt covers: everything, one site, or one advisory's jobs."""

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
        """`all`, `site:london` or `advisory:macOS-26.2`."""
        if self.everything:
            return "all"
        return f"site:{self.site}" if self.site else f"advisory:{self.advisory_id}"


class HaltSet(WireModel):
    """No new work starts in this scope; `until` None means until it is cleared."""

    scope: HaltScope
    by: TextField
    why: TextField = ""
    until: AwareDatetime | None = None


class HaltCleared(WireModel):
    """Work may start again in this scope."""

    scope: HaltScope
    by: TextField


class Approval(WireModel):
    """Somebody allows one destructive job on one Mac until `expires_at`."""

    udid: UdidField
    job_id: TextField
    action: Literal["reinstall", "reimage"]
    by: TextField
    expires_at: AwareDatetime


class ApprovalGranted(WireModel):
    """An approval, with the approver's signature that the executor checks again."""

    approval: Approval
    signed: Signed


class ApprovalDenied(WireModel):
    """Somebody refuses a job, or takes an approval back."""

    udid: UdidField
    job_id: TextField
    by: TextField
    why: TextField = ""
