"""Apple's releases, the CVEs that they fix, and the exploitation of those CVEs."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, StringConstraints

from schemas.ids import TextField
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel

CveField = Annotated[str, StringConstraints(pattern=r"^CVE-\d{4}-\d{4,}$")]
Severity = Literal["low", "medium", "high", "critical"]
AdvisorySource = Literal["sofa", "gdmf", "kev", "admin", "other"]


class AdvisorySnapshot(WireModel):
    """One source's complete data about one release at one time; a later snapshot replaces it.

    Platform and `os_version` identify the advisory.

    - `device_ids`: SoftwareUpdateDeviceIDs; None means every Mac that its line supports
    - `severity`: the highest severity of its CVEs, if the source rates them
    - `expires_at`: the time at which Apple stops offering the release
    - `kev_due_at`: CISA's due date. The KEV catalogue knows only CVEs: it has this date, and no
      `os_line` or `os_version`.
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
    """A release was published."""


class AdvisorySeverityRaised(AdvisorySnapshot):
    """More CVEs of a release are exploited, or they are rated higher; the version is the same."""


class AdvisoryNarrowed(AdvisorySnapshot):
    """A release applies to fewer Macs than its earlier snapshot listed."""


class AdvisoryCorrected(AdvisorySnapshot):
    """The source changed the CVEs of a release, or no longer calls some of them exploited."""


class AdvisoryRetracted(AdvisorySnapshot):
    """The source no longer offers a release. A later snapshot offers it again."""
