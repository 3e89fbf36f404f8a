"""What a Mac needs, worst first. Each rule is safe alone on any Situation."""

from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from pipeline.decide.exposure import Exposure
from pipeline.decide.policy import Image
from pipeline.decide.situation import Situation
from pipeline.state.advisories import Missing, Release
from pipeline.state.device import AUTHENTICATED, CHECKED_OUT, duration_us, to_us
from pipeline.state.hardware import HardwareClass, supports_major
from pipeline.state.jobs import JobEntry, attempts, failures
from pipeline.state.seen_days import first_later_day_end_us
from schemas.decisions import Reason
from schemas.jobs import Action, Target
from schemas.macos import Build, OSVersion
from schemas.results import ErrorCode, Outcome

# What a reinstall mends: the update itself went wrong on the Mac. A full disk or a Mac that was
# not there is no reason to install the system anew.
_UPDATE_FAILURES: Final = frozenset(
    {ErrorCode.INSTALL_FAILED, ErrorCode.NOTHING_HAPPENED, ErrorCode.NO_REPORT}
)
# After an erase the Mac enrols by itself in Setup Assistant; before this it is not asked to.
_ADE_GRACE: Final = timedelta(hours=12)
# APNs wakes a Mac within minutes, but a server may only ask once a day.
_MDM_GRACE: Final = timedelta(hours=24)
# The hardware that `asr` can restore: T2 and Apple silicon have no NetBoot and do not boot from
# elsewhere unattended.
_RESTORABLE: Final = frozenset({HardwareClass.INTEL, HardwareClass.T1})


class Need(msgspec.Struct, frozen=True):
    """Something this Mac needs. `intent` identifies it across attempts. `timed` needs wait for
    deferrals and windows; `exclusive` ones let no later need pass while they are held. Before
    `not_before_us` it is not sure yet that it is needed; what was done `ineffective_before` before
    is left to a person; at `ripens_us` a newer release will have matured and be wanted instead."""

    action: Action
    reason: Reason
    intent: str
    target: Target | None = None
    release: Release | None = None
    erases: bool = False
    timed: bool = True
    exclusive: bool = False
    mdm_usable: bool = True
    evidence: tuple[str, ...] = ()
    newer_matures_us: int | None = None
    not_before_us: int | None = None
    ineffective_before: bool = False


def needs(s: Situation, exposed: Exposure) -> Iterator[Need]:
    """Everything this Mac needs, in the order in which it is done.

    Enrolment comes before all that MDM drives; a reinstall before an update that keeps failing.
    """
    reenroll = needs_reenrollment(s)
    if reenroll is not None:
        yield reenroll
    upgrade, update = needs_upgrade(s, exposed), needs_update(s, exposed)
    system = needs_reinstall(s, exposed, upgrade or update)
    for need in (system, upgrade, update):
        if need is not None:
            yield need if reenroll is None else replace(need, mdm_usable=False)
            if need is system and not need.ineffective_before:
                return


def target_of(release: Release) -> Target:
    """The release as what a job asks for."""
    return target(release.version, release.build)


@lru_cache(maxsize=4096)
def target(version: OSVersion, build: Build | None) -> Target:
    """A version and build as what a job asks for; there are few of them."""
    return Target(version=version, build=build)


def intent_of(release: Release) -> str:
    """What an update to a release is called across attempts: its version. Feeds blank builds and
    add others later; that makes no new intent."""
    return str(release.version)


# --- enrolment ---


def needs_reenrollment(s: Situation) -> Need | None:
    """Whether the Mac must enrol again, and why."""
    reason = _enrollment_fault(s)
    if reason is None:
        return None
    # One intent for each enrolment that went wrong: a Mac that enrols and falls out again is
    # asked again, with its attempts counted anew.
    checkins = s.device.checkins
    intent = f"{reason.value}@{max(checkins[AUTHENTICATED], checkins[CHECKED_OUT])}"
    confirmed_us = _mdm_grace_ends_us(s) if reason is Reason.MDM_SILENT else None
    return Need(Action.REENROLL, reason, intent, timed=False, not_before_us=confirmed_us)


def _mdm_grace_ends_us(s: Situation) -> int:
    """When a Mac that is heard of again has been back long enough for MDM to hear of it too.

    Whoever was away for weeks is greeted by inventory or by MDM, whichever comes first.
    """
    device = s.device
    first_day_us = first_later_day_end_us(device.inventory_days, device.mdm_seen_us)
    back_us = min(first_day_us or device.inventory_seen_us, device.inventory_seen_us)
    return back_us + duration_us(_MDM_GRACE)


def _enrollment_fault(s: Situation) -> Reason | None:
    device = s.device
    if device.checked_out:
        return Reason.CHECKED_OUT
    if device.mdm_enrolled is False and not device.enrolled:
        return Reason.NEVER_ENROLLED if device.mdm_seen_us == 0 else Reason.CHECKED_OUT
    erased = _erase_without_reenrollment(s)
    if erased is not None and s.now_us >= _ade_grace_ends_us(erased):
        return Reason.REENROLL_AFTER_REINSTALL
    if mdm_is_silent(s):
        return Reason.MDM_SILENT
    defects = [fact for fact in _enrollment_defects(s) if _is_of_present_enrollment(s, fact)]
    if "mdm_server" in defects:
        return Reason.WRONG_MDM_SERVER
    renew_us = renewal_us(s)
    if renew_us is not None and s.now_us >= renew_us:
        return Reason.IDENTITY_EXPIRING
    return Reason.NOT_USER_APPROVED if "user_approved" in defects else None


def _enrollment_defects(s: Situation) -> Iterator[str]:
    """The facts that speak against its enrolment, or will in time, of whichever enrolment."""
    device, mdm = s.device, s.policy.mdm
    if mdm.server is not None and device.mdm_server is not None:
        wanted, found = urlsplit(mdm.server).hostname, urlsplit(device.mdm_server).hostname
        if (wanted or mdm.server) != (found or device.mdm_server):
            yield "mdm_server"
    if device.identity_expires_at is not None:
        yield "identity_expires_at"
    if mdm.require_user_approved and device.user_approved is False:
        yield "user_approved"


def _is_of_present_enrollment(s: Situation, fact: str) -> bool:
    """Whether a fact about the enrolment is of the present one: an Authenticate begins another,
    with another identity."""
    return s.device.reported_us(fact) >= s.device.checkins[AUTHENTICATED]


def has_earlier_enrollment_defect(s: Situation) -> bool:
    """Whether something spoke against the enrolment before, and no word on it came of this one:
    the same word would be news then."""
    return any(not _is_of_present_enrollment(s, fact) for fact in _enrollment_defects(s))


def renewal_us(s: Situation) -> int | None:
    """When its MDM identity comes due for renewal, in us; None where its end is not known."""
    expires_at = s.device.identity_expires_at
    if expires_at is None or not _is_of_present_enrollment(s, "identity_expires_at"):
        return None
    return to_us(expires_at) - duration_us(s.policy.mdm.identity_renew_before)


def next_enrollment_fault_us(s: Situation) -> int | None:
    """When time alone will next make the Mac one to enrol again, in us."""
    erased, renew_us = _erase_without_reenrollment(s), renewal_us(s)
    if erased is None and renew_us is None:
        return None
    times = (renew_us, None if erased is None else _ade_grace_ends_us(erased))
    return min((us for us in times if us is not None and us > s.now_us), default=None)


def mdm_is_silent(s: Situation) -> bool:
    """Whether inventory still reported when MDM, which once knew the Mac, had not for long."""
    mdm_us = s.device.mdm_seen_us
    silence_us = s.device.inventory_seen_us - mdm_us
    return mdm_us > 0 and silence_us > duration_us(s.policy.mdm.silent_after)


def _ade_grace_ends_us(erased: JobEntry) -> int:
    return erased.outcome_us + duration_us(_ADE_GRACE)


def _erase_without_reenrollment(s: Situation) -> JobEntry | None:
    """The last erase or image whose Mac has not enrolled since."""
    last = last_reinstall(s)
    if last is None or not last.erases or s.device.enrolled_since(last.since_us):
        return None
    return last


def last_reinstall(s: Situation) -> JobEntry | None:
    """The last reinstall or image that succeeded."""
    if not s.job_history:
        return None
    return next(
        (
            entry
            for entry in reversed(s.job_history)
            if entry.action in (Action.REINSTALL, Action.REIMAGE)
            and entry.outcome is Outcome.SUCCEEDED
        ),
        None,
    )


def follow_up_missing(s: Situation) -> tuple[str, ...]:
    """What is not yet confirmed after the last reinstall; empty when the Mac is done."""
    last, device, wanted = last_reinstall(s), s.device, s.policy.follow_up
    if last is None:
        return ()
    since_us = last.since_us
    open_points = []
    if last.erases and not device.enrolled_since(since_us):
        open_points.append("re-enrolled")
    if s.policy.mdm.require_user_approved and not (
        device.user_approved and (not last.erases or device.reported_us("user_approved") > since_us)
    ):
        open_points.append("user-approved")
    activations = device.activations or ()
    confirmed = activations if device.reported_us("activations") > since_us else ()
    open_points += [f"activation {name}" for name in wanted.activations if name not in confirmed]
    if wanted.compliant and not (device.compliant and device.reported_us("compliant") > since_us):
        open_points.append("compliant")
    return tuple(open_points)


# --- reinstall and reimage ---


def needs_reinstall(s: Situation, exposed: Exposure, update: Need | None) -> Need | None:
    """Whether the system must be installed anew, and why; `update` is what it would be spared."""
    device = s.device
    version = device.os_version
    if version is None:
        return None
    if device.loan_returned_at is not None:
        returned_us = to_us(device.loan_returned_at)
        last = last_reinstall(s)
        if last is None or last.issued_us < returned_us:
            return _loan_return(s, version, exposed, f"loan@{returned_us}")
    expected = expected_firmware(s)
    mismatch = expected is not None and expected != device.firmware
    if device.system_volume_sealed is False or mismatch:
        release = _best_release(s, version, exposed)
        if release is None:
            return None
        if device.system_volume_sealed is False:
            return _reinstall_in_place(s, release, Reason.SEAL_BROKEN, "seal")
        evidence = (f"firmware {device.firmware}, {version} has {expected}",)
        return _reinstall_in_place(
            s, release, Reason.FIRMWARE_MISMATCH, f"firmware:{device.firmware}:{version}", evidence
        )
    if update is not None and s.job_history:
        went_wrong = [
            entry
            for entry in failures(s.job_history, update.action, update.intent)
            if entry.error_code in _UPDATE_FAILURES
        ]
        if len(went_wrong) >= s.policy.thresholds.reinstall_after_failures:
            assert update.release is not None
            return _reinstall_in_place(
                s,
                update.release,
                Reason.UPDATE_KEEPS_FAILING,
                f"failing:{update.intent}",
                tuple(f"{entry.method} failed: {entry.error_code}" for entry in went_wrong),
            )
    return None


def _reinstall_in_place(
    s: Situation, release: Release, reason: Reason, intent: str, evidence: tuple[str, ...] = ()
) -> Need:
    """A reinstall over what is there. One that succeeded and mended nothing is not repeated:
    somebody switched the seal off on purpose, or the policy's firmware is wrong."""
    ineffective_before = any(
        entry.outcome is Outcome.SUCCEEDED
        for entry in attempts(s.job_history, Action.REINSTALL, intent)
    )
    return Need(
        Action.REINSTALL,
        reason,
        intent,
        target_of(release),
        release,
        exclusive=not ineffective_before,
        ineffective_before=ineffective_before,
        evidence=evidence,
    )


def _best_release(s: Situation, version: OSVersion, exposed: Exposure) -> Release | None:
    """The release to update to on its line; the one it runs if it lacks none."""
    release = newest_matured(s, exposed.line, exposed)[0]
    if release is not None:
        return release
    for release in s.advisories.lines.get(version.line, ()):
        if not release.version.supplement and release.offered_to(s.device.device_id):
            return release if release.version >= version.release else None
    return None


def expected_firmware(s: Situation) -> str | None:
    """The firmware that belongs to what the Mac runs, where the policy says and it reports one."""
    device = s.device
    if device.firmware is None or device.model is None or device.os_version is None:
        return None
    for rule in s.policy.firmware:
        if rule.version == device.os_version and _matches_any_model(rule.models, device.model):
            return rule.firmware
    return None


def _matches_any_model(globs: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model.lower(), glob.lower()) for glob in globs)


def _loan_return(s: Situation, version: OSVersion, exposed: Exposure, intent: str) -> Need | None:
    image, evidence = reimage_eligibility(s)
    if image is not None:
        return Need(
            Action.REIMAGE,
            Reason.LOAN_RETURNED,
            intent,
            Target(version=image.version, build=image.build),
            erases=True,
            exclusive=True,
            evidence=evidence,
        )
    release = _best_release(s, version, exposed)
    if release is None:
        return None
    return Need(
        Action.REINSTALL,
        Reason.LOAN_RETURNED,
        intent,
        target_of(release),
        release,
        erases=True,
        exclusive=True,
        evidence=evidence,
    )


def reimage_eligibility(s: Situation) -> tuple[Image | None, tuple[str, ...]]:
    """The image this Mac may be restored from, or None; and the evidence, point by point.

    An image never changes a version: its build and its firmware must be those on the Mac already.
    """
    device = s.device
    if not s.policy.images:
        return None, ("no image in the policy",)
    evidence: list[str] = []
    for image in s.policy.images:
        points = (
            (
                device.hardware in _RESTORABLE,
                f"hardware {device.hardware.value} can be restored by asr",
            ),
            (
                device.model is not None and _matches_any_model(image.models, device.model),
                f"model {device.model} is one of {', '.join(image.models)}",
            ),
            (
                device.os_version == image.version,
                f"version {device.os_version} equals the image's {image.version}",
            ),
            (device.build == image.build, f"build {device.build} equals the image's {image.build}"),
            (
                device.firmware == image.firmware,
                f"firmware {device.firmware} equals the image's {image.firmware}",
            ),
            (device.loan_returned_at is not None, "returned loan unit"),
        )
        lines = [f"{image.name}: {text}: {'yes' if holds else 'no'}" for holds, text in points]
        if all(holds for holds, _ in points):
            return image, tuple(lines)
        evidence += lines
    return None, tuple(evidence)


# --- update and upgrade ---


def needs_update(s: Situation, exposed: Exposure) -> Need | None:
    """Whether its line has a newer release for it."""
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
    """When a release has matured as long as the policy wants for holes as bad as the Mac's."""
    wait = s.policy.deferrals.for_severity(exposed.severity)
    return max(release.released_us, release.known_us) + duration_us(wait)


def newest_matured(
    s: Situation, missing: Missing, exposed: Exposure
) -> tuple[Release | None, int | None]:
    """The newest mature release of these, or the first to become so; and when a newer one does.

    While a release matures Macs are brought to the one before it, whose holes are known.
    """
    first: tuple[int, Release] | None = None
    for release in missing.releases:
        if release.version.supplement:
            continue  # installs itself
        at_us = matures_us(s, release, exposed)
        if s.now_us >= at_us:
            return release, None if first is None else first[0]
        if first is None or at_us <= first[0]:
            first = at_us, release
    return (None, None) if first is None else (first[1], None)


def needs_upgrade(s: Situation, exposed: Exposure) -> Need | None:
    """Whether it must move to another line: its own is dead, or the policy wants a newer one."""
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
    """Why a Mac on a dead line cannot leave it: its hardware, or we do not know its hardware."""
    if s.line_is_supported is not False or not s.policy.upgrades.out_of_support:
        return None
    supported = {supports_major(s.device.model, _major(line)) for line in s.supported_lines}
    if True in supported:
        return None
    return Reason.MODEL_UNKNOWN if None in supported else Reason.UNFIXABLE_HARDWARE


def _major(line: str) -> int:
    return int(line.split(".", maxsplit=1)[0])
