"""The values of the gauges of the fleet, as both forms set them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from schemas.decisions import Reason, Verdict

OLDER: Final = "older"
EXPOSURE_AGES: Final[Mapping[str, timedelta]] = {
    f"{days}d": timedelta(days=days) for days in (1, 7, 14, 30, 90)
}
"""The upper limits of the classes of ages, ascending; above the last one an age is OLDER."""
JOB_AGES: Final[Mapping[str, timedelta]] = {
    **{f"{hours}h": timedelta(hours=hours) for hours in (1, 4)},
    **{f"{days}d": timedelta(days=days) for days in (1, 3, 7)},
}
MAX_CVES: Final = 20
HALT_SCOPES: Final = ("all", "site", "action", "advisory")


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """Numbers of Macs and jobs, of the present state. A site is empty for Macs without one.

    - `decided`: Macs by site, verdict and reason of the last decision
    - `exposed`, `findings`: Macs by site and severity, or code of a finding
    - `exposure_ages`: exposed Macs by site, severity and class of age (EXPOSURE_AGES)
    - `exploited_cves`: Macs by CVE, of the MAX_CVES exploited CVEs with the most Macs
    - `open_jobs`: by site and action
    - `job_ages`: open jobs by site and class of age (JOB_AGES)
    """

    decided: Mapping[tuple[str, Verdict, Reason], int] = field(default_factory=dict)
    exposed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    exposure_ages: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    exploited_cves: Mapping[str, int] = field(default_factory=dict)
    open_jobs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    job_ages: Mapping[tuple[str, str], int] = field(default_factory=dict)
