"""The version of macOS that a job is known to have installed, where only Jamf's record denies it.

Jamf's record of a Mac is as old as its last inventory, so it can have an older version than the one
that the job installed. macOS never goes back to an older version without an erase, which ends the
enrollment.
"""

from dataclasses import replace

from pipeline.decide.situation import Situation
from pipeline.state.device import AUTHENTICATED, INDEX
from pipeline.state.jobs import JobEntry
from schemas.macos import reaches
from schemas.results import Outcome

_VERSION, _BUILD = INDEX["os_version"], INDEX["build"]


def with_confirmed_version(s: Situation) -> Situation:
    """Return the Situation with the version that the Mac's last successful job installed.

    `contradicted` is then the reported version. The same object if the report is not contradicted:
    it is of that release or a newer one, another source than Jamf may have sent it, or the Mac
    enrolled again since the job.
    """
    entry = _last_installation(s)
    device = s.device
    if entry is None or entry.version is None or device.os_version is None:
        return s
    if reaches(device.os_version, device.build, entry.version, entry.build):
        return s
    enrolled_again = device.checkins[AUTHENTICATED] > entry.since_us
    if enrolled_again or not device.is_reported_by("os_version", "jamf"):
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
