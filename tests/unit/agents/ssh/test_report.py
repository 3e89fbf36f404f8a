"""Reports of Macs: whole ones are read, cut or foreign ones are refused."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.mac import order_marker
from agents.ssh.report import (
    LIST,
    Task,
    TaskState,
    UnreadableReportError,
    parse_report,
    preparation_name,
    task_name,
    task_number,
)
from tests.unit.agents.ssh.macs import JOB_ID, a_report, a_task, fact_line

BEGUN = 1790153387
OUTPUT = base64.b64encode("Can\u2019t connect\n".encode()).decode()
WHOLE = "\n".join(
    [
        fact_line("clock", f"{BEGUN}\n"),
        fact_line("system", "ProductVersion:\t26.7\nfact forged 0 YQ==\nend"),
        f"task {JOB_ID}.list.1 ended {BEGUN} 0 {BEGUN + 5} {OUTPUT}",
        f"task {JOB_ID}.1.install running {BEGUN} - - ",
        f"task {JOB_ID}.2.install waiting - - - ",
        "end\n",
    ]
)


def test_whole_report_is_read() -> None:
    report = parse_report(WHOLE)
    at = datetime.fromtimestamp(BEGUN, UTC)
    assert report.clock == at
    assert sorted(report.facts) == ["clock", "system"]
    assert report.facts["system"].endswith("end")
    assert report.order(JOB_ID, 1, "install") == Task(
        f"{JOB_ID}.1.install", TaskState.RUNNING, begun_at=at
    )
    listing = next(task for task in report.tasks if task_number(task, LIST) == 1)
    assert (listing.exit_status, listing.output) == (0, "Can\u2019t connect\n")
    assert report.marks == {order_marker(JOB_ID, 1, "install")}


@given(st.integers(0, len(WHOLE) - 2))
def test_report_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(UnreadableReportError):
        parse_report(WHOLE[:length])


@pytest.mark.parametrize(
    "line",
    [
        "fact clock 0",
        "fact clock 0 !!",
        "fact clock 0 YQ== YQ==",
        "task name ended - - - ",
        f"task {JOB_ID}.1.install gone - - - ",
        f"task {JOB_ID}.1.install ended - x - ",
        f"task {JOB_ID}.1.install ended -",
        "Welcome to this Mac",
        "",
    ],
)
def test_foreign_line_is_refused(line: str) -> None:
    with pytest.raises(UnreadableReportError):
        parse_report(f"{line}\nend\n")


@given(st.text())
def test_any_text_is_a_report_or_refused(text: str) -> None:
    try:
        parse_report(text)
    except UnreadableReportError:
        return
    assert text.splitlines()[-1] == "end"


def test_name_of_an_order_is_its_marker() -> None:
    name = task_name(order_marker(JOB_ID, 3, "install"))
    assert a_report(a_task(name)).marks == {f"{JOB_ID}/3/install"}


def test_listing_is_no_mark() -> None:
    assert a_report(a_task(preparation_name(JOB_ID, LIST, 1))).marks == frozenset()


def test_order_that_has_not_begun_is_no_mark() -> None:
    waiting = a_task(f"{JOB_ID}.1.install", TaskState.WAITING)
    assert a_report(waiting).marks == frozenset()
