"""What Apple released, and what is known of its holes."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, StringConstraints

from schemas.ids import TextField
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel

CveField = Annotated[str, StringConstraints(pattern=r"^CVE-\d{4}-\d{4,}$")]
Severity = Literal["low", "medium", "high", "critical"]
AdvisorySource = Literal["sofa", "gdmf", "kev", "admin", "other"]


class AdvisorySnapshot(WireModel):
    """All that a source says of one release at one moment; a later snapshot replaces it.

    An advisory is (platform, os_version). `device_ids` None means every Mac its line supports;
    a list names SoftwareUpdateDeviceIDs. `severity` is the worst of its CVEs, where the source
    rates them. `expires_at` is when Apple stops offering it. A source that knows only CVEs (the
    KEV catalogue) leaves `os_line` and `os_version` out and dates them with `kev_due_at`.
    """

    source: AdvisorySource
    platform: Literal["macOS"] = "macOS"
    os_line: TextField | None = None
    os_version: OSVersionField | None = None
    builds: tuple[BuildField, ...] = ()
    released_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    cves: tuple[CveField, ...] = ()
    exploited_cves: tuple[CveField, ...] = ()
    severity: Severity | None = None
    device_ids: tuple[TextField, ...] | None = None
    url: TextField | None = None
    kev_due_at: AwareDatetime | None = None


class AdvisoryPublished(AdvisorySnapshot):
    """A release appeared."""


class AdvisorySeverityRaised(AdvisorySnapshot):
    """More of its CVEs are exploited, or they are rated worse, with no new version."""


class AdvisoryNarrowed(AdvisorySnapshot):
    """It applies to fewer Macs than was said."""


class AdvisoryRetracted(AdvisorySnapshot):
    """The source no longer offers it. A later snapshot offers it again."""
