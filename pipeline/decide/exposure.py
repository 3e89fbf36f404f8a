"""Exposure of one Mac: the releases it lacks, their severity, and its deadline.

| the Mac's line | releases it can install | releases that name its CVEs |
| --- | --- | --- |
| supported, or support unknown | newer ones of its line | newer ones of its line |
| unsupported | newer ones of its line | these, and later ones of the oldest supported line |
| version unknown | none | none |

Apple publishes no CVEs for an unsupported line, but a fix in the oldest supported line shows that
the unsupported line has the CVE too. A deadline counts from the later of two times: Apple's
release, and the time when Drydock first knew of it. The exposure has the earliest deadline of its
releases; `deadline_of` adds the grace of a new Mac.
"""

from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Final

import msgspec

from pipeline.decide.situation import Situation
from pipeline.policy.model import SEVERITY_ORDER, Deadlines
from pipeline.state.advisories import Missing, Release
from pipeline.state.device import AUTHENTICATED, duration_us, from_us, to_us
from schemas.decisions import Severity

_RANK: Final = {severity: rank for rank, severity in enumerate(SEVERITY_ORDER)}
_NOTHING: Final = Missing()


class Exposure(msgspec.Struct, frozen=True):
    """Releases that a Mac lacks: `line` of its own line, `cve_releases` all whose CVEs it has.

    They are the same object unless the Mac is on an unsupported line (see the table above).
    """

    line: Missing
    cve_releases: Missing

    @property
    def cves(self) -> tuple[str, ...]:
        """Every CVE to which the Mac is exposed, sorted."""
        return self.cve_releases.cves

    @property
    def severity(self) -> Severity:
        """The worst severity among the releases of `cve_releases`; `routine` if there are none."""
        return worst(self.cve_releases)

    @property
    def since_us(self) -> int:
        """The time of the first release of `cve_releases` with CVEs, in us since 1970; 0 for none.

        The later of Apple's release and the time when Drydock first knew of it. Cached, as the
        deadline is.
        """
        missing = self.cve_releases
        found: int | None = missing.cache.get("since")
        if found is None:
            times = (max(one.released_us, one.known_us) for one in missing.releases if one.cves)
            found = missing.cache["since"] = min(times, default=0)
        return found

    def deadline_us(self, deadlines: Deadlines, zone: tzinfo = UTC) -> int | None:
        """Return the earliest deadline of a release of `cve_releases`; None without a release.

        Microseconds since 1970. `zone` is the time zone of the Mac's site. Cached in
        `cve_releases`, which is one object for all Macs of a kind, for the last `deadlines`.
        """
        missing = self.cve_releases
        known: tuple[Deadlines, dict[tzinfo, int | None]] | None = missing.cache.get("due")
        if known is None or known[0] is not deadlines:
            known = missing.cache["due"] = (deadlines, {})
        by_zone = known[1]
        if zone not in by_zone:
            times = (due_us(one, deadlines, zone) for one in missing.releases)
            by_zone[zone] = min(times, default=None)
        return by_zone[zone]


_LOWEST: Final = Severity.ROUTINE
NO_EXPOSURE: Final = Exposure(_NOTHING, _NOTHING)


def severity_rank(severity: Severity) -> int:
    """Return the rank of a severity: a higher number is worse."""
    return _RANK[severity]


@lru_cache(maxsize=4096)
def worst(missing: Missing) -> Severity:
    """Return the worst severity among the missing releases; `routine` if none is missing."""
    return max((severity_of(one) for one in missing.releases), key=severity_rank, default=_LOWEST)


def exposure(s: Situation) -> Exposure:
    """Return the exposure of this Mac; empty if its macOS version is unknown."""
    device = s.device
    version = device.os_version
    if version is None:
        return NO_EXPOSURE
    line = s.advisories.missing(version.line, version, device.build, s.device_id)
    if s.line_is_supported is not False:
        return Exposure(line, line)
    cve_releases = s.advisories.missing_on_unsupported_line(
        version, device.build, s.device_id, s.supported_lines[-1]
    )
    return Exposure(line, cve_releases)


def severity_of(release: Release) -> Severity:
    """Return the severity of a release: `exploited` if one of its CVEs is, else its rating.

    Without a rating it is `high` if the release fixes CVEs, because unknown is not safe, and
    `routine` if it fixes none.
    """
    if release.exploited:
        return Severity.EXPLOITED
    if release.severity is not None:
        return Severity(release.severity)
    return Severity.HIGH if release.cves else Severity.ROUTINE


def zone_of(s: Situation) -> tzinfo:
    """Return the time zone of the Mac's site; UTC without a site."""
    return UTC if s.site is None else s.site.zone


def deadline_of(s: Situation, due_us: int | None) -> int | None:
    """Return the Mac's deadline for something due at `due_us`; None for None. In us since 1970.

    It is later if the Mac enrolled so recently that the policy's `after_enrollment` has not ended:
    a new Mac is not forced to restart on its first day.
    """
    grace = s.policy.deadlines.after_enrollment
    if due_us is None or not grace:
        return due_us
    enrolled_us = s.device.checkins[AUTHENTICATED]
    return max(due_us, enrolled_us + duration_us(grace)) if enrolled_us else due_us


def due_us(release: Release, deadlines: Deadlines, zone: tzinfo = UTC) -> int:
    """Return the time by which a Mac must have this release, in us since 1970.

    The earliest of: the time of its rated severity; the time of `exploited`, counted from the first
    known exploitation; and the end of CISA's due date at the site, whose time zone is `zone`, if
    the policy uses it. No period begins before Drydock knew of the release, and a due date that had
    passed by that time is ignored: otherwise a new installation would force a reboot of the whole
    fleet on its first day.
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
        for cve, utc_us in release.due.items():
            end_us = _local_us(utc_us, zone)
            if end_us > max(known_us, release.exploited.get(cve, 0)):
                due = min(due, end_us)
    return due


def _local_us(us: int, zone: tzinfo) -> int:
    """Return the time at which the clocks of a zone show what UTC shows at `us`."""
    return us if zone is UTC else to_us(from_us(us).replace(tzinfo=zone))
