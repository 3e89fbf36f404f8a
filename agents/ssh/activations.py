"""The activation of a job over SSH: a command, and the test that proves its success. Pure.

`scripts/activate.sh` runs the test, the command only if the test fails, and then the test again. So
an activation that is repeated does nothing on a Mac that has it.

| task | progress |
| --- | --- |
| running | waiting |
| ended with 0 | done: the test succeeded |
| ended with another status, interrupted, or ended by Drydock after its time | failed |
"""

from collections.abc import Callable
from dataclasses import dataclass

from agents.mac import InstallState, Obstacle, Progress
from agents.ssh.report import Task, TaskState
from agents.ssh.shell import Command, script_command
from schemas.ids import clean_text
from schemas.results import ErrorCode


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation: `test` and `command` are command lines, ended after `timeout_s` seconds.

    `secret` returns one line for the standard input of the command, None if it cannot be read now;
    without it the command has no input.
    """

    test: tuple[str, ...]
    command: tuple[str, ...]
    timeout_s: int
    secret: Callable[[], str | None] | None = None


def activation_command(activation: Activation) -> Command | Obstacle:
    """Return the command of an order; an obstacle while the secret cannot be read."""
    secret = None
    if activation.secret is not None:
        secret = activation.secret()
        if not secret or "\n" in secret:
            detail = "the secret of the activation cannot be read, or has several lines"
            return Obstacle(ErrorCode.ACTIVATION_FAILED, detail)
    mode = "-" if secret is None else "secret"
    words = (mode, str(len(activation.test)), *activation.test, *activation.command)
    argv = script_command("activate.sh", *words)
    return Command(argv, activation.timeout_s, secret=secret)


def is_activated(task: Task | None) -> bool:
    """Return True if the task has ended with success."""
    return task is not None and task.state is TaskState.ENDED and task.exit_status == 0


def activation_progress(task: Task | None) -> Progress:
    """Return the progress of an order, by the table of the module."""
    if task is None or not task.has_begun:
        return Progress()
    if task.state is TaskState.RUNNING or is_activated(task):
        return Progress(InstallState.WAITING)
    ends = {
        TaskState.SILENT: "it did not end in time",
        TaskState.INTERRUPTED: "it was interrupted, as by a restart",
    }
    detail = ends.get(task.state, clean_text(task.output.strip())[-200:] or "no output")
    return Progress(InstallState.FAILED, error_code=ErrorCode.ACTIVATION_FAILED, detail=detail)
