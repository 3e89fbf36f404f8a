"""Report of a Mac by `scripts/report.sh`: facts by its own tools, and the tasks of one job. Pure.

A task is one command that the Mac runs once, in the background. `<job_id>.list.<number>` lists the
offered updates, `<job_id>.fetch.<number>` fetches an installer or an image;
`<job_id>.<attempt>.<step>` is the order of an attempt, whose name on the Mac is thus that of
`agents.mac.order_marker` with other separators.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from agents.mac import order_marker
from agents.ssh.mac_facts import parse_epoch

LIST: Final = "list"
FETCH: Final = "fetch"
_PREPARATIONS: Final = (LIST, FETCH)


class TaskState(StrEnum):
    """State of a task."""

    WAITING = "waiting"  # its command has not begun; nothing shows that it will
    RUNNING = "running"
    ENDED = "ended"
    SILENT = "silent"  # ended by Drydock, for it printed nothing for too long
    INTERRUPTED = "interrupted"  # begun, without an end, and no more running: as after a restart


@dataclass(frozen=True, slots=True)
class Task:
    """One task. Times are by the Mac's clock; None if unknown or not yet."""

    name: str
    state: TaskState
    begun_at: datetime | None = None
    exit_status: int | None = None
    ended_at: datetime | None = None
    output: str = ""

    @property
    def has_begun(self) -> bool:
        """True if its command has begun, and so will not begin again."""
        return self.state is not TaskState.WAITING


class UnreadableReportError(Exception):
    """The text is no whole report: the Mac printed something else, or the connection was cut."""


@dataclass(frozen=True, slots=True)
class Report:
    """Output of each tool by the fact's name, and the tasks of the job in the order of names."""

    facts: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()

    @property
    def clock(self) -> datetime | None:
        """The time of the Mac's clock, None if it is unknown."""
        return parse_epoch(self.facts.get("clock", ""))

    @property
    def is_preparing(self) -> bool:
        """True while a listing or a fetch for the job runs."""
        return any(task.state is TaskState.RUNNING and _prepares(task) for task in self.tasks)

    def order(self, job_id: str, attempt: int, step: str) -> Task | None:
        """Return the order of an attempt, None if the Mac never got it."""
        name = task_name(order_marker(job_id, attempt, step))
        return next((task for task in self.tasks if task.name == name), None)

    @property
    def marks(self) -> frozenset[str]:
        """The `order_marker` names of the orders whose command has begun."""
        return frozenset(
            task.name.replace(".", "/")
            for task in self.tasks
            if task.has_begun and not _prepares(task)
        )


def task_name(order: str) -> str:
    """Return the name on the Mac of an order, whose name is from `order_marker`."""
    return order.replace("/", ".")


def preparation_name(job_id: str, kind: str, number: int) -> str:
    """Return the name of the job's listing (LIST) or fetch (FETCH) with this number, from 1."""
    return f"{job_id}.{kind}.{number}"


def task_number(task: Task, kind: str) -> int | None:
    """Return the number of a listing (LIST) or fetch (FETCH), None for another task."""
    _, found, number = task.name.rsplit(".", 2)
    return int(number) if found == kind and number.isdecimal() else None


def _prepares(task: Task) -> bool:
    return any(task_number(task, kind) is not None for kind in _PREPARATIONS)


def parse_report(text: str) -> Report:
    """Return the report in the output of `report.sh`. Raises UnreadableReportError."""
    lines = text.splitlines()
    if not lines or lines[-1] != "end":
        raise UnreadableReportError("the Mac's report is not whole")
    facts: dict[str, str] = {}
    tasks: list[Task] = []
    try:
        for line in lines[:-1]:
            kind, *fields = line.split(" ")
            if kind == "fact":
                name, _, output = fields
                facts[name] = _decoded(output)
            elif kind == "task":
                tasks.append(_task(*fields))
            else:
                raise UnreadableReportError(f"a line begins with {kind[:20]!r}")
    except (ValueError, TypeError) as error:
        raise UnreadableReportError("a line of the Mac's report is unreadable") from error
    return Report(facts, tuple(sorted(tasks, key=lambda task: task.name)))


def _task(
    name: str, state: str, begun_at: str, exit_status: str, ended_at: str, output: str
) -> Task:
    if name.count(".") < 2:
        raise ValueError("no name of a task")
    return Task(
        name,
        TaskState(state),
        parse_epoch(begun_at),
        None if exit_status == "-" else int(exit_status),
        parse_epoch(ended_at),
        _decoded(output),
    )


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except binascii.Error as error:
        raise ValueError("not base64") from error
