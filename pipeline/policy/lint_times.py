"""Warnings about the times, limits and windows of a valid policy."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Final

from pipeline.policy.file import PolicyDocument
from pipeline.policy.model import SEVERITY_ORDER, Policy, Window
from pipeline.policy.week import length_of, week_of
from runtime.located_yaml import Path
from schemas.decisions import Severity

# An upgrade takes most of an hour, even from a content cache.
_SHORTEST_WINDOW_MINUTES: Final = 60
# Most sources report a Mac once a day.
_REPORTS_EVERY: Final = timedelta(days=1)
# No installer needs a tenth of this.
_MOST_DISK_GB: Final = 500
# Apple lets an organization defer updates by 90 days at most (forceDelayedSoftwareUpdates).
LONGEST_DEFERRAL: Final = timedelta(days=90)
_LONGEST_DEADLINE: Final = timedelta(days=365)
# An identity certificate is issued for a year, by most servers.
_IDENTITY_LIFETIME: Final = timedelta(days=365)
_MOST_ATTEMPTS: Final = 50
_LONGEST_COOL_DOWN: Final = timedelta(days=30)
_LONGEST_STALE: Final = timedelta(days=90)

Found = Iterator[tuple[Path, str]]


def times(document: PolicyDocument) -> Found:
    """Yield path and message of each warning about deadlines and deferrals."""
    deadlines, deferrals = document.policy.deadlines, document.policy.deferrals
    for severity in SEVERITY_ORDER:
        due, wait = deadlines.for_severity(severity), deferrals.for_severity(severity)
        if due < wait:
            path = _stated(document, ("deadlines", severity), ("deferrals", severity))
            yield path, "the deadline passes before the deferral ends: jobs are sent after it only"
        if due > _LONGEST_DEADLINE:
            yield ("deadlines", severity.value), "is more than a year"
        if wait > LONGEST_DEFERRAL:
            yield ("deferrals", severity.value), "is more than the 90 days that Apple allows"
    for milder, worse in pairwise(SEVERITY_ORDER):
        if deadlines.for_severity(worse) > deadlines.for_severity(milder):
            path = _stated(document, ("deadlines", worse), ("deadlines", milder))
            yield path, f"{worse.value} has more time than {milder.value}, which is less severe"


def limits(document: PolicyDocument) -> Found:
    """Yield path and message of each warning about `thresholds` and the times of `mdm`."""
    policy = document.policy
    yield from _disk_and_battery(document)
    yield from _attempts(document)
    yield from _expiry(document)
    thresholds, mdm = policy.thresholds, policy.mdm
    if thresholds.stale_after < _REPORTS_EVERY:
        yield ("thresholds", "stale_after"), "is less than a day: most sources report once a day"
    if thresholds.stale_after > _LONGEST_STALE:
        yield (
            ("thresholds", "stale_after"),
            "is more than 90 days: the Mac's state is long unknown",
        )
    if mdm.silent_after < _REPORTS_EVERY:
        yield (
            ("mdm", "silent_after"),
            "is less than a day: a Mac that MDM does not query as often must enroll again",
        )
    if mdm.identity_renew_before >= _IDENTITY_LIFETIME:
        yield (
            ("mdm", "identity_renew_before"),
            "is a year or more: a new certificate is renewed at once, again and again",
        )


def _disk_and_battery(document: PolicyDocument) -> Found:
    thresholds = document.policy.thresholds
    for name in ("disk_update_gb", "disk_upgrade_gb"):
        value = getattr(thresholds, name)
        if value > _MOST_DISK_GB:
            hint = f"; did you mean {value / 1000:g}?" if value >= 1000 else ""
            yield ("thresholds", name), f"is {value:g} GB free, which few Macs have{hint}"
    if thresholds.disk_upgrade_gb < thresholds.disk_update_gb:
        path = _stated(
            document, ("thresholds", "disk_upgrade_gb"), ("thresholds", "disk_update_gb")
        )
        yield path, "an upgrade needs less space than an update: disk_upgrade_gb, disk_update_gb"
    for name in ("battery_apple_silicon", "battery_intel"):
        value = getattr(thresholds, name)
        if 0 < value <= 1:
            hint = f"did you mean {value * 100:g}?"
            yield ("thresholds", name), f"is {value:g} %, of 100: {hint}"


def _attempts(document: PolicyDocument) -> Found:
    thresholds = document.policy.thresholds
    most, reinstall = thresholds.max_attempts, thresholds.reinstall_after_failures
    if most < reinstall:
        path = _stated(
            document, ("thresholds", "max_attempts"), ("thresholds", "reinstall_after_failures")
        )
        before = f"max_attempts ({most}) is reached before reinstall_after_failures ({reinstall})"
        yield path, f"{before}: no update is ever replaced by a reinstall"
    if most > _MOST_ATTEMPTS:
        yield ("thresholds", "max_attempts"), f"is more than {_MOST_ATTEMPTS}"
    if thresholds.cool_down > thresholds.cool_down_max:
        path = _stated(document, ("thresholds", "cool_down"), ("thresholds", "cool_down_max"))
        yield path, "cool_down is longer than cool_down_max"
    if thresholds.cool_down_max > _LONGEST_COOL_DOWN:
        yield ("thresholds", "cool_down_max"), "is more than 30 days"


def _expiry(document: PolicyDocument) -> Found:
    """Yield the warning that one lost job can use up the time until a deadline."""
    expires = document.policy.thresholds.job_expires_after
    path: Path = ("thresholds", "job_expires_after")
    is_stated = document.defines(path)
    for severity in reversed(SEVERITY_ORDER):
        due = document.policy.deadlines.for_severity(severity)
        # The defaults are equal for `exploited`: an author who changes neither gets no warning.
        if timedelta(0) < due < expires or (is_stated and timedelta(0) < due == expires):
            used = f"one lost job uses up the time until the deadline of {severity.value}"
            yield (
                _stated(document, path, ("deadlines", severity.value)),
                f"{used}: job_expires_after is not less than it",
            )
            return


def windows(document: PolicyDocument) -> Found:
    """Yield path and message of each warning about the windows of the policy and of its sites."""
    policy = document.policy
    yield from _of_list(document, ("windows",), policy.windows)
    for name, site in policy.sites.items():
        if site.windows is not None:
            yield from _of_list(document, ("sites", name, "windows"), site.windows)


def _of_list(document: PolicyDocument, path: Path, given: tuple[Window, ...]) -> Found:
    """Yield path and message of each warning about the list of windows at `path`."""
    if not given:
        yield path, "there is no window: no job is sent before its deadline"
        return
    for index, window in enumerate(given):
        if length_of(window) < _SHORTEST_WINDOW_MINUTES:
            minutes = length_of(window)
            yield (*path, index), f"is {minutes} minutes long; an upgrade takes about an hour"
        if index and week_of(given[:index]) == week_of(given[: index + 1]):
            yield (*path, index), "changes nothing: the windows before it cover it"
    gap = timedelta(minutes=week_of(given).longest_closed())
    forced = [one.value for one in SEVERITY_ORDER if _is_forced(document.policy, one, gap)]
    if forced:
        closed = f"are closed for up to {gap / timedelta(hours=1):g} hours"
        message = f"{closed}: a deadline can pass without an open window ({', '.join(forced)})"
        yield path, message


def _is_forced(policy: Policy, severity: Severity, gap: timedelta) -> bool:
    """Return True if no window may be open between a release's deferral and its deadline.

    A deadline of zero is meant to force the job.
    """
    due, wait = policy.deadlines.for_severity(severity), policy.deferrals.for_severity(severity)
    return timedelta(0) < due and timedelta(0) <= due - wait < gap


def _stated(document: PolicyDocument, path: Path, otherwise: Path) -> Path:
    """Return `path` if the text has it; `otherwise` if it is a default."""
    return path if document.defines(path) else otherwise
