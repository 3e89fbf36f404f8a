"""The outcome of a run does not depend on the order of events within one moment."""

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from pipeline.demo.drive import waves
from pipeline.demo.outcome import LogEntry, read_outcome
from schemas.envelope import encode
from tests.factories import NOW
from tests.factories.sites import osquery_report

THEN = NOW + timedelta(hours=1)


def decided(reason: str, at: datetime, *, cves: bool = True, gates: str = "") -> LogEntry:
    decision = {"udid": "MAC-1", "site": "tokyo", "reason": reason, "gates": [gates]}
    record = {"decision": decision | {"cves": ["CVE-2026-1"] * cves}}
    return LogEntry("decision", at, json.dumps(record).encode())


@pytest.mark.parametrize("order", [*permutations(range(2))], ids=["in order", "crossed"])
def test_moment_counts_with_its_last_decision(order: tuple[int, ...]) -> None:
    passing = [decided("job_open", THEN), decided("cooling_down", THEN)]
    lines = [decided("deferred", NOW), *(passing[n] for n in order), decided("exempt", THEN)]
    assert read_outcome(lines).decisions == 2


def test_decision_restored_within_one_moment_is_not_counted() -> None:
    lines = [decided("deferred", NOW), decided("job_open", THEN), decided("deferred", THEN)]
    assert read_outcome(lines).decisions == 1


def test_decision_that_differs_only_in_gates_is_not_counted() -> None:
    lines = [decided("low_disk", NOW, gates="4 GB"), decided("low_disk", THEN, gates="5 GB")]
    assert read_outcome(lines).decisions == 1


def test_exposure_follows_the_last_decision() -> None:
    outcome = read_outcome([decided("deferred", NOW), decided("compliant", THEN, cves=False)])
    assert (outcome.exposed_at(NOW), outcome.exposed_at(THEN), outcome.exposed) == (1, 0, 0)
    assert outcome.patched == [(NOW, THEN)]


def test_only_events_from_outside_are_counted() -> None:
    job_result = (
        b'{"type": "drydock.job.resulted.v1", "data": {"job_id": "job-1", "outcome": "acted"}}'
    )
    lines = [LogEntry("event", NOW, body) for body in (encode(osquery_report(at=NOW)), job_result)]
    assert read_outcome(lines).events == 1


def test_wave_has_at_most_one_event_per_mac_in_order() -> None:
    events = [
        osquery_report(udid, datetime(2026, 1, day, tzinfo=UTC))
        for day in (1, 2, 3)
        for udid in ("MAC-1", "MAC-2")[: 4 - day]
    ]
    found = waves(events)
    assert [[event.subject for event in wave] for wave in found] == [
        ["MAC-1", "MAC-2"],
        ["MAC-1", "MAC-2"],
        ["MAC-1"],
    ]
    assert [event for wave in found for event in wave if event.subject == "MAC-1"] == events[::2]
