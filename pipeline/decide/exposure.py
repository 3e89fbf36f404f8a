"""What a Mac is exposed to, how bad it is, and by when it must be mended."""

from functools import lru_cache
from typing import Final

import msgspec

from pipeline.decide.policy import SEVERITY_ORDER, Deadlines
from pipeline.decide.situation import Situation
from pipeline.state.advisories import Missing, Release
from pipeline.state.device import duration_us
from schemas.decisions import Severity

_RANK: Final = {severity: rank for rank, severity in enumerate(SEVERITY_ORDER)}
_NOTHING: Final = Missing()


class Exposure(msgspec.Struct, frozen=True):
    """What the Mac's own line offers it (`line`), and what its holes come from (`holes`).

    On a supported line they are the same. On a dead one the holes are what Apple has since fixed
    in the oldest supported line: nobody lists them for the dead one.
    """

    line: Missing
    holes: Missing

    @property
    def cves(self) -> tuple[str, ...]:
        """Every CVE the Mac is exposed to."""
        return self.holes.cves

    @property
    def severity(self) -> Severity:
        """The worst of them."""
        return worst(self.holes)

    def deadline_us(self, deadlines: Deadlines) -> int | None:
        """When the first of the releases must be on the Mac; None if it lacks none."""
        missing = self.holes
        known: tuple[Deadlines, int | None] | None = missing.cache.get("due")
        if known is None or known[0] is not deadlines:
            due = min((due_us(one, deadlines) for one in missing.releases), default=None)
            known = missing.cache["due"] = (deadlines, due)
        return known[1]


_LOWEST: Final = Severity.ROUTINE


def severity_rank(severity: Severity) -> int:
    """The place of a severity in their order: the higher, the worse."""
    return _RANK[severity]


@lru_cache(maxsize=4096)
def worst(missing: Missing) -> Severity:
    """How bad the worst of the releases that a kind of Mac lacks is."""
    return max((severity_of(one) for one in missing.releases), key=severity_rank, default=_LOWEST)


def exposure(s: Situation) -> Exposure:
    """What this Mac lacks."""
    device = s.device
    version = device.os_version
    if version is None:
        return Exposure(_NOTHING, _NOTHING)
    line = s.advisories.missing(version.line, version, device.build, device.device_id)
    if s.line_is_supported is not False:
        return Exposure(line, line)
    holes = s.advisories.missing_on_dead_line(
        version, device.build, device.device_id, s.supported_lines[-1]
    )
    return Exposure(line, holes)


def severity_of(release: Release) -> Severity:
    """How bad what it fixes is. CVEs that nobody rated count as high: unknown is not harmless."""
    if release.exploited:
        return Severity.EXPLOITED
    if release.severity is not None:
        return Severity(release.severity)
    return Severity.HIGH if release.cves else Severity.ROUTINE


def due_us(release: Release, deadlines: Deadlines) -> int:
    """When a Mac must have this release.

    Counted from when Drydock could know: on the day it is put into service, everything released
    before is new to it, and no fleet is rebooted because of dates that passed unseen.
    """
    known_us = max(release.released_us, release.known_us)
    rated = Severity.ROUTINE
    if release.severity is not None:
        rated = Severity(release.severity)
    elif release.cves:
        rated = Severity.HIGH
    due = known_us + duration_us(deadlines.for_severity(rated))
    if release.exploited:
        first_us = max(known_us, min(release.exploited.values()))
        due = min(due, first_us + duration_us(deadlines.exploited))
    if deadlines.kev_due_dates:
        due = min((due, *(one for one in release.due.values() if one > known_us)))
    return due
