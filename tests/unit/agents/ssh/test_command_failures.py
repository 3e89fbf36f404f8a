"""Each known failure of Apple's tools: the code of the executor, and the next step of the pipeline.

The texts are those that public tools match (github.com/Macjutsu/super, grahampugh/erase-install).
"""

from datetime import UTC, datetime, timedelta

import pytest

from agents.mac import InstallState
from agents.ssh.progress import order_progress
from agents.ssh.report import Task, TaskState
from pipeline.decide.decision import decide
from schemas.decisions import Decision, Reason
from schemas.jobs import Method
from schemas.results import ErrorCode, Outcome
from tests.factories import DAY, HOUR, NOW, entry, mac, policy, situation

BEGUN = datetime(2026, 11, 30, 12, tzinfo=UTC)
ENDED = BEGUN + timedelta(minutes=20)
BEFORE = BEGUN - timedelta(days=3)
RULES = policy(
    methods={"update": ["softwareupdate", "ddm"]},
    tries={"softwareupdate": 2},
    thresholds={"reinstall_after_failures": 4},
)
AGAIN, OTHER = Method.SOFTWAREUPDATE, Method.DDM
STAGED = "Downloading macOS Tahoe 26.7\nDownloaded: macOS Tahoe 26.7\n"

# output, exit status (None: ended by Drydock), boot since -> code, method of the third job
FAILURES = {
    "too little disk, with status 0": (
        "Not enough free disk space: a total of 17.13 GB is required.\n",
        *(0, False, ErrorCode.NO_DISK_SPACE, AGAIN),
    ),
    "no volume owner, although staged": (
        STAGED + "Failed to authenticate\nPassword:\n",
        *(1, False, ErrorCode.NO_VOLUME_OWNER, AGAIN),
    ),
    "installer without authorization": (
        "Preparing to run macOS Installer...\nError: could not get authorization...\n",
        *(20, False, ErrorCode.NO_VOLUME_OWNER, AGAIN),
    ),
    "label is gone": ("No such update\n", 0, False, ErrorCode.UPDATE_NOT_OFFERED, AGAIN),
    "nothing offered": (
        "No updates are available.\n",
        *(0, False, ErrorCode.UPDATE_NOT_OFFERED, AGAIN),
    ),
    "server, curly apostrophe": (
        "Can\u2019t connect to the Apple Software Update server\n",
        *(1, False, ErrorCode.UPDATE_SERVER_UNREACHABLE, AGAIN),
    ),
    "server, plain apostrophe": (
        "Couldn't communicate with a helper application.\n",
        *(1, False, ErrorCode.UPDATE_SERVER_UNREACHABLE, AGAIN),
    ),
    "download": (
        "Downloading: 12.00%\rFailed to download macOS\n",
        *(1, False, ErrorCode.DOWNLOAD_FAILED, AGAIN),
    ),
    "download, other text": (
        "Error downloading updates.\n",
        *(0, False, ErrorCode.DOWNLOAD_FAILED, AGAIN),
    ),
    "installer is not Apple's": (
        "Error: the installer's signature is not Apple's\n",
        *(1, False, ErrorCode.INSTALLER_CORRUPT, AGAIN),
    ),
    "another error of the installer": (
        "Preparing: 12.3%\rError: something\n",
        *(1, False, ErrorCode.INSTALL_FAILED, OTHER),
    ),
    "another status": (STAGED, 3, False, ErrorCode.INSTALL_FAILED, OTHER),
    "restart into the old system": (STAGED, 0, True, ErrorCode.INSTALL_FAILED, OTHER),
    "status 0, nothing done": ("", 0, False, ErrorCode.NOTHING_HAPPENED, OTHER),
    "silence": ("Preparing: 12.3%\r", None, False, ErrorCode.NOTHING_HAPPENED, OTHER),
}


@pytest.mark.parametrize(
    ("output", "status", "restarted", "code", "then"), FAILURES.values(), ids=FAILURES
)
def test_failure_has_its_code_and_its_next_step(
    output: str, status: int | None, restarted: bool, code: ErrorCode, then: Method
) -> None:
    state = TaskState.SILENT if status is None else TaskState.ENDED
    task = Task("job-1.1.install", state, BEGUN, status, ENDED, output)
    boot_at = ENDED if restarted else BEFORE
    seen = order_progress(task, boot_at, ENDED)
    assert (seen.state, seen.error_code) == (InstallState.FAILED, code)
    assert after(code, times=1).method is Method.SOFTWAREUPDATE
    assert after(code, times=2).method is then


def after(code: ErrorCode, *, times: int) -> Decision:
    """Return the decision a day after so many updates failed with this code."""
    history = tuple(
        entry(
            "26.2",
            generation=number,
            method=Method.SOFTWAREUPDATE,
            outcome=Outcome.FAILED,
            error_code=code,
            issued_at=NOW - (times + 1 - number) * DAY,
            outcome_at=NOW - (times + 1 - number) * DAY + HOUR,
        )
        for number in range(times)
    )
    return decide(situation(mac(), rules=RULES, job_history=history))


@pytest.mark.parametrize(
    "code",
    [ErrorCode.NO_BACKUP, ErrorCode.INSTALLER_UNAVAILABLE, ErrorCode.INSTALLER_CORRUPT],
)
def test_job_that_was_not_begun_is_no_attempt(code: ErrorCode) -> None:
    assert after(code, times=6).reason is not Reason.RETRIES_EXHAUSTED
    assert after(ErrorCode.NO_VOLUME_OWNER, times=6).reason is Reason.RETRIES_EXHAUSTED
