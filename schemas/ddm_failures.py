"""Reasons for which a Mac reports that a declared update failed, as error codes.

Apple's `softwareupdate.failure-reason` is free text (github.com/apple/device-management,
declarative/status/softwareupdate.failure-reason.yaml). The texts of the table are those that were
seen, or that Apple's tools and ScheduleOSUpdate use for the same causes:

| text | seen in |
| --- | --- |
| InsufficientSpace, InsufficientPower, InsufficientNetwork | system.update.schedule of Apple |
| BatteryTooLow, Insufficient disk space | status reports of Macs under Jamf |
| Not enough free disk space, Failed to authenticate, Can't connect | github.com/Macjutsu/super |
"""

from typing import Final

from schemas.results import ErrorCode

# In the order of the search; compared without case, spaces and apostrophes.
_CODES: Final = (
    ("diskspace", ErrorCode.NO_DISK_SPACE),
    ("insufficientspace", ErrorCode.NO_DISK_SPACE),
    ("batterytoolow", ErrorCode.LOW_POWER),
    ("insufficientpower", ErrorCode.LOW_POWER),
    ("bootstraptoken", ErrorCode.NO_BOOTSTRAP_TOKEN),
    ("failedtoauthenticate", ErrorCode.NO_BOOTSTRAP_TOKEN),
    ("insufficientnetwork", ErrorCode.DOWNLOAD_FAILED),
    ("downloadfailed", ErrorCode.DOWNLOAD_FAILED),
    ("failedtodownload", ErrorCode.DOWNLOAD_FAILED),
    ("errordownloading", ErrorCode.DOWNLOAD_FAILED),
    ("cantconnect", ErrorCode.DOWNLOAD_FAILED),
    ("couldntcommunicate", ErrorCode.DOWNLOAD_FAILED),
    ("nsurlerrordomain", ErrorCode.DOWNLOAD_FAILED),
)
_IGNORED: Final = str.maketrans("", "", " _-'\u2019")


def failure_code(reason: str | None) -> ErrorCode:
    """Return the error code of a Mac's own text; `install_failed` for an unknown or absent one."""
    text = (reason or "").casefold().translate(_IGNORED)
    return next((code for part, code in _CODES if part in text), ErrorCode.INSTALL_FAILED)
