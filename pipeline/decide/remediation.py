"""Needs: everything that a Mac needs, in the order in which it is done.

| order | need | condition |
| --- | --- | --- |
| 1 | `reenroll` | an enrollment fault, see below |
| 2 | `reinstall`, `reimage` | loan unit returned, seal broken, wrong firmware, failed updates |
| 3 | `upgrade` | the line is dead, or the policy wants a newer one |
| 4 | `update` | the line has a newer release that is offered to the Mac |

Enrollment is first because MDM drives most other methods; while it is at fault, later needs do not
use MDM. A reinstall is before the update that it repairs, and no other need follows it, unless an
earlier one had no effect. Each rule is safe alone on any Situation.

| enrollment fault, in order | cause |
| --- | --- |
| `checked_out` | a CheckOut, or a report of "not enrolled" by a Mac that MDM knew |
| `never_enrolled` | a report of "not enrolled" by a Mac that MDM never knew |
| `reenroll_after_reinstall` | no enrollment within 12 hours after an erase |
| `mdm_silent` | inventory reports arrive, MDM messages do not |
| `wrong_mdm_server` | the MDM server is not the policy's |
| `identity_expiring` | the MDM identity certificate ends soon |
| `not_user_approved` | the enrollment is not user-approved, and the policy requires it |

Invariant: the defects of the last three come from reports, so they count only if they were reported
after the last Authenticate; an older report describes an earlier enrollment.
"""

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

# Failures that a reinstall can repair: the update itself failed on the Mac. A full disk or an
# unreachable Mac is no reason for a reinstall.
_UPDATE_FAILURES: Final = frozenset(
    {ErrorCode.INSTALL_FAILED, ErrorCode.NOTHING_HAPPENED, ErrorCode.NO_REPORT}
)
# After an erase the Mac enrolls by itself in Setup Assistant. A re-enrollment is needed only if it
# has not done so after this time.
_ADE_GRACE: Final = timedelta(hours=12)
# APNs wakes a Mac within minutes, but an MDM server may query it only once a day.
_MDM_GRACE: Final = timedelta(hours=24)
# The hardware that `asr` can restore. T2 and Apple silicon have no NetBoot and do not boot from
# another volume without a person.
_RESTORABLE: Final = frozenset({HardwareClass.INTEL, HardwareClass.T1})


class Need(msgspec.Struct, frozen=True):
    """One remediation that this Mac needs.

    `intent` is the same for every attempt. A `timed` need waits for maintenance windows and has a
    deadline. While an `exclusive` need is held, no later need is sent. `mdm_usable` is False if its
    job must not go through MDM. `newer_matures_us` is when a newer release replaces the target;
    before `not_before_us` it is not certain that the need exists (both in us since 1970).
    `ineffective_before`: a job for this intent succeeded without effect, so a person must act.
    """

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
    """Yield every need of this Mac, in the order of the table at the top; nothing if it has none.

    After a `reenroll`, the later needs have `mdm_usable` False. A reinstall or reimage is the last
    need, unless it has `ineffective_before`.
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
    """Return the version and build of a release as the target of a job."""
    return target(release.version, release.build)


@lru_cache(maxsize=4096)
def target(version: OSVersion, build: Build | None) -> Target:
    """Return a version and build as the target of a job; cached, because there are few."""
    return Target(version=version, build=build)


def intent_of(release: Release) -> str:
    """Return the intent of an update or upgrade to a release: its version as text.

    The build is no part of it: a feed can remove a build or add one later, and that must not start
    a new series of attempts.
    """
    return str(release.version)


# --- enrollment ---


def needs_reenrollment(s: Situation) -> Need | None:
    """Return the need to enroll again, or None if the enrollment has no fault.

    Its reason is the fault. For `mdm_silent`, `not_before_us` is the end of the time that MDM has
    to contact a returned Mac; for other faults it is None.
    """
    reason = _enrollment_fault(s)
    if reason is None:
        return None
    # One intent for each enrollment: a fault of a later enrollment starts a new series of attempts.
    checkins = s.device.checkins
    intent = f"{reason.value}@{max(checkins[AUTHENTICATED], checkins[CHECKED_OUT])}"
    confirmed_us = _mdm_grace_ends_us(s) if reason is Reason.MDM_SILENT else None
    return Need(Action.REENROLL, reason, intent, timed=False, not_before_us=confirmed_us)


def _mdm_grace_ends_us(s: Situation) -> int:
    """Return the time from which a Mac without MDM contact counts as silent, in us since 1970.

    It is 24 hours after the end of the first day (UTC) that has an inventory report and is later
    than the day of the last MDM contact, or 24 hours after the newest inventory report if that is
    earlier or there is no such day. After weeks of absence the first inventory report can arrive
    before the first MDM message.
    """
    device = s.device
    first_day_us = first_later_day_end_us(device.inventory_days, device.mdm_seen_us)
    back_us = min(first_day_us or device.inventory_seen_us, device.inventory_seen_us)
    return back_us + duration_us(_MDM_GRACE)


def _enrollment_fault(s: Situation) -> Reason | None:
    """Return the first enrollment fault of the table at the top; None if there is none."""
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
    """Yield the fields that show an enrollment fault, or can show one later.

    They may be reports of an earlier enrollment. `mdm_server`: its host is not that of the policy's
    server; not yielded if either is None. `identity_expires_at`: the time is known, however far
    away. `user_approved`: it is False, and the policy requires approval.
    """
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
    """Return True if the newest report of the field `fact` is not older than the last Authenticate.

    True without an Authenticate. An Authenticate begins a new enrollment, with a new identity
    certificate.
    """
    return s.device.reported_us(fact) >= s.device.checkins[AUTHENTICATED]


def has_earlier_enrollment_defect(s: Situation) -> bool:
    """Return True if the newest report of a defect is older than the last Authenticate.

    Such a defect does not count. A new report of the same value makes it count, although no value
    changes, so the Mac must be decided again.
    """
    return any(not _is_of_present_enrollment(s, fact) for fact in _enrollment_defects(s))


def renewal_us(s: Situation) -> int | None:
    """Return the time from which the MDM identity must be renewed, in us since 1970.

    It is `identity_renew_before` of the policy before the certificate ends. None if the end is
    unknown, or was reported for an earlier enrollment.
    """
    expires_at = s.device.identity_expires_at
    if expires_at is None or not _is_of_present_enrollment(s, "identity_expires_at"):
        return None
    return to_us(expires_at) - duration_us(s.policy.mdm.identity_renew_before)


def next_enrollment_fault_us(s: Situation) -> int | None:
    """Return the first time after now at which an enrollment fault begins without an event.

    In us since 1970; None if no such time is known. A Mac becomes `mdm_silent` by a report, not by
    time.
    """
    erased, renew_us = _erase_without_reenrollment(s), renewal_us(s)
    if erased is None and renew_us is None:
        return None
    times = (renew_us, None if erased is None else _ade_grace_ends_us(erased))
    return min((us for us in times if us is not None and us > s.now_us), default=None)


def mdm_is_silent(s: Situation) -> bool:
    """Return True if inventory reports go on and MDM contact has ended.

    The newest inventory report is later than the last MDM contact by more than the policy's
    `silent_after`. False for a Mac that MDM never knew.
    """
    mdm_us = s.device.mdm_seen_us
    silence_us = s.device.inventory_seen_us - mdm_us
    return mdm_us > 0 and silence_us > duration_us(s.policy.mdm.silent_after)


def _ade_grace_ends_us(erased: JobEntry) -> int:
    return erased.outcome_us + duration_us(_ADE_GRACE)


def _erase_without_reenrollment(s: Situation) -> JobEntry | None:
    """Return the last successful reinstall or reimage, if it erased and no enrollment followed.

    None otherwise, also if there was none.
    """
    last = last_reinstall(s)
    if last is None or not last.erases or s.device.enrolled_since(last.since_us):
        return None
    return last


def last_reinstall(s: Situation) -> JobEntry | None:
    """Return the newest reinstall or reimage that succeeded; None if there is none."""
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
    """Return the points not yet confirmed after the last successful reinstall or reimage.

    The points are `re-enrolled`, `user-approved`, `activation NAME` and `compliant`. Empty if all
    are confirmed, or if there was no reinstall.
    """
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
    """Return the need to reinstall or reimage the system; None if no cause of the table applies.

    `update` is the update or upgrade that the reinstall replaces if it failed too often. Also None
    if the version is unknown, or if a reinstall finds no release to install; a reimage needs none.
    """
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
    """Return the need to reinstall the system without an erase.

    `ineffective_before` is True if a reinstall for this intent succeeded earlier: then it is not
    repeated, and a person must decide. Usual causes: an administrator has disabled the seal, or the
    firmware in the policy is wrong.
    """
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
    """Return the release for a reinstall: the update of its line, else the newest one offered.

    Supplements do not count. None if no release of its line is offered to the Mac, or if the Mac is
    newer than the newest one offered.
    """
    release = newest_matured(s, exposed.line, exposed)[0]
    if release is not None:
        return release
    for release in s.advisories.lines.get(version.line, ()):
        if not release.version.supplement and release.offered_to(s.device.device_id):
            return release if release.version >= version.release else None
    return None


def expected_firmware(s: Situation) -> str | None:
    """Return the firmware that the policy has for the Mac's model and version.

    None if the policy has none, or if the firmware, model or version of the Mac is unknown.
    """
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
    """Return the need to erase a returned loan unit: a reimage if an image fits, else a reinstall.

    None if no image fits and no release can be installed.
    """
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
    """Return the image from which this Mac may be restored (or None), and the evidence as lines.

    An image never changes a Mac's version, build or firmware: they must equal the Mac's already.
    The evidence has one line per point: those of the image found, or those of every image of the
    policy if none fits. Without images it is the line `no image in the policy`.
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
