"""One sentence for people about each code: reasons, gates, findings, methods and error codes.

`tools/reference_pages.py` makes docs/reference/codes.md and findings.md from these tables. "It" is
the Mac.
"""

from collections.abc import Mapping
from typing import Final

from schemas.decisions import Reason
from schemas.findings import FindingCode
from schemas.jobs import Method
from schemas.results import ErrorCode

REASONS: Final[Mapping[Reason, str]] = {
    # nothing
    Reason.COMPLIANT: "It lacks no release that is known and offered to it.",
    Reason.NO_ADVISORY: "No release of its version is known, so nothing can be compared.",
    Reason.UNFIXABLE_HARDWARE: "Its version gets no more fixes, and it runs no newer one.",
    Reason.OS_UNKNOWN: "No source has reported its version of macOS.",
    Reason.UDID_UNKNOWN: "Only its serial number is known; jobs need the UDID.",
    Reason.USER_ENROLLED: "Its owner enrolled it; Drydock leaves its system alone.",
    Reason.SUPPLEMENT_PENDING: "It lacks only an improvement that installs itself.",
    Reason.UNCERTAIN: "It lacks nothing that is known, but a finding makes that uncertain.",
    # send
    Reason.SECURITY_UPDATE: "It lacks a release of its version that fixes CVEs.",
    Reason.ROUTINE_UPDATE: "It lacks a release of its version that fixes no known CVE.",
    Reason.LINE_OUT_OF_SUPPORT: "Apple fixes its version no more, so it moves to a newer one.",
    Reason.POLICY_UPGRADE: "The policy wants a newer version of macOS (`upgrades.to`).",
    Reason.UPDATE_KEEPS_FAILING: "The update failed by every method, so macOS is installed again.",
    Reason.FIRMWARE_MISMATCH: "Its firmware is older than that of its version.",
    Reason.SEAL_BROKEN: "The seal of its system volume is broken.",
    Reason.LOAN_RETURNED: "It is a returned loan unit and is made as new.",
    Reason.CHECKED_OUT: "It left MDM.",
    Reason.NEVER_ENROLLED: "It reports that it is not enrolled, and MDM has never known it.",
    Reason.MDM_SILENT: "Inventory reports about it arrive, MDM messages do not.",
    Reason.NOT_USER_APPROVED: "Its enrollment is not approved by its user.",
    Reason.WRONG_MDM_SERVER: "It is enrolled at another server than the policy's.",
    Reason.IDENTITY_EXPIRING: "The certificate of its enrollment ends soon.",
    Reason.REENROLL_AFTER_REINSTALL: "It was erased and did not enroll again by itself.",
    Reason.ENROLLMENT_INCOMPLETE: "It began to enroll and did not finish.",
    # hold
    Reason.NO_POLICY: "No policy is in force.",
    Reason.EXEMPT: "An exemption or a rule of the policy leaves it as it is.",
    Reason.HALTED: "A halt covers it, its site or the release.",
    Reason.SITE_UNKNOWN: "No site of the policy matches it.",
    Reason.STALE_INVENTORY: "No source has seen it for longer than the policy allows.",
    Reason.JOB_OPEN: "A job for it is open.",
    Reason.COOLING_DOWN: "The last job failed a short time ago.",
    Reason.DRY_RUN: "Its site is in dry run: the job would have been sent.",
    Reason.RETRIES_EXHAUSTED: "The job failed as often as the policy allows; a person must look.",
    Reason.DEFERRED: "The policy's deferral of the release, or of its line, has not ended.",
    Reason.OUTSIDE_WINDOW: "No maintenance window is open at its site.",
    Reason.LOW_DISK: "It has too little free disk space.",
    Reason.LOW_POWER: "It is on battery, and the charge is too low or not known.",
    Reason.NO_BOOTSTRAP_TOKEN: "The MDM server has no bootstrap token for it.",
    Reason.NO_VOLUME_OWNER: "No account that may install updates on it is available.",
    Reason.NOT_SUPERVISED: "It is not supervised, as far as is known.",
    Reason.NOT_ENROLLED: "MDM cannot be used: it is not enrolled, or its enrollment has a fault.",
    Reason.NO_METHOD: "No method of the policy can do this on it.",
    Reason.NO_RELEASE: "No release that could be installed is known for it.",
    Reason.OTHER_UPDATE_RUNNING: "MDM already drives an update on it.",
    Reason.MODEL_UNKNOWN: "Its model is unknown, and so are the versions that it runs.",
    Reason.NEEDS_PERSON: "Only a person can do the next step.",
    Reason.AWAITING_APPROVAL: "The job erases it, and no approval has been given.",
    Reason.AWAITING_CONTACT: "It is back after an absence, and MDM has a day to reach it.",
    Reason.AWAITING_FOLLOW_UP: "The last reinstall is not confirmed in every point.",
    Reason.SITE_FULL: "Its site has as many open jobs as the policy allows.",
}

# In the order of evaluation; the last one follows a reinstall and belongs to no need.
GATES: Final[Mapping[str, str]] = {
    "site": "A site of the policy matches the Mac.",
    "exemption": "No exemption of the policy covers the Mac and the action.",
    "halt": "No halt covers everything, the Mac's site, or a release that the Mac lacks.",
    "fresh": "A source has seen the Mac within `stale_after`.",
    "job_open": "No other job for the Mac is open, or it can still be withdrawn.",
    "attempts": "Fewer jobs than `max_attempts` failed for the same purpose.",
    "cool_down": "The last failure is `cool_down` ago, doubled with each failure.",
    "sure": "It is certain that the job is needed and can help.",
    "deferral": "The policy's deferral of the release, and of its line, has ended.",
    "method": "A method that the policy allows can be used on the Mac.",
    "disk": "The Mac has enough free disk space, or the amount is not known.",
    "power": "The Mac is on AC power, or its battery is charged enough.",
    "approval": "The job erases nothing, or a person has approved it.",
    "window": "A maintenance window is open, or the deadline has passed.",
    "site_slots": "The site has fewer open jobs than `max_jobs`.",
    "follow_up": "Every point of `follow_up` is confirmed after a reinstall.",
}

FINDINGS: Final[Mapping[FindingCode, str]] = {
    FindingCode.VERSION_UNKNOWN: "The version of macOS is not known, so nothing can be compared.",
    FindingCode.VERSION_CONTRADICTED: "Jamf has an older version than the one confirmed by a job.",
    FindingCode.UDID_UNKNOWN: "Only a serial number is known: no source has reported the UDID.",
    FindingCode.USER_ENROLLED: "Its owner enrolled it: its system is not managed.",
    FindingCode.RUNS_BETA: "It runs a beta, whose fixes are not published.",
    FindingCode.NEWER_THAN_FEEDS: "It runs a newer version than every release that is known.",
    FindingCode.MODEL_UNKNOWN: "Its model is unknown, and so are the versions that it runs.",
    FindingCode.DEVICE_NOT_LISTED: "No release lists its device id: Apple may offer it others.",
    FindingCode.HARDWARE_ENDED: "Its version gets no more fixes, and it runs no newer one.",
    FindingCode.LINE_ENDED: "Its version gets no more fixes, and nothing upgrades it.",
    FindingCode.UPGRADE_UNKNOWN: "It may not run the version that the policy wants.",
    FindingCode.UPGRADE_IMPOSSIBLE: "It cannot run the version that the policy wants.",
    FindingCode.SUPPLEMENT_PENDING: "It lacks an improvement that installs itself.",
    FindingCode.FIRMWARE_NEWER: "Its firmware is newer than that of its version.",
    FindingCode.FOLLOW_UP_MISSING: "The last reinstall is not confirmed in every point.",
    FindingCode.MDM_UNKNOWN: "No MDM server has reported it.",
    FindingCode.NOT_IN_ADE: "After an erase a person must enroll it.",
}

METHODS: Final[Mapping[Method, str]] = {
    Method.DDM: "A declaration over MDM, which the Mac enforces itself; macOS 14 and later.",
    Method.MDM_COMMAND: "The MDM command ScheduleOSUpdate; macOS 11 to 13.",
    Method.SOFTWAREUPDATE: "Apple's command `softwareupdate`, over SSH.",
    Method.STARTOSINSTALL: "`startosinstall` of the installer `Install macOS`, over SSH.",
    Method.ERASE_DEVICE: "The MDM command EraseDevice, which keeps the installed macOS.",
    Method.ASR: "Restores an image with `asr`; Intel Macs without a T2 only.",
    Method.PROFILES_RENEW: "Apple's command `profiles renew -type enrollment`, over SSH.",
    Method.INSTALL_PROFILE: "Installs the enrollment profile again over MDM.",
}

ERRORS: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.BAD_SIGNATURE: "The agent does not trust the signature of the job or its approval.",
    ErrorCode.WRONG_SITE: "The job is signed for another site.",
    ErrorCode.EXPIRED: "The job was not begun in time.",
    ErrorCode.NO_APPROVAL: "The job erases the Mac and has no valid approval.",
    ErrorCode.HISTORY_UNKNOWN: "The agent cannot know if the Mac was erased already.",
    ErrorCode.SUPERSEDED: "The job was withdrawn before it touched the Mac.",
    ErrorCode.UNREACHABLE: "The Mac could not be reached.",
    ErrorCode.NO_DISK_SPACE: "The Mac has too little free disk space.",
    ErrorCode.LOW_POWER: "The Mac is on battery, and the charge is too low.",
    ErrorCode.NOT_ENROLLED: "The Mac is not enrolled, and the method needs MDM.",
    ErrorCode.ENROLLMENT_ENDED: "The enrollment ended, and the job with it.",
    ErrorCode.NO_VOLUME_OWNER: "No account that may install updates on the Mac is available.",
    ErrorCode.NO_BOOTSTRAP_TOKEN: "The MDM server has no bootstrap token for the Mac.",
    ErrorCode.DOWNLOAD_FAILED: "The Mac could not download the release.",
    ErrorCode.INSTALL_FAILED: "The installation failed on the Mac.",
    ErrorCode.COMMAND_REJECTED: "The Mac refused the command.",
    ErrorCode.NOTHING_HAPPENED: "The Mac accepted the order, and its reports show no effect.",
    ErrorCode.NO_REPORT: "No report confirmed the job in time.",
    ErrorCode.USER_DECLINED: "The user of the Mac declined.",
    ErrorCode.UNSUPPORTED: "The site's agent cannot carry out this method.",
    ErrorCode.METHOD_NOT_ALLOWED: "The site's configuration does not allow this method.",
    ErrorCode.LOCKED: "The site's configuration does not list the Mac in `allow_destructive`.",
    ErrorCode.NO_MDM_SERVER: "The site's configuration has no MDM server for the Mac.",
    ErrorCode.MDM_LOGIN_REFUSED: "The MDM server refused the agent's login.",
    ErrorCode.MDM_SERVER_REFUSED: "The MDM server refused the request.",
    ErrorCode.NOT_DELIVERED: "The command is still in the MDM server's queue.",
    ErrorCode.PUSH_FAILED: "Apple's push service refused the message that wakes the Mac.",
    ErrorCode.COMMAND_LOST: "The Mac contacted MDM and did not get the command.",
    ErrorCode.QUEUE_CLEARED: "A new enrollment cleared the command from the queue.",
    ErrorCode.DECLARATION_INVALID: "The Mac rejected the declaration.",
    ErrorCode.ERASE_IMPOSSIBLE: "The Mac cannot be erased in a way that keeps its system.",
    ErrorCode.NO_ERASE_PIN: "The Mac needs a PIN for the erase, and the site has none.",
    ErrorCode.ERASE_OUTSTANDING: "An earlier erase of the Mac has no result yet.",
    ErrorCode.NOT_REENROLLED: "The Mac did not enroll again.",
    ErrorCode.NOT_USER_APPROVED: "The new enrollment is not approved by its user.",
    ErrorCode.HALTED: "A halt ended the job.",
    ErrorCode.BUG: "Drydock has a fault; the log has the details.",
}
