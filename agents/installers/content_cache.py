"""Reports of Apple's content cache at a site. Pure.

The form is Apple's "Cache Server Metrics Report", version 1: openapi/content-cache/
metrics_report.json of github.com/apple/device-management, 61449b07. From macOS 27 on a cache sends
it to the URL `ManagementStatusTarget` of its configuration, each `ManagementReportingInterval`
(60 s to a day, 300 s by default).
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

# A cache of less cannot keep one installer beside other content (18.4 GB in August 2026).
_LEAST_LIMIT_BYTES: Final = 40_000_000_000
_DEFAULT_PERIOD_S: Final = 300
_LONGEST_PERIOD_S: Final = 86_400


class ReportError(ValueError):
    """The document is no report of a content cache; the message is one line."""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """One report: `server` is the cache's GUID. `problem` is the reason for which it serves no
    installers, None if it does. It counts until `valid_until`.
    """

    server: str
    problem: str | None
    valid_until: datetime


def read_report(document: bytes, received_at: datetime) -> CacheReport:
    """Return the report in a document. Raises ReportError for another document.

    It counts for three of its periods: a cache that is switched off sends no more. The cache's own
    time is not used.
    """
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ReportError("the report is not JSON") from error
    if not isinstance(found, dict) or not isinstance(found.get("serverGUID"), str):
        raise ReportError("the report has no serverGUID")
    period = found.get("reportPeriod")
    if type(period) is not int or not 0 < period <= _LONGEST_PERIOD_S:
        period = _DEFAULT_PERIOD_S
    server = found["serverGUID"][:64]
    return CacheReport(server, _problem(found), received_at + timedelta(seconds=3 * period))


def serves(reports: dict[str, CacheReport], now: datetime) -> bool:
    """Return True if a content cache serves installers to the site now."""
    return any(one.problem is None and now < one.valid_until for one in reports.values())


def _problem(report: dict[str, Any]) -> str | None:
    """Return the reason for which the cache serves no installers; a missing field is a reason."""
    if report.get("active") is not True or report.get("activated") is not True:
        return "it is not active"
    if report.get("startupStatus") is False:
        return "it has not started up"
    if report.get("registrationState") != 1:
        return "it is not registered with Apple"
    if report.get("allowSharedCaching") is False:
        return "it does not cache shared content"
    limit = report.get("cacheLimit")
    if type(limit) is not int or 0 < limit < _LEAST_LIMIT_BYTES:
        return "its limit is too small for an installer"
    return None
