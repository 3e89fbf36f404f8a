"""The need to update within the line of the Mac, or to upgrade to another line."""

from pipeline.decide.exposure import Exposure
from pipeline.decide.needs.need import Need, intent_of, target_of
from pipeline.decide.situation import Situation
from pipeline.state.advisories import Missing, Release
from pipeline.state.device import duration_us
from pipeline.state.hardware import supports_major
from schemas.decisions import Reason
from schemas.jobs import Action


def needs_update(s: Situation, exposed: Exposure) -> Need | None:
    """Return the need to update within the Mac's line, or None.

    None if the version is unknown, or if the Mac lacks no release of its line. Supplements do not
    count.
    """
    release, newer_matures_us = newest_matured(s, exposed.line, exposed)
    if s.device.os_version is None or release is None:
        return None
    reason = Reason.SECURITY_UPDATE if exposed.line.cves else Reason.ROUTINE_UPDATE
    return _to_release(Action.UPDATE, reason, release, newer_matures_us)


def _to_release(
    action: Action, reason: Reason, release: Release, newer_matures_us: int | None
) -> Need:
    return Need(
        action,
        reason,
        intent_of(release),
        target_of(release),
        release,
        newer_matures_us=newer_matures_us,
    )


def matures_us(s: Situation, release: Release, exposed: Exposure) -> int:
    """Return the time at which the policy's deferral of a release ends for this Mac.

    In us since 1970. The deferral begins at the later of two times: Apple's release, and the time
    when Drydock first knew of it. Its length depends on the worst severity that the Mac is exposed
    to.
    """
    wait = s.policy.deferrals.for_severity(exposed.severity)
    return max(release.released_us, release.known_us) + duration_us(wait)


def newest_matured(
    s: Situation, missing: Missing, exposed: Exposure
) -> tuple[Release | None, int | None]:
    """Return the newest mature release of `missing`, and the first time when a newer one matures.

    The time is in us since 1970, and None if there is no newer one. If no release is mature, the
    result is the one that matures first, and None; without releases it is None and None.
    Supplements are left out: they install themselves. While a release matures, Macs are updated to
    the mature one before it.
    """
    first: tuple[int, Release] | None = None
    for release in missing.releases:
        if release.version.supplement:
            continue
        at_us = matures_us(s, release, exposed)
        if s.now_us >= at_us:
            return release, None if first is None else first[0]
        if first is None or at_us <= first[0]:
            first = at_us, release
    return (None, None) if first is None else (first[1], None)


def needs_upgrade(s: Situation, exposed: Exposure) -> Need | None:
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
        if supports_major(s.device.model, _major(line)):
            missing = s.advisories.missing(line, version, s.device.build, s.device.device_id)
            target, newer_matures_us = newest_matured(s, missing, exposed)
            if target is not None:
                return _to_release(Action.UPGRADE, reason, target, newer_matures_us)
    return None


def upgrade_obstacle(s: Situation) -> Reason | None:
    """Return the reason for which the model of a Mac on a dead line cannot be upgraded.

    `unfixable_hardware`: it runs no supported line. `model_unknown`: that is not known. None if it
    runs one, if the line is not dead or not known, or if the policy leaves dead lines alone.
    """
    if s.line_is_supported is not False or not s.policy.upgrades.out_of_support:
        return None
    supported = {supports_major(s.device.model, _major(line)) for line in s.supported_lines}
    if True in supported:
        return None
    return Reason.MODEL_UNKNOWN if None in supported else Reason.UNFIXABLE_HARDWARE


def _major(line: str) -> int:
    return int(line.split(".", maxsplit=1)[0])
