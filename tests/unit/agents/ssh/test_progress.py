"""Progress of an order: each row of the table, and never a failure while it may still succeed."""

from datetime import datetime
from typing import Any

import pytest

from agents.mac import InstallState, Progress
from agents.ssh.progress import NOTICE, RESTART_WITHIN, order_progress
from agents.ssh.report import TaskState
from schemas.results import ErrorCode
from tests.unit.agents.ssh.macs import CLOCK, a_task, minutes

NAME = "job-1.1.install"
BEFORE = CLOCK - minutes(600)
RESTARTED = CLOCK - minutes(3)
STEP = "\rDownloading: 30.00%"
RESTARTS = "Downloaded: macOS\n\rPreparing: 100.0%\nRestarting...\n"

ROWS: dict[str, tuple[TaskState, dict[str, Any], datetime | None, Progress | ErrorCode]] = {
    "not begun": (TaskState.WAITING, {}, BEFORE, Progress()),
    "no output yet": (TaskState.RUNNING, {}, BEFORE, Progress(InstallState.WAITING)),
    "step": (
        TaskState.RUNNING,
        {"output": STEP},
        BEFORE,
        Progress(InstallState.DOWNLOADING, 30),
    ),
    "failure while it runs": (
        TaskState.RUNNING,
        {"output": "Failed to authenticate\n"},
        BEFORE,
        ErrorCode.NO_VOLUME_OWNER,
    ),
    "notice to the user": (
        TaskState.RUNNING,
        {"output": f"{NOTICE}\n"},
        BEFORE,
        Progress(InstallState.WAITING),
    ),
    "restart during the notice": (
        TaskState.INTERRUPTED,
        {"output": f"{NOTICE}\n"},
        RESTARTED,
        ErrorCode.USER_DECLINED,
    ),
    "restart during the notice, and the boot time is unknown": (
        TaskState.INTERRUPTED,
        {"output": f"{NOTICE}\n"},
        None,
        ErrorCode.USER_DECLINED,
    ),
    "restart after the notice, before any output": (
        TaskState.INTERRUPTED,
        {"output": ""},
        RESTARTED,
        ErrorCode.INSTALL_FAILED,
    ),
    "silent": (TaskState.SILENT, {"output": STEP}, BEFORE, ErrorCode.NOTHING_HAPPENED),
    "exit status": (TaskState.ENDED, {"exit_status": 3}, BEFORE, ErrorCode.INSTALL_FAILED),
    "text before the exit status": (
        TaskState.ENDED,
        {"exit_status": 1, "output": "Error downloading updates."},
        BEFORE,
        ErrorCode.DOWNLOAD_FAILED,
    ),
    "exit status 0 without a step": (
        TaskState.ENDED,
        {"output": "Software Update Tool\n"},
        BEFORE,
        ErrorCode.NOTHING_HAPPENED,
    ),
    "ended and about to restart": (
        TaskState.ENDED,
        {"output": RESTARTS},
        BEFORE,
        Progress(InstallState.INSTALLING, 100),
    ),
    "ended and did not restart": (
        TaskState.ENDED,
        {"output": RESTARTS, "ended_at": CLOCK - RESTART_WITHIN - minutes(1)},
        BEFORE,
        ErrorCode.NOTHING_HAPPENED,
    ),
    "ended and restarted": (
        TaskState.ENDED,
        {"output": RESTARTS},
        RESTARTED,
        ErrorCode.INSTALL_FAILED,
    ),
    "interrupted by a restart": (
        TaskState.INTERRUPTED,
        {"output": STEP},
        RESTARTED,
        ErrorCode.INSTALL_FAILED,
    ),
    "interrupted without a restart": (
        TaskState.INTERRUPTED,
        {"output": STEP},
        BEFORE,
        ErrorCode.NOTHING_HAPPENED,
    ),
    "interrupted by a shutdown that still goes on": (
        TaskState.INTERRUPTED,
        {"output": RESTARTS},
        BEFORE,
        Progress(InstallState.INSTALLING, 100),
    ),
    "interrupted, and the boot time is unknown": (
        TaskState.INTERRUPTED,
        {"output": STEP},
        None,
        Progress(InstallState.DOWNLOADING, 30),
    ),
    "clock of the Mac was corrected by a second": (
        TaskState.ENDED,
        {"output": RESTARTS, "begun_at": RESTARTED - minutes(0.02)},
        RESTARTED,
        Progress(InstallState.INSTALLING, 100),
    ),
}


@pytest.mark.parametrize(("state", "changes", "boot_at", "expected"), ROWS.values(), ids=ROWS)
def test_task_gives_the_progress(
    state: TaskState,
    changes: dict[str, Any],
    boot_at: datetime | None,
    expected: Progress | ErrorCode,
) -> None:
    seen = order_progress(a_task(NAME, state, **changes), boot_at, CLOCK)
    if isinstance(expected, Progress):
        assert seen == expected
    else:
        assert (seen.state, seen.error_code) == (InstallState.FAILED, expected)
        assert seen.detail


def test_mac_without_the_order_has_no_progress() -> None:
    assert order_progress(None, BEFORE, CLOCK) == Progress()


def test_detail_has_the_last_line_of_the_output() -> None:
    task = a_task(NAME, exit_status=3, output="Downloading\n\rDownloading: 5%\rodd\x1b[31m end\n\n")
    assert order_progress(task, BEFORE, CLOCK).detail == "exit status 3: odd[31m end"
