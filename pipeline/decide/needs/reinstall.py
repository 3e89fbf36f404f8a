"""The need to reinstall the system in place, to erase a returned loan unit, or to restore it."""

from fnmatch import fnmatchcase
from typing import Final

from pipeline.decide.exposure import Exposure
from pipeline.decide.methods import INSTALL_FAILURES, MethodRow, has_untried_method
from pipeline.decide.needs.need import Need, target_of
from pipeline.decide.needs.reinstall_history import (
    count_tried,
    failed_by_time_alone,
    last_reinstall,
)
from pipeline.decide.needs.restart import (
    failing_intent,
    has_failed_since,
    is_over,
    last_restart,
    needs_restart,
)
from pipeline.decide.needs.update import line_opens_us, newest_matured, wanted_lines
from pipeline.decide.situation import Situation
from pipeline.policy.model import Image
from pipeline.state.advisories import Release
from pipeline.state.device import to_us
from pipeline.state.hardware_table import RESTORED_BY_ASR
from pipeline.state.jobs import attempts, failures
from schemas.decisions import Reason
from schemas.ids import clean_text
from schemas.jobs import Action, Method, Target
from schemas.macos import OSVersion
from schemas.results import Outcome

# The end of a line of evidence about an image, if the point does not hold.
_NO: Final = ": no"


def needs_reinstall(s: Situation, exposed: Exposure, update: Need | None) -> Need | None:
    """Return the need to reinstall or reimage the system; None if no cause of the table applies.

    `update` is the update or upgrade that the reinstall replaces if it failed too often, by every
    method that is free. Before that the need is to restart the Mac. Also None for a Mac of which
    neither the version nor the model is known. A need without a release to install is held, by the
    gate `method`.
    """
    device = s.device
    version = device.os_version
    if version is None and device.model is None:
        return None
    returned_us = loan_returned_us(s)
    if returned_us is not None and returned_us <= s.now_us:
        last = last_reinstall(s)
        if last is None or last.issued_us < returned_us:
            return _loan_return(s, version, exposed, f"loan@{returned_us}")
    expected = expected_firmware(s)
    mismatch = expected is not None and is_older_firmware(device.firmware, expected)
    if device.system_volume_sealed is False or mismatch:
        release = _best_release(s, version, exposed)
        trusts_all = not s.policy.blast_radius.confirmed_only
        if device.system_volume_sealed is False:
            is_sure = trusts_all or device.corroborated_seal is False
            uncorroborated = "" if is_sure else "the seal is broken"
            return _reinstall_in_place(
                s, release, Reason.SEAL_BROKEN, "seal", uncorroborated=uncorroborated
            )
        is_sure = trusts_all or device.corroborated_firmware == device.firmware
        uncorroborated = "" if is_sure else f"the firmware is {device.firmware}"
        evidence = (f"firmware {device.firmware}, {version} has {expected}",)
        return _reinstall_in_place(
            *(s, release, Reason.FIRMWARE_MISMATCH, f"firmware:{device.firmware}:{version}"),
            evidence,
            uncorroborated=uncorroborated,
        )
    return None if update is None or not s.job_history else _after_failures(s, update)


def _after_failures(s: Situation, update: Need) -> Need | None:
    """Return the restart or the reinstall that takes the place of an update that keeps failing.

    None if the update is tried again, by the table of `needs.restart`, and in place of a reinstall
    for a background security improvement: no installer has one.
    """
    limits = s.policy.thresholds
    failed = failures(s.job_history, update.action, update.intent)
    went_wrong = [
        entry
        for entry in failed
        if entry.error_code in INSTALL_FAILURES and not failed_by_time_alone(s, entry)
    ]
    if len(went_wrong) < limits.reinstall_after_failures:
        return None
    evidence = tuple(f"{entry.method} failed: {entry.error_code}" for entry in went_wrong)
    left = limits.max_attempts - count_tried(s, failed)
    is_spent = not has_untried_method(s, update)
    restart = last_restart(s, update)
    if is_over(restart, went_wrong) and left > 0 and (left == 1 or is_spent):
        need = needs_restart(s, update, evidence)
        if need is not None:
            return need
    if restart is not None and left > 0 and not has_failed_since(restart, went_wrong):
        return None
    if len(went_wrong) < limits.max_attempts and not is_spent:
        return None
    assert update.release is not None
    if update.release.version.supplement:
        return None  # no installer has it
    return _reinstall_in_place(
        s, update.release, Reason.UPDATE_KEEPS_FAILING, failing_intent(update), evidence
    )


def _reinstall_in_place(
    s: Situation,
    release: Release | None,
    reason: Reason,
    intent: str,
    evidence: tuple[str, ...] = (),
    *,
    uncorroborated: str = "",
) -> Need:
    """Return the need to reinstall the system without an erase; `uncorroborated` as in Need.

    If a reinstall for this intent succeeded earlier, it is not
    repeated, and a person must decide. Usual causes: an administrator has disabled the seal, or the
    firmware in the policy is wrong.
    """
    was_ineffective = any(
        entry.outcome is Outcome.SUCCEEDED
        for entry in attempts(s.job_history, Action.REINSTALL, intent)
    )
    return Need(
        Action.REINSTALL,
        reason,
        intent,
        None if release is None else target_of(release),
        release,
        # A false report of a fault must not keep updates from the Mac.
        exclusive=not was_ineffective and not uncorroborated,
        uncorroborated=uncorroborated,
        needs_person="a reinstall succeeded and did not correct it" if was_ineffective else "",
        evidence=evidence,
    )


def _best_release(s: Situation, version: OSVersion | None, exposed: Exposure) -> Release | None:
    """Return the release for a reinstall: the update of its line, else the newest one offered.

    Supplements do not count. None if no release of its line is offered to the Mac, if the Mac is
    newer than the newest one offered, or if its version is unknown.
    """
    if version is None:
        return None
    chosen = newest_matured(s, exposed.line)
    if chosen is not None:
        return chosen.release
    for release in s.advisories.lines.get(version.line, ()):
        if not release.version.supplement and release.offered_to(s.device_id):
            return release if release.version >= version.release else None
    return None


def _newest_system(s: Situation) -> Release | None:
    """Return the newest release that the Mac's hardware runs and the policy wants, or None.

    Its line is supported, not above `upgrades.to`, and no longer deferred.
    """
    for line in wanted_lines(s):
        opens_us = line_opens_us(s, line)
        if s.runs_line(line) and (opens_us is None or s.now_us >= opens_us):
            for release in s.advisories.lines.get(line, ()):
                if not release.version.supplement and release.offered_to(s.device_id):
                    return release
    return None


def loan_returned_us(s: Situation) -> int | None:
    """Return the time, in us, at which the loan unit is or was returned; None if it is none."""
    returned_at = s.device.loan_returned_at
    return None if returned_at is None else to_us(returned_at)


def is_older_firmware(firmware: str | None, expected: str) -> bool | None:
    """Return True if this firmware is older than `expected`, False if it is equal or newer.

    None if that is not known: another form than numbers between dots. No installer takes firmware
    back, so only older firmware is a fault.
    """
    found, wanted = _numbers(firmware or ""), _numbers(expected)
    if found is None or wanted is None:
        return None if firmware != expected else False
    return found < wanted


def _numbers(text: str) -> tuple[int, ...] | None:
    """Return the numbers of `13822.61.10`, or of the first part of `13822.61.10 (iBridge: ...)`."""
    first = text.split(" ", maxsplit=1)[0].split(".")
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in first):
        return None
    return tuple(int(part) for part in first)


def expected_firmware(s: Situation) -> str | None:
    """Return the firmware that the policy has for the Mac's model and version.

    None if the policy has none, if the firmware, model or version of the Mac is unknown, or if it
    runs a beta, which has firmware of its own.
    """
    device = s.device
    if device.firmware is None or device.model is None or device.os_version is None:
        return None
    if device.build is not None and device.build.is_beta:
        return None
    for rule in s.policy.firmware:
        if rule.version == device.os_version and _matches_any_model(rule.models, device.model):
            return rule.firmware
    return None


def _matches_any_model(globs: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model.lower(), glob.lower()) for glob in globs)


def _loan_return(s: Situation, version: OSVersion | None, exposed: Exposure, intent: str) -> Need:
    """Return the need to erase a returned loan unit: a reimage if an image fits, else a reinstall.

    The reinstall is to a release of its own line, or to the newest system that it runs, as the
    policy's `loans.system` prefers; without either only a method that keeps the system can do it.
    A returned Mac has no user, so it waits for a window only if the policy wants it.
    """
    loans = s.policy.loans
    person = loans.require_ade and s.device.ade_enrolled is not True
    needs_person = "it would not enroll again by itself (loans.require_ade)" if person else ""
    image, evidence = reimage_eligibility(s)
    if image is not None:
        return Need(
            Action.REIMAGE,
            Reason.LOAN_RETURNED,
            intent,
            Target(version=image.version, build=image.build),
            erases=True,
            timed=loans.wait_for_window,
            exclusive=True,
            evidence=evidence,
            needs_person=needs_person,
        )
    if loans.system == "newest":
        release = _newest_system(s) or _best_release(s, version, exposed)
    else:
        release = _best_release(s, version, exposed) or _newest_system(s)
    return Need(
        Action.REINSTALL,
        Reason.LOAN_RETURNED,
        intent,
        None if release is None else target_of(release),
        release,
        erases=True,
        timed=loans.wait_for_window,
        exclusive=True,
        evidence=evidence,
        needs_person=needs_person,
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
                device.hardware in RESTORED_BY_ASR,
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
        lines = [f"{image.name}: {text}{': yes' if holds else _NO}" for holds, text in points]
        if all(holds for holds, _ in points):
            return image, tuple(lines)
        evidence += lines
    return None, tuple(evidence)


def other_method_rows(s: Situation, need: Need) -> tuple[MethodRow, ...]:
    """Return a row for each method of the other way to make a returned loan unit as new.

    That is `asr` beside a reinstall, with each point in which an image does not fit, and the
    methods of a reinstall beside a reimage. Empty for any other need.
    """
    if need.reason is not Reason.LOAN_RETURNED:
        return ()
    if need.action is Action.REIMAGE:
        names, detail = s.policy.methods.reinstall, "an image of the policy fits"
        return tuple(MethodRow(Method(name), "passed over", detail) for name in names)
    missing = [line.removesuffix(_NO) for line in need.evidence if line.endswith(_NO)]
    detail = clean_text("not true: " + "; ".join(missing) if missing else "; ".join(need.evidence))
    return tuple(MethodRow(Method(name), "impossible", detail) for name in s.policy.methods.reimage)
