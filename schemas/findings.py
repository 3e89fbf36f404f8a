"""Findings: what is wrong or unknown about a Mac or the feeds, and no job corrects.

The codes are a closed set; `schemas.sentences` has one sentence for people about each.
"""

from enum import StrEnum


class FindingCode(StrEnum):
    """The closed set of findings of a decision. The value is the same in record and metric."""

    VERSION_UNKNOWN = "version_unknown"
    VERSION_CONTRADICTED = "version_contradicted"
    UDID_UNKNOWN = "udid_unknown"
    USER_ENROLLED = "user_enrolled"
    PERSONAL = "personal"
    OWNER_UNKNOWN = "owner_unknown"
    NOT_A_LOAN = "not_a_loan"
    REPLACED = "replaced"
    RETIRED_BUT_SEEN = "retired_but_seen"
    SERIAL_SHARED = "serial_shared"
    SERIAL_CHANGED = "serial_changed"
    ENROLLMENT_SHARED = "enrollment_shared"
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
    RELEASE_FAILING = "release_failing"
    ACTION_HALTED = "action_halted"


class FeedFindingCode(StrEnum):
    """The closed set of findings about the advisory feeds. The value is the same in the metric."""

    SOFA_LACKS_RELEASE = "sofa_lacks_release"
    GDMF_LACKS_RELEASE = "gdmf_lacks_release"
    BUILDS_DIFFER = "builds_differ"
    DEVICES_DIFFER = "devices_differ"
    DATES_DIFFER = "dates_differ"
    SOFA_LACKS_EXPLOITATION = "sofa_lacks_exploitation"
    RELEASE_IMPLAUSIBLE = "release_implausible"
    RETRACTION_HELD = "retraction_held"
