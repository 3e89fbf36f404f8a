"""Progress of an order on a Mac, from its task and its output. Pure.

| task | output | Mac | progress |
| --- | --- | --- | --- |
| none, or its command has not begun | | | none |
| running | none yet, or the notice | | waiting: the notice to the user, or the first check |
| interrupted | the notice | any | failed: the user restarted the Mac before the command began |
| running | a step | | that step |
| any | a failure | | failed, with its code |
| ended by Drydock after silence | | | failed: nothing happened |
| ended with a status other than 0 | | | failed |
| ended with 0 | no step | | failed: nothing happened |
| ended with 0, or interrupted | a step | restarted since | failed: not the target's system |
| ended with 0 | a step | for RESTART_WITHIN, not restarted | failed: nothing happened |
| ended with 0 | a step | not restarted yet | that step |
| interrupted | `Restarting...` last | not restarted | that step: a shutdown ends the runner first |
| interrupted | any other | not restarted | failed: nothing happened |

The attempt looks at the Mac's version before its progress (`agents.lifecycle`), so a failure here
is that of a Mac that does not run the target.
"""

from datetime import datetime, timedelta
from typing import Final

from agents.mac import InstallState, Progress
from agents.ssh.report import Task, TaskState
from agents.ssh.update_output import UpdateOutput, plain_text, read_update_output
from schemas.ids import clean_text
from schemas.results import ErrorCode

# softwareupdate --restart and startosinstall end up to five minutes before the Mac restarts.
RESTART_WITHIN: Final = timedelta(minutes=30)
# macOS changes its boot time when it corrects its clock.
_CLOCK_STEP: Final = timedelta(minutes=1)
_MAX_DETAIL: Final = 200
# The last line of both tools before the restart.
_RESTARTING: Final = "Restarting..."
# The line of `scripts/run.sh` until the command begins.
NOTICE: Final = "drydock: notice to the user"


def order_progress(task: Task | None, boot_at: datetime | None, clock: datetime | None) -> Progress:
    """Return the progress of an order; `boot_at` and `clock` are the Mac's own times."""
    if task is None or not task.has_begun:
        return Progress()
    if task.state is TaskState.INTERRUPTED and task.output.strip() == NOTICE:
        # No failure of an installation: nothing ran. The next decision looks at the Mac again.
        detail = "the Mac restarted during the notice"
        return _failed(ErrorCode.USER_DECLINED, f"{detail}; nothing was installed")
    output = read_update_output(task.output)
    if output.state is InstallState.FAILED:
        return _failed(output.error_code or ErrorCode.INSTALL_FAILED, output.detail)
    if task.state is TaskState.RUNNING:
        return _step(output)
    if task.state is TaskState.SILENT:
        return _failed(ErrorCode.NOTHING_HAPPENED, f"no output for too long{_last_line(task)}")
    if task.state is TaskState.ENDED and task.exit_status != 0:
        detail = f"exit status {task.exit_status}{_last_line(task)}"
        return _failed(ErrorCode.INSTALL_FAILED, detail)
    return _after_end(task, output, boot_at, clock)


def _after_end(
    task: Task, output: UpdateOutput, boot_at: datetime | None, clock: datetime | None
) -> Progress:
    """Return the progress of a command that ended with status 0, or was interrupted."""
    if boot_at is None or task.begun_at is None:
        return _step(output)
    if boot_at > task.begun_at + _CLOCK_STEP:
        detail = f"the Mac restarted and does not run the target{_last_line(task)}"
        return _failed(ErrorCode.INSTALL_FAILED, detail)
    if task.state is TaskState.INTERRUPTED and plain_text(task.output).rstrip().endswith(
        _RESTARTING
    ):
        return _step(output)
    if task.state is TaskState.INTERRUPTED:
        detail = f"the command ended without an exit status{_last_line(task)}"
        return _failed(ErrorCode.NOTHING_HAPPENED, detail)
    if output.state is InstallState.NONE:
        detail = f"exit status 0, and nothing was installed{_last_line(task)}"
        return _failed(ErrorCode.NOTHING_HAPPENED, detail)
    if clock is not None and task.ended_at is not None and clock > task.ended_at + RESTART_WITHIN:
        detail = f"the installation ended and the Mac did not restart{_last_line(task)}"
        return _failed(ErrorCode.NOTHING_HAPPENED, detail)
    return _step(output)


def _step(output: UpdateOutput) -> Progress:
    if output.state is InstallState.NONE:
        return Progress(InstallState.WAITING)
    return Progress(output.state, output.percent)


def _failed(code: ErrorCode, detail: str) -> Progress:
    return Progress(InstallState.FAILED, error_code=code, detail=detail)


def _last_line(task: Task) -> str:
    """Return the last line of the output, after a colon; "" without one."""
    lines = [line.strip() for line in plain_text(task.output).split("\n") if line.strip()]
    return f": {clean_text(lines[-1])[:_MAX_DETAIL]}" if lines else ""
