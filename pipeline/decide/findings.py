"""Findings of one Mac: what is wrong or unknown about it, and no job corrects.

A Mac whose state cannot be judged is never `compliant`: if one of UNCERTAIN applies and nothing is
missing as far as is known, the decision's reason is `uncertain`.
"""

from collections.abc import Iterator
from typing import Final

from pipeline.decide.exposure import Exposure
from pipeline.decide.family_hold import is_family_hold
from pipeline.decide.needs.reinstall import expected_firmware, is_older_firmware
from pipeline.decide.needs.reinstall_history import follow_up_missing
from pipeline.decide.needs.update import upgrade_obstacle
from pipeline.decide.protection import (
    is_no_loan,
    is_owner_unknown,
    left_alone,
    was_seen_after_retirement,
)
from pipeline.decide.situation import Situation
from pipeline.state.advisories import Release
from pipeline.state.hardware import supports_major
from schemas.decisions import Reason
from schemas.findings import FindingCode
from schemas.ids import clean_text
from schemas.jobs import Action
from schemas.macos import OSVersion, parse_os_version

# The code, and the observation as text; "" if the code is enough.
Finding = tuple[FindingCode, str]

UNCERTAIN: Final = frozenset(
    {
        FindingCode.RUNS_BETA,
        FindingCode.NEWER_THAN_FEEDS,
        FindingCode.MODEL_UNKNOWN,
        FindingCode.DEVICE_NOT_LISTED,
        FindingCode.UPGRADE_UNKNOWN,
        FindingCode.SERIAL_CHANGED,
    }
)


def findings_of(s: Situation, exposed: Exposure, *, has_need: bool) -> tuple[Finding, ...]:
    """Return the findings of this Mac, in the order of the rules below; empty if it has none.

    With `has_need` a job remedies what a Mac without needs can only wait for: an unsupported line,
    an improvement that installs itself.
    """
    found = [*_of_identity(s)]
    if has_need or left_alone(s) is None:  # a Mac that is left alone has no need
        found += _of_managed_mac(s, exposed, has_need=has_need)
    return tuple(found)


def _of_identity(s: Situation) -> Iterator[Finding]:
    """Yield the findings about the Mac's identifiers, its owner and its retirement."""
    device = s.device
    if device.is_partial:
        yield FindingCode.UDID_UNKNOWN, ""
    if s.identity.replaced_by is not None:
        yield FindingCode.REPLACED, f"by {s.identity.replaced_by}"
    if was_seen_after_retirement(s):
        yield FindingCode.RETIRED_BUT_SEEN, ""
    yield from s.identity.conflicts
    if device.is_user_enrolled:
        yield FindingCode.USER_ENROLLED, ""
    elif device.is_personal:
        yield FindingCode.PERSONAL, ""
    if is_owner_unknown(s):
        yield FindingCode.OWNER_UNKNOWN, ""
    if is_no_loan(s):
        yield FindingCode.NOT_A_LOAN, ""


def _of_managed_mac(s: Situation, exposed: Exposure, *, has_need: bool) -> list[Finding]:
    """Return the findings about the system and the enrollment of a Mac that is not left alone."""
    device, version = s.device, s.device.os_version
    found: list[Finding] = []
    if s.contradicted is not None:
        detail = f"macOS {s.contradicted} in Jamf, macOS {version} installed by a job"
        found.append((FindingCode.VERSION_CONTRADICTED, detail))
    if version is None:
        found.append((FindingCode.VERSION_UNKNOWN, ""))
    else:
        found += _of_version(s, version)
        found += _of_hardware(s, version, has_need=has_need)
        if not has_need and exposed.line.releases and exposed.line.releases[0].version.supplement:
            improvement = f"macOS {exposed.line.releases[0].version}"
            found.append((FindingCode.SUPPLEMENT_PENDING, improvement))
    expected = expected_firmware(s)
    is_other = expected is not None and device.firmware != expected
    if is_other and is_older_firmware(device.firmware, expected or "") is False:
        detail = f"firmware {device.firmware}, macOS {version} has {expected}"
        found.append((FindingCode.FIRMWARE_NEWER, detail))
    if is_unknown_to_mdm(s):
        found.append((FindingCode.MDM_UNKNOWN, ""))
    if device.loan_returned_at is not None and device.ade_enrolled is not True:
        found.append((FindingCode.NOT_IN_ADE, "" if device.ade_enrolled is False else "not known"))
    found += _held_releases(s, exposed)
    missing = follow_up_missing(s)
    if missing:
        found.append((FindingCode.FOLLOW_UP_MISSING, ", ".join(missing)))
    return found


def _held_releases(s: Situation, exposed: Exposure) -> list[Finding]:
    """Return a finding for each release that the Mac lacks and that is held for its family."""
    if not s.halts:
        return []
    held = {halt.scope.advisory_id: halt.why for halt in s.halts if is_family_hold(halt)}
    lacked = [one.advisory_id for one in exposed.line.releases if one.advisory_id in held]
    return [(FindingCode.RELEASE_FAILING, held[identity]) for identity in lacked]


def of_halted_action(s: Situation, action: Action) -> tuple[Finding, ...]:
    """Return the finding that Drydock itself halted this action at the Mac's site."""
    return tuple(
        [
            (FindingCode.ACTION_HALTED, halt.why)
            for halt in s.halts
            if halt.is_automatic and halt.scope.covers_jobs_of(s.site_name, action)
        ]
    )


def is_unknown_to_mdm(s: Situation) -> bool:
    """Return True if no MDM server has reported the Mac, nor any source that it is enrolled."""
    return not s.device.mdm_seen_us and s.device.mdm_enrolled is None


def _of_version(s: Situation, version: OSVersion) -> list[Finding]:
    """Return the findings about the version that runs."""
    build, newest = s.device.build, s.advisories.newest_major
    found: list[Finding] = []
    if build is not None and build.is_beta:
        found.append((FindingCode.RUNS_BETA, f"build {build}"))
    if newest is not None:
        of_line = s.advisories.newest_of_line.get(version.line)
        if version.release > of_line if of_line else version.major > newest:
            known = f"macOS {of_line or newest}"
            found.append((FindingCode.NEWER_THAN_FEEDS, f"macOS {version}; the newest is {known}"))
    return found


def _of_hardware(s: Situation, version: OSVersion, *, has_need: bool) -> list[Finding]:
    """Return the findings about the versions that the Mac can run and is offered."""
    device, found = s.device, list[Finding]()
    obstacle = upgrade_obstacle(s)
    if obstacle is Reason.MODEL_UNKNOWN:
        found.append((FindingCode.MODEL_UNKNOWN, f"model {device.model}, id {device.device_id}"))
    elif obstacle is Reason.UNFIXABLE_HARDWARE:
        found.append((FindingCode.HARDWARE_ENDED, f"macOS {version.line}"))
    elif s.line_is_supported is False and not has_need:
        found.append((FindingCode.LINE_ENDED, _left_on(s, version)))
    is_listed = s.advisories.lists_device(version.line, s.device_id)
    if version.line in s.advisories.lines_with_devices and not is_listed:
        detail = f"model {device.model}, id {device.device_id}"
        found.append((FindingCode.DEVICE_NOT_LISTED, detail))
    else:
        for release in s.advisories.specific_releases.get(version.line, ()):
            detail = _doubtful_offer(s, release)
            if detail and not release.reached_by(version, device.build):
                found.append((FindingCode.DEVICE_NOT_LISTED, detail))
                break
    wanted = s.policy.upgrades.to
    if wanted is not None and parse_os_version(wanted).major > version.major:
        runs = s.runs_line(wanted)
        if runs is False:
            found.append((FindingCode.UPGRADE_IMPOSSIBLE, f"macOS {wanted}"))
        elif runs is None or not s.advisories.lines.get(wanted):
            found.append((FindingCode.UPGRADE_UNKNOWN, f"macOS {wanted}"))
    return found


def _doubtful_offer(s: Situation, release: Release) -> str:
    """Return why it is not known if Apple offers the Mac a release for some hardware only.

    Empty if a list of devices or the table of models has the Mac's hardware.
    """
    if not release.device_ids:
        return f"macOS {release.version} is for some Macs that its source does not list"
    device_id, model = s.device_id, s.device.model
    is_known = device_id is not None and device_id.lower() in s.advisories.listed_device_ids
    if is_known or supports_major(model, release.version.major) is not None:
        return ""
    return f"macOS {release.version} is for some Macs; model {model}, id {device_id}"


def _left_on(s: Situation, version: OSVersion) -> str:
    """Return why the Mac stays on its unsupported line."""
    upgrades = s.policy.upgrades
    if not upgrades.out_of_support:
        return f"macOS {version.line}; the policy upgrades no Mac for that"
    limit = "" if upgrades.to is None else f" up to macOS {upgrades.to}"
    return f"macOS {version.line}; no release to move to is known to be offered to it{limit}"


def details(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return `code: observation` for each finding with an observation, as the text of an event."""
    return tuple(clean_text(f"{code}: {detail}") for code, detail in findings if detail)
