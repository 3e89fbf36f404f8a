"""The fetch of an installer: each row of the table in `agents.ssh.fetching`."""

from datetime import UTC, datetime, timedelta

import pytest

from agents.mac import Obstacle
from agents.ssh.fetching import (
    MAX_AGE,
    MAX_FETCHES,
    Fetch,
    Fetching,
    InstallerApp,
    fetched_gb,
    next_fetch,
)
from agents.ssh.report import FETCH, Report, Task, TaskState, preparation_name
from schemas.results import ErrorCode

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DONE = "Unpacking\ninstaller 17000000 /Applications/Install macOS Tahoe.app\n"
CUT = "Downloading: 3%\nfailed download_failed curl ended with 56 at 10 of 90 bytes\n"


def a_fetch(
    number: int = 1,
    state: TaskState = TaskState.ENDED,
    output: str = DONE,
    age: timedelta = timedelta(minutes=5),
) -> Task:
    return Task(preparation_name("job-1", FETCH, number), state, NOW - age, 0, NOW, output)


def after(*tasks: Task) -> object:
    return next_fetch(Report({"clock": str(int(NOW.timestamp()))}, tasks))


APP = InstallerApp("/Applications/Install macOS Tahoe.app", 17000000 * 1024 / 1e9)
# tasks -> next step
CASES = {
    "none": ((), Fetch(1)),
    "not begun": ((a_fetch(state=TaskState.WAITING),), Fetch(1)),
    "running": ((a_fetch(state=TaskState.RUNNING, output="Downloading: 3%"),), Fetching()),
    "there": ((a_fetch(),), APP),
    "too old": ((a_fetch(age=MAX_AGE + timedelta(minutes=1)),), Fetch(2)),
    "cut": ((a_fetch(output=CUT),), Fetch(2)),
    "interrupted": ((a_fetch(state=TaskState.INTERRUPTED, output="Downloading: 3%"),), Fetch(2)),
    "silent": ((a_fetch(state=TaskState.SILENT),), Fetch(2)),
    "there after a cut": ((a_fetch(output=CUT), a_fetch(2)), APP),
    "path is cut off": ((a_fetch(output="installer 17000000"),), Fetch(2)),
    "unknown code": ((a_fetch(output="failed magic the detail"),), Fetch(2)),
}


@pytest.mark.parametrize(("tasks", "expected"), CASES.values(), ids=CASES)
def test_next_step(tasks: tuple[Task, ...], expected: object) -> None:
    assert after(*tasks) == expected


@pytest.mark.parametrize("code", [ErrorCode.INSTALLER_CORRUPT, ErrorCode.INSTALLER_UNAVAILABLE])
def test_an_installer_that_no_repeat_corrects_is_an_obstacle_at_once(code: ErrorCode) -> None:
    assert after(a_fetch(output=f"failed {code} the detail")) == Obstacle(code, "the detail")


def test_fetches_are_limited() -> None:
    cuts = [a_fetch(number, output=CUT) for number in range(1, MAX_FETCHES + 1)]
    assert after(*cuts[:-1]) == Fetch(MAX_FETCHES)
    found = after(*cuts)
    assert isinstance(found, Obstacle)
    assert found.error_code is ErrorCode.DOWNLOAD_FAILED


def test_size_of_the_installer_counts_as_free() -> None:
    report = Report({"clock": str(int(NOW.timestamp()))}, (a_fetch(),))
    assert fetched_gb(report) == pytest.approx(17.408)
    assert fetched_gb(Report()) == 0
