"""The need to update within the line of the Mac, or to upgrade to another line."""

from datetime import UTC, datetime, time
from typing import NamedTuple

from msgspec.structs import replace

from pipeline.decide.exposure import (
    Exposure,
    deadline_of,
    due_us,
    severity_of,
    severity_rank,
    zone_of,
)
from pipeline.decide.needs.need import Need, intent_of, target_of
from pipeline.decide.situation import Situation
from pipeline.state.advisories import Missing, Release
from pipeline.state.device import duration_us, to_us
from schemas.decisions import Reason, Severity
from schemas.jobs import Action
from schemas.macos import OSVersion


def needs_update(s: Situation, exposed: Exposure) -> Need | None:
    """Return the need to update within the Mac's line, or None.

    None if the version is unknown, or if the Mac lacks no release of its line. A background
    security improvement installs itself, so it is needed only from its deadline on, and after the
    release that it belongs to.
    """
    if s.device.os_version is None:
        return None
    reason = Reason.SECURITY_UPDATE if exposed.line.cves else Reason.ROUTINE_UPDATE
    chosen = newest_matured(s, exposed.line)
    if chosen is not None:
        return _to_release(Action.UPDATE, reason, chosen)
    improvement = overdue_supplement(s, exposed.line)
    if improvement is None:
        return None
    severity = severity_of(improvement)
    return _to_release(Action.UPDATE, reason, Chosen(improvement, severity, None, None))


def overdue_supplement(s: Situation, missing: Missing) -> Release | None:
    """Return the newest background security improvement whose deadline has passed, or None."""
    for release in missing.releases:
        is_due = release.version.supplement and s.now_us >= _due_us(s, release)
        if is_due and release.can_be_installed(s.now_us):
            return release
    return None


def next_supplement_due_us(s: Situation, missing: Missing) -> int | None:
    """Return the first time at which a missing improvement becomes overdue, in us, or None."""
    dues = (_due_us(s, release) for release in missing.releases if release.version.supplement)
    return min((due for due in dues if due > s.now_us), default=None)


def _due_us(s: Situation, release: Release) -> int:
    due = deadline_of(s, due_us(release, s.policy.deadlines, zone_of(s)))
    assert due is not None
    return due


class Chosen(NamedTuple):
    """The release to install, the worst severity that it closes, and two times in us since 1970.

    `matures_us` is the end of its deferral, `newer_matures_us` that of the first newer release;
    None if there is none.
    """

    release: Release
    severity: Severity
    matures_us: int | None
    newer_matures_us: int | None


def _to_release(action: Action, reason: Reason, chosen: Chosen) -> Need:
    return Need(
        action,
        reason,
        intent_of(chosen.release),
        target_of(chosen.release),
        chosen.release,
        severity=chosen.severity,
        matures_us=chosen.matures_us,
        newer_matures_us=chosen.newer_matures_us,
    )


def _installable(s: Situation, missing: Missing) -> tuple[tuple[Release, Severity], ...]:
    """Return the releases that Apple still offers, newest first, each with the worst it closes.

    That is the worst severity of the release and of the older ones that are offered no more. The
    newest release is among them although its offer has expired: Apple can extend it. Supplements
    are left out: they install themselves. Cached in `missing`, which is one object for all Macs of
    a kind, for the last time.
    """
    known = missing.cache.get("installable")
    if known is None or known[0] != s.now_us:
        known = missing.cache["installable"] = (s.now_us, _installable_at(s.now_us, missing))
    installable: tuple[tuple[Release, Severity], ...] = known[1]
    return installable


def _installable_at(now_us: int, missing: Missing) -> tuple[tuple[Release, Severity], ...]:
    found: list[tuple[Release, Severity]] = []
    worst = Severity.ROUTINE
    releases = [one for one in missing.releases if not one.version.supplement]
    for release in reversed(releases):
        worst = max(worst, severity_of(release), key=severity_rank)
        is_newest = release is releases[0] and not release.withdrawn
        if is_newest or release.can_be_installed(now_us):
            found.append((release, worst))
            worst = Severity.ROUTINE
    return tuple(found[::-1])


def is_installable(s: Situation, missing: Missing, version: OSVersion) -> bool:
    """Return True if the release of this version is missing, and an update may install it.

    As for the choice of a target, the newest release of a line counts after its offer has expired.
    """
    if any(release.version == version for release, _ in _installable(s, missing)):
        return True
    supplements = (one for one in missing.releases if one.version.supplement)
    return any(one.version == version and one.can_be_installed(s.now_us) for one in supplements)


def newest_matured(s: Situation, missing: Missing) -> Chosen | None:
    """Return the newest mature release of `missing`, or the one that matures first.

    None without releases. The deferral of a release begins at the later of two times: Apple's
    release, and the time when Drydock first knew of it. Its length depends on the worst severity
    that the release closes. While a release matures, Macs are updated to the mature one before it.
    """
    first: Chosen | None = None
    for release, severity in _installable(s, missing):
        wait = s.policy.deferrals.for_severity(severity)
        at_us = max(release.released_us, release.known_us) + duration_us(wait)
        if s.now_us >= at_us:
            return Chosen(release, severity, at_us, None if first is None else first.matures_us)
        if first is None or first.matures_us is None or at_us <= first.matures_us:
            first = Chosen(release, severity, at_us, None)
    return first


def needs_upgrade(s: Situation) -> Need | None:
    """Return the need to upgrade to another line, or None.

    The Mac's line is dead, or the policy wants a newer one (`upgrades.to`). The target is a release
    of the newest allowed line that the Mac's model is known to run and that has a release for the
    Mac. A line that the policy still defers is passed over, unless there is no other: then the need
    has `opens_us`. None if neither holds, if there is no such line, or if the Mac's version is
    unknown.
    """
    version = s.device.os_version
    if version is None:
        return None
    wanted = s.policy.upgrades.to
    if s.line_is_supported is False and s.policy.upgrades.out_of_support:
        lines, reason = wanted_lines(s), Reason.LINE_OUT_OF_SUPPORT
    elif wanted is not None and _major(wanted) > version.major:
        lines, reason = (wanted,), Reason.POLICY_UPGRADE
    else:
        return None
    deferred: list[Need] = []
    for line in lines:
        if not s.runs_line(line):
            continue
        missing = s.advisories.missing(line, version, s.device.build, s.device_id)
        chosen = newest_matured(s, missing)
        if chosen is None:
            continue
        opens_us = line_opens_us(s, line)
        need = replace(
            _to_release(Action.UPGRADE, reason, chosen),
            opens_us=opens_us,
            due_us=_upgrade_due_us(s, line, opens_us),
        )
        if is_open(s, need):
            return _replaced_by(need, deferred)
        deferred.append(need)
    return min(deferred, key=_opens_us, default=None)


def is_open(s: Situation, need: Need | None) -> bool:
    """Return True if there is a need, and the policy does not defer its line as a whole."""
    return need is not None and s.now_us >= _opens_us(need)


def _opens_us(need: Need) -> int:
    return need.opens_us or 0


def _replaced_by(need: Need, deferred: list[Need]) -> Need:
    """Return the need with the time at which one of the newer lines opens and replaces it."""
    times = [_opens_us(one) for one in deferred]
    if need.newer_matures_us is not None:
        times.append(need.newer_matures_us)
    return replace(need, newer_matures_us=min(times, default=None))


def wanted_lines(s: Situation) -> tuple[str, ...]:
    """Return the supported lines that are not newer than `upgrades.to`, newest first."""
    wanted = s.policy.upgrades.to
    return tuple(
        line for line in s.supported_lines if wanted is None or _major(line) <= _major(wanted)
    )


def line_opens_us(s: Situation, line: str) -> int | None:
    """Return the time from which the policy moves Macs to this line, in us since 1970.

    None if it sets no such time: no `upgrades.deferral`, and no `not_before` for this line.
    """
    upgrades, times = s.policy.upgrades, []
    first = _first_release(s, line) if upgrades.deferral else None
    if first is not None:
        times.append(first.released_us + duration_us(upgrades.deferral))
    if line == upgrades.to and upgrades.not_before is not None:
        zone = UTC if s.site is None else s.site.zone
        times.append(to_us(datetime.combine(upgrades.not_before, time(), zone)))
    return max(times, default=None)


def _upgrade_due_us(s: Situation, line: str, opens_us: int | None) -> int | None:
    """Return the deadline of an upgrade to this line, in us; None if the policy has none for it.

    It counts from the time at which the policy opens the line, or at which Drydock first knew of it
    if that is later.
    """
    upgrades = s.policy.upgrades
    if upgrades.deadline is None or line != upgrades.to:
        return None
    first = _first_release(s, line)
    assert first is not None  # the caller has a release of the line
    known_us = max(first.released_us, first.known_us)
    return max(known_us, opens_us or 0) + duration_us(upgrades.deadline)


def _first_release(s: Situation, line: str) -> Release | None:
    """Return the release of the line that came first, as far as is known; None without one."""
    releases = s.advisories.lines.get(line, ())
    return min(releases, key=lambda release: release.released_us, default=None)


def upgrade_obstacle(s: Situation) -> Reason | None:
    """Return the reason for which the model of a Mac on a dead line cannot be upgraded.

    `unfixable_hardware`: it runs no supported line. `model_unknown`: that is not known. None if it
    runs one, if the line is not dead or not known, or if the policy leaves dead lines alone.
    """
    if s.line_is_supported is not False or not s.policy.upgrades.out_of_support:
        return None
    supported = {s.runs_line(line) for line in s.supported_lines}
    if True in supported:
        return None
    return Reason.MODEL_UNKNOWN if None in supported else Reason.UNFIXABLE_HARDWARE


def _major(line: str) -> int:
    return int(line.split(".", maxsplit=1)[0])
