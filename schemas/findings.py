"""Findings: what is wrong or unknown about a Mac, and no job corrects.

The codes are a closed set; each has one sentence for people.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class FindingCode(StrEnum):
    """The closed set of findings of a decision. The value is the same in record and metric."""

    VERSION_UNKNOWN = "version_unknown"
    VERSION_CONTRADICTED = "version_contradicted"
    UDID_UNKNOWN = "udid_unknown"
    USER_ENROLLED = "user_enrolled"
    RUNS_BETA = "runs_beta"
    NEWER_THAN_FEEDS = "newer_than_feeds"
    MODEL_UNKNOWN = "model_unknown"
    DEVICE_NOT_LISTED = "device_not_listed"
    HARDWARE_ENDED = "hardware_ended"
    LINE_ENDED = "line_ended"
    UPGRADE_UNKNOWN = "upgrade_unknown"
    UPGRADE_IMPOSSIBLE = "upgrade_impossible"
    SUPPLEMENT_PENDING = "supplement_pending"
    FIRMWARE_NEWER = "firmware_newer"
    FOLLOW_UP_MISSING = "follow_up_missing"
    MDM_UNKNOWN = "mdm_unknown"
    NOT_IN_ADE = "not_in_ade"


SENTENCES: Final[Mapping[FindingCode, str]] = {
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
