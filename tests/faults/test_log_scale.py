"""Commands on a long log of the embedded form: their work does not grow with the log."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest

from pipeline.embedded.log import Log
from pipeline.embedded.status import read_status
from pipeline.embedded.store import Store
from pipeline.replay.explain import explain
from tests.factories.sites import START
from tests.unit.replay.data_dir import write
from tests.unit.replay.driver import story


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(story(), folder)
    return folder


@pytest.fixture
def log(data_dir: Path) -> Iterator[Log]:
    with Log.open(data_dir) as opened:
        yield opened


def traced(log: Log) -> list[str]:
    """Return the list to which SQLite adds each statement that it runs from now on."""
    statements: list[str] = []
    log._db.set_trace_callback(statements.append)
    return statements


def bad_plans(log: Log, statements: list[str]) -> list[tuple[str, str]]:
    """Return each statement with a step that reads the whole log or sorts in a temporary file."""
    log._db.set_trace_callback(None)
    assert statements
    return [
        (statement, step)
        for statement in dict.fromkeys(statements)
        if statement.lstrip().upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        for *_, step in log._db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        if "TEMP B-TREE" in step or step.startswith(("SCAN log", "SCAN names"))
    ]


def test_every_selection_of_entries_reads_an_index_in_order(log: Log) -> None:
    statements = traced(log)
    for since, until, key, kind in product(
        (None, START),
        (None, START + timedelta(days=1)),
        (None, "LON-1"),
        (None, "event", "decision"),
    ):
        list(log.entries(since=since, until=until, key=key, kind=kind))  # type: ignore[arg-type]
    assert bad_plans(log, statements) == []


@pytest.mark.parametrize("name", ["LON-1", "SNLON-1", "snlon-1", "serial:SNLON-1", "never-seen"])
def test_explain_by_any_name_scans_and_sorts_nothing(log: Log, name: str) -> None:
    statements = traced(log)
    found = explain(log, name)
    assert (found is None) == (name == "never-seen")
    assert bad_plans(log, statements) == []


def test_status_scans_and_sorts_nothing(log: Log) -> None:
    statements = traced(log)
    read_status(log, START)
    list(log.devices())
    log.last_seq()
    log.last_seq(START)
    log.last_decision("LON-1")
    log.dead_letters(open_only=True)
    assert bad_plans(log, statements) == []


def test_writes_scan_and_sort_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        statements = traced(store)
        with store.transaction("test"):
            store.append_event(
                START,
                source="s",
                identity="1",
                kind="t",
                key="A",
                body=b"",
                names=[("serial", "X")],
            )
            store.append_decision(START, "A", b"{}", [("enrollment_id", "E")])
            store.put_blob("d", "policy", b"")
            store.has_blob("d")
            store.put_devices([("A", b"{}")])
            store.put_job_histories([("A", b"[]")])
            store.delete_last_decisions(["A"])
            store.put_setting("halts", b"{}")
            store.put_dead_letter(START, code="bug", source="s", origin="o", body=b"")
            store.mark_replayed(1, START)
            store.has_event("s", "1")
            store.event_body("s", "1")
            store.put_snapshot(START, "digest", b"{}")
            store.last_seq()
            store.move_start(2)
            store.delete_before_start(0, 10, "s", ["1"])
            store.snapshots()
            store.snapshot(2)
        assert bad_plans(store, statements) == []


def pages_read(folder: Path, name: str) -> int:
    """Return the number of SQLite's steps, in hundreds, that `explain` by this name takes."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with Log.open(folder) as log:
        log._db.set_progress_handler(count, 100)
        explain(log, name)
    return steps


@pytest.mark.parametrize("name", ["SNLON-1", "never-seen"])
def test_explain_takes_the_same_work_on_a_log_ten_times_as_long(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    write(story(), tmp_path)
    rows = len(list(story().rows))
    with Store.open(tmp_path) as store, store.transaction("test"):
        for number in range(10 * rows):
            store.append_event(
                START, source="other", identity=str(number), kind="t", key=f"M-{number}", body=b"{}"
            )
            store.append_decision(START, f"M-{number}", b"{}")
    assert pages_read(tmp_path, name) <= pages_read(data_dir, name) + 2
