"""Rows that must be written: at once for a change of state, later for telemetry."""

from datetime import timedelta

from pipeline.processors.dirty_rows import DirtyRows
from pipeline.reconcile.changes import Changes
from tests.factories import HOUR, NOW


def changes_of(*, devices: str = "", telemetry: str = "") -> Changes:
    return Changes(devices=dict.fromkeys(devices), telemetry=dict.fromkeys(telemetry))


def test_changed_state_is_written_at_once_and_once() -> None:
    rows = DirtyRows(HOUR, 5)
    rows.add_changes(changes_of(devices="ba"))
    rows.add_changes(Changes(job_histories={"c": None}, last_decisions={"d": None, "a": None}))
    assert list(rows.pop_all()) == ["b", "a", "c", "d"]
    assert list(rows.pop_all()) == []


def test_telemetry_waits_for_the_refresh_after_its_change() -> None:
    rows = DirtyRows(HOUR, 5)
    rows.refresh_if_due(NOW)
    rows.add_changes(changes_of(telemetry="ab"))
    rows.refresh_if_due(NOW + HOUR / 2)
    assert list(rows.pop_all()) == []
    rows.refresh_if_due(NOW + HOUR)
    rows.add_changes(changes_of(telemetry="c"))
    assert list(rows.pop_all()) == ["a", "b"]


def test_telemetry_is_written_in_slices() -> None:
    rows = DirtyRows(HOUR, 2)
    rows.add_changes(changes_of(telemetry="abcde"))
    rows.refresh_if_due(NOW)
    assert [list(rows.pop_all()) for _ in range(4)] == [["a", "b"], ["c", "d"], ["e"], []]


def test_telemetry_that_is_written_with_a_change_of_state_waits_no_more() -> None:
    rows = DirtyRows(HOUR, 5)
    rows.add_changes(changes_of(telemetry="ab"))
    rows.add_changes(changes_of(devices="a"))
    assert list(rows.pop_all()) == ["a"]
    rows.refresh_if_due(NOW)
    assert list(rows.pop_all()) == ["b"]


def test_without_a_refresh_all_telemetry_is_written_at_once() -> None:
    rows = DirtyRows(timedelta(0), 2)
    rows.add_changes(changes_of(telemetry="abc"))
    rows.refresh_if_due(NOW)
    assert list(rows.pop_all()) == ["a", "b", "c"]
