"""The version of macOS that runs, where other knowledge is better than the newest reported version.

A build that was reported with the version, later, or without one, is that of a release in the
catalogue: programs built with an older SDK report the right build beside a version that macOS does
not have, and that version is not kept (`version_with_build`). A later build of another train than
the version leaves the version unknown.

A job is known to have installed its version, where only Jamf's record denies it.

Jamf's record of a Mac is as old as its last inventory, so it can have an older version than the one
that the job installed. macOS never goes back to an older version without an erase. MDM then reports
a new enrollment; of a Mac that Jamf alone manages only the later inventories show it, so a version
that Jamf reports more than JAMF_LAG after the job counts.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from pipeline.decide.situation import Situation
from pipeline.state.device import AUTHENTICATED, INDEX, duration_us
from pipeline.state.jobs import JobEntry
from schemas.macos import reaches, version_with_build
from schemas.results import Outcome

# By default Jamf takes an inventory once a day; a Mac may be off for one.
JAMF_LAG: Final = timedelta(days=2)
_JAMF_LAG_US: Final = duration_us(JAMF_LAG)
_VERSION, _BUILD = INDEX["os_version"], INDEX["build"]


def with_confirmed_version(s: Situation) -> Situation:
    """Return the Situation with the version that runs, as far as it is known.

    In order: that of a later build, then that of the last successful job. The same object if the
    newest reported version counts.
    """
    return _with_installed_version(_with_version_of_build(s))


def _with_version_of_build(s: Situation) -> Situation:
    """Return the Situation with the version of the newest reported build.

    The same object if the version was reported later, for a build of no known release whose train
    is that of the version, and if both were reported together and are of one release.
    """
    device = s.device
    build, version = device.build, device.os_version
    if build is None:
        return s
    found = s.advisories.version_of_build.get(build)
    if version is not None and device.reported_us("os_version") >= device.reported_us("build"):
        # One report: its build shows the release, but its version can have a supplement beside it.
        if found is None or found.release == version.release:
            return s
    elif found is None and version is not None:
        found = version_with_build(version, build)
    if found == version:
        return s
    values = list(device.values)
    values[_VERSION] = found
    return replace(s, device=device.with_values(tuple(values)))


def _with_installed_version(s: Situation) -> Situation:
    """Return the Situation with the version that the Mac's last successful job installed.

    `contradicted` is then the reported version. The same object if the report is not contradicted:
    it is of that release or a newer one, another source than Jamf may have sent it, the Mac
    enrolled again since the job, or the report is more than JAMF_LAG later than the end of the job.
    """
    entry = _last_installation(s)
    device = s.device
    if entry is None or entry.version is None or device.os_version is None:
        return s
    if reaches(device.os_version, device.build, entry.version, entry.build):
        return s
    enrolled_again = device.checkins[AUTHENTICATED] > entry.since_us
    is_news = device.reported_us("os_version") - entry.outcome_us > _JAMF_LAG_US
    if enrolled_again or is_news or not device.is_reported_by("os_version", "jamf"):
        return s
    values = list(device.values)
    values[_VERSION], values[_BUILD] = entry.version, entry.build
    confirmed = device.with_values(tuple(values))
    return replace(s, device=confirmed, contradicted=device.os_version)


def _last_installation(s: Situation) -> JobEntry | None:
    """Return the last job that succeeded in installing a system; None if there is none."""
    if not s.job_history:
        return None
    return next(
        (
            entry
            for entry in reversed(s.job_history)
            if entry.outcome is Outcome.SUCCEEDED and entry.version is not None
        ),
        None,
    )
