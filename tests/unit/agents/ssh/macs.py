"""Reports of a Mac for tests: tasks, facts, and the text that the script prints."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agents.ssh.report import Report, Task, TaskState

CLOCK: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
JOB_ID: Final = "job-0123456789abcdef0123456789abcdef"


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def a_task(name: str, state: TaskState = TaskState.ENDED, **changes: Any) -> Task:
    """Return a task that began ten minutes ago and, if it ended, ended with 0 a minute later."""
    ended = state in (TaskState.ENDED, TaskState.SILENT)
    fields: dict[str, Any] = {
        "begun_at": None if state is TaskState.WAITING else CLOCK - minutes(10),
        "exit_status": 0 if ended else None,
        "ended_at": CLOCK - minutes(9) if ended else None,
        **changes,
    }
    return Task(name, state, **fields)


def a_listing(number: int, output: str, **changes: Any) -> Task:
    return a_task(f"{JOB_ID}.list.{number}", output=output, **changes)


def a_report(*tasks: Task, **facts: str) -> Report:
    """Return a report of a Mac with these tasks, and its clock at CLOCK."""
    return Report({"clock": f"{CLOCK.timestamp():.0f}", **facts}, tasks)


def fact_line(name: str, output: str) -> str:
    return f"fact {name} 0 {base64.b64encode(output.encode()).decode()}"
