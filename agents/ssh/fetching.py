"""The installer of a release on a Mac: fetch it in the background, before the order. Pure.

The installer has up to 18 GB, so its fetch is a task of its own (`scripts/fetch.sh`).

| newest fetch of the job | next |
| --- | --- |
| none, or older than MAX_AGE | fetch |
| its command has not begun | fetch, under the same number: a command begins once |
| running | wait |
| the installer is there, and Apple signed it | its app |
| the release is not available, or the installer is not Apple's | obstacle |
| anything else: a cut, an interruption, a silence | fetch again; obstacle after MAX_FETCHES |
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from agents.mac import Obstacle
from agents.ssh.report import FETCH, Report, Task, TaskState, task_number
from agents.ssh.update_output import plain_text
from schemas.ids import clean_text
from schemas.results import ErrorCode

# macOS deletes an installer that it fetched some days later; the order checks it again.
MAX_AGE: Final = timedelta(hours=48)
MAX_FETCHES: Final = 5
# A second fetch has the same result.
_FINAL: Final = frozenset({ErrorCode.INSTALLER_UNAVAILABLE, ErrorCode.INSTALLER_CORRUPT})
_MAX_DETAIL: Final = 200


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the installer, as the fetch with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Fetching:
    """The installer is being fetched: look later."""


@dataclass(frozen=True, slots=True)
class InstallerApp:
    """An installer on the Mac: the path of its app, and the disk space that it uses in GB."""

    path: str
    size_gb: float


def next_fetch(report: Report) -> Fetch | Fetching | InstallerApp | Obstacle:
    """Return the next step to the installer, by the table of the module."""
    numbered = {
        number: task for task in report.tasks if (number := task_number(task, FETCH)) is not None
    }
    if not numbered:
        return Fetch(1)
    number = max(numbered)
    newest = numbered[number]
    if newest.state is TaskState.RUNNING:
        return Fetching()
    if not newest.has_begun:
        return Fetch(number)
    recent = [task for task in numbered.values() if _is_recent(task, report)]
    if newest not in recent:
        return Fetch(number + 1)
    ended = _end(newest)
    if isinstance(ended, InstallerApp) or ended.error_code in _FINAL:
        return ended
    return Fetch(number + 1) if len(recent) < MAX_FETCHES else ended


def fetched_gb(report: Report) -> float:
    """Return the size in GB of the installer that is on the Mac for the job; 0 without one."""
    found = next_fetch(report)
    return found.size_gb if isinstance(found, InstallerApp) else 0.0


def _is_recent(task: Task, report: Report) -> bool:
    """Return True if the fetch began within MAX_AGE; False if a time is unknown."""
    if task.begun_at is None or report.clock is None:
        return False
    return report.clock - task.begun_at <= MAX_AGE


def _end(task: Task) -> InstallerApp | Obstacle:
    """Return the installer in the last line of the output, or the reason without one."""
    lines = [line.strip() for line in plain_text(task.output).split("\n") if line.strip()]
    kind, _, rest = (lines[-1] if lines else "").partition(" ")
    if task.state is TaskState.ENDED and kind == "installer":
        size, _, path = rest.partition(" ")
        if size.isdecimal() and path.startswith("/"):
            return InstallerApp(path, int(size) * 1024 / 1e9)
    code, _, detail = rest.partition(" ")
    if task.state is TaskState.ENDED and kind == "failed" and code in set(ErrorCode):
        return Obstacle(ErrorCode(code), clean_text(detail)[:_MAX_DETAIL])
    last = clean_text(lines[-1])[:_MAX_DETAIL] if lines else "no output"
    return Obstacle(ErrorCode.DOWNLOAD_FAILED, f"the fetch of the installer ended: {last}")
