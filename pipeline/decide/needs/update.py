"""The need to update within the line of the Mac, or to upgrade to another line."""

from typing import NamedTuple

from pipeline.decide.exposure import Exposure, due_us, severity_of, severity_rank
from pipeline.decide.needs.need import Need, intent_of, target_of
from pipeline.decide.situation import Situation
from pipeline.state.advisories import Missing, Release
from pipeline.state.device import duration_us
from schemas.decisions import Reason, Severity
from schemas.jobs import Action


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
        is_due = release.version.supplement and s.now_us >= due_us(release, s.policy.deadlines)
        if is_due and release.can_be_installed(s.now_us):
            return release
    return None


def next_supplement_due_us(s: Situation, missing: Missing) -> int | None:
    """Return the first time at which a missing improvement becomes overdue, in us, or None."""
    dues = (
        due_us(release, s.policy.deadlines)
        for release in missing.releases
        if release.version.supplement
    )
    return min((due for due in dues if due > s.now_us), default=None)


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


def _installable(s: Situation, missing: Missing) -> list[tuple[Release, Severity]]:
    """Return the releases that Apple still offers, newest first, each with the worst it closes.

    That is the worst severity of the release and of the older ones that are offered no more. The
    newest release is among them although its offer has expired: Apple can extend it. Supplements
    are left out: they install themselves.
    """
    found: list[tuple[Release, Severity]] = []
    worst = Severity.ROUTINE
    releases = [one for one in missing.releases if not one.version.supplement]
    for release in reversed(releases):
        worst = max(worst, severity_of(release), key=severity_rank)
        is_newest = release is releases[0] and not release.withdrawn
        if is_newest or release.can_be_installed(s.now_us):
            found.append((release, worst))
            worst = Severity.ROUTINE
    return found[::-1]


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
    Mac. None if neither holds, if there is no such line, or if the Mac's version is unknown.
    """
    version = s.device.os_version
    if version is None:
        return None
    wanted = s.policy.upgrades.to
    if s.line_is_supported is False and s.policy.upgrades.out_of_support:
        lines = tuple(
            line for line in s.supported_lines if wanted is None or _major(line) <= _major(wanted)
        )
        reason = Reason.LINE_OUT_OF_SUPPORT
    elif wanted is not None and _major(wanted) > version.major:
        lines, reason = (wanted,), Reason.POLICY_UPGRADE
    else:
        return None
    for line in lines:
        if s.runs_line(line):
            missing = s.advisories.missing(line, version, s.device.build, s.device_id)
            chosen = newest_matured(s, missing)
            if chosen is not None:
                return _to_release(Action.UPGRADE, reason, chosen)
    return None


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
