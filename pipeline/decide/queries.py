"""Queries that a Mac needs: over MDM it reports its version only when it is queried. Pure.

| query | fields | due after the oldest of their newest reports |
| --- | --- | --- |
| DeviceInformation | `os_version`, `supervised` | EVERY |
| DeviceInformation, with an open job | `os_version` | OPEN_JOB_EVERY |
| SecurityInfo | `user_approved` | EVERY |
| ProfileList, while `follow_up` waits for a profile | `profiles` | OPEN_JOB_EVERY |
| CertificateList | `identity_expires_at` | EVERY |

A field that was never reported is due at once: an enrollment reports the version, but not the
supervision. A report of another source counts too. Reports and queries from before the last
Authenticate are of an ended enrollment: they do not count.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pipeline.decide.needs.reinstall_history import profiles_missing
from pipeline.decide.protection import is_retired
from pipeline.decide.situation import Situation
from pipeline.state.device import AUTHENTICATED, duration_us
from schemas.queries import QueryKind

# An update shows its success only in the version: later queries would hold the site's capacity.
OPEN_JOB_EVERY: Final = timedelta(hours=1)
EVERY: Final = timedelta(hours=24)
_FIELDS: Final = {
    QueryKind.DEVICE_INFORMATION: ("os_version", "supervised"),
    QueryKind.SECURITY_INFO: ("user_approved",),
    QueryKind.PROFILE_LIST: ("profiles",),
    QueryKind.CERTIFICATE_LIST: ("identity_expires_at",),
}
_URGENT_FIELDS: Final = ("os_version",)


@dataclass(frozen=True, slots=True)
class QueryNeed:
    """A query that a Mac needs `every_us` after `known_us`, its report of the fields.

    `server` is the MDM server of its enrollment, None if it is unknown; `authenticated_us` is its
    last Authenticate. `is_urgent`: the end of an open job waits for the report. Times are
    microseconds since 1970, 0 for never.
    """

    site: str
    server: str | None
    kind: QueryKind
    known_us: int
    every_us: int
    is_urgent: bool
    authenticated_us: int


def query_needs(s: Situation) -> tuple[QueryNeed, ...]:
    """Return the queries that the Mac needs, each with its time.

    None for a Mac without a site or an enrollment, and for a retired one. None for a personally
    owned one: it answers no query in full.
    """
    site, device = s.site_name, s.device
    if site is None or device.is_personal or is_retired(s) or not device.enrolled:
        return ()
    needs = []
    for kind, fields in _FIELDS.items():
        is_of_profiles = kind is QueryKind.PROFILE_LIST
        if is_of_profiles and not profiles_missing(s):
            continue
        is_urgent = kind is QueryKind.DEVICE_INFORMATION and s.open_job is not None
        every_us = duration_us(OPEN_JOB_EVERY if is_urgent or is_of_profiles else EVERY)
        known_us = min(map(device.reported_us, _URGENT_FIELDS if is_urgent else fields))
        needs.append(
            QueryNeed(
                *(site, device.mdm_server, kind, known_us, every_us, is_urgent),
                authenticated_us=device.checkins[AUTHENTICATED],
            )
        )
    return tuple(needs)
