"""Output of `softwareupdate --install` and of `startosinstall`. Pure.

Apple does not document it. Both tools print a line for each step and the progress in percent,
separated by carriage returns. Exit status 0 does not mean success: `softwareupdate` ends with 0
after "Not enough free disk space". So the texts of failures count, and of the rest only the version
that the Mac runs later.

| line | state |
| --- | --- |
| Downloading macOS Tahoe 26.7; Downloading: 30.00% | downloading |
| Downloaded: macOS Tahoe 26.7; Preparing: 12.3% | installing: the system volume is being written |
| Done with ...; Done. | prepared: it installs at the next restart |
| Restarting... | installing |
| a text of ERRORS | failed |

Captured and quoted in public repositories: github.com/Macjutsu/super, grahampugh/erase-install.
"""

import re
from dataclasses import dataclass
from typing import Final

from agents.mac import InstallState
from schemas.ids import clean_text
from schemas.results import ErrorCode

ERRORS: Final = {
    "Not enough free disk space": ErrorCode.NO_DISK_SPACE,
    "Failed to authenticate": ErrorCode.NO_VOLUME_OWNER,
    "could not get authorization": ErrorCode.NO_VOLUME_OWNER,
    "No such update": ErrorCode.UPDATE_NOT_OFFERED,
    "No updates are available": ErrorCode.UPDATE_NOT_OFFERED,
    "Can't connect": ErrorCode.UPDATE_SERVER_UNREACHABLE,
    "Couldn't communicate": ErrorCode.UPDATE_SERVER_UNREACHABLE,
    "Failed to download": ErrorCode.DOWNLOAD_FAILED,
    "Error downloading updates": ErrorCode.DOWNLOAD_FAILED,
    "installer's signature is not Apple's": ErrorCode.INSTALLER_CORRUPT,
    "Error: image_unfit": ErrorCode.IMAGE_UNFIT,
    "Error: ": ErrorCode.INSTALL_FAILED,
}
"""Texts of failures, with plain apostrophes; the last one fits every error of startosinstall."""

_PERCENT: Final = re.compile(r"^(Downloading|Preparing|Progress|Installing): (\d{1,3})(?:\.\d+)?%")
_STEPS: Final = {
    "Downloading": InstallState.DOWNLOADING,
    "Downloaded": InstallState.INSTALLING,
    "Preparing": InstallState.INSTALLING,
    "Installing": InstallState.INSTALLING,
    "Done with": InstallState.PREPARED,
    "Done.": InstallState.PREPARED,
    "Restarting": InstallState.INSTALLING,
}
_MAX_DETAIL: Final = 200


@dataclass(frozen=True, slots=True)
class UpdateOutput:
    """State of an installation by its output so far.

    `percent` is that of the last step, None if it has none. `error_code` and `detail` are of the
    first failure in it; None and "" without one.
    """

    state: InstallState = InstallState.NONE
    percent: int | None = None
    error_code: ErrorCode | None = None
    detail: str = ""


def plain_text(text: str) -> str:
    """Return the text with plain apostrophes and with each carriage return as a line's end."""
    return text.replace("\u2019", "'").replace("\r\n", "\n").replace("\r", "\n")


def read_update_output(text: str) -> UpdateOutput:
    """Return the state that the output shows; its last line may be cut off."""
    state, percent = InstallState.NONE, None
    for line in plain_text(text).split("\n"):
        failure = _failure(line)
        if failure is not None:
            detail = clean_text(line.strip())[:_MAX_DETAIL]
            return UpdateOutput(InstallState.FAILED, percent, failure, detail)
        step = next((state for start, state in _STEPS.items() if line.startswith(start)), None)
        if step is not None and step is not state:
            state, percent = step, None
        found = _PERCENT.match(line)
        if found is not None:
            percent = min(int(found[2]), 100)
    return UpdateOutput(state, percent)


def _failure(line: str) -> ErrorCode | None:
    return next((code for text, code in ERRORS.items() if text in line), None)
