"""Explanation of a Mac from the log alone: its gates, jobs and events, now and earlier."""

from datetime import timedelta

import pytest

from pipeline.replay.device_lookup import find_device_key
from pipeline.replay.explain import Explanation, explain
from tests.unit.replay.driver import START, Driver, MemoryLog, story

STORY = story()


def explained(name: str, hours: float | None = None) -> Explanation:
    at = None if hours is None else START + timedelta(hours=hours)
    found = explain(STORY, name, at=at)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["LON-2", "lon-2", "SNLON-2", "snlon-2", " SNLON-2 "])
def test_a_mac_is_found_by_any_of_its_names(name: str) -> None:
    assert explained(name).udid == "LON-2"


def test_a_mac_is_found_by_its_enrollment_id() -> None:
    driver = Driver()
    driver.report("LON-1", enrollment_id="Enrol-1")
    assert find_device_key(driver.log, "Enrol-1") == "LON-1"


def test_a_name_that_moved_finds_the_last_mac_with_it() -> None:
    driver = Driver()
    driver.report("LON-1", serial="SHARED")
    driver.wait(hours=1)
    driver.report("LON-1", serial="SNLON-1")
    driver.report("LON-2", serial="SHARED")
    assert find_device_key(driver.log, "SHARED") == "LON-2"


def test_a_mac_without_a_decision_is_found_by_its_events() -> None:
    driver = Driver(policy=None)
    driver.report("LON-1")
    found = explain(driver.log, "snlon-1")
    assert found is not None
    assert (found.udid, found.record, found.blocked_by) == ("LON-1", None, None)
    assert found.events_total == 1


@pytest.mark.parametrize("name", ["", "LON", "LON-22", "SNLON", "drydock"])
def test_an_unknown_name_finds_nothing(name: str) -> None:
    assert explain(STORY, name) is None


def test_blocked_by_is_the_first_gate_that_did_not_pass() -> None:
    found = explained("TYO-3", hours=4)
    assert found.record is not None
    assert found.record.decision.reason.value == "low_disk"
    assert found.blocked_by is not None
    assert found.blocked_by.gate == "disk"
    gates = found.record.decision.gates
    assert gates.index(found.blocked_by) == [gate.passed for gate in gates].index(False)


def test_an_earlier_time_gives_only_the_entries_until_then() -> None:
    before, after = explained("LON-1", hours=1), explained("LON-1")
    assert before.record is not None
    assert after.record is not None
    assert before.record.decision.reason.value == "compliant"
    assert before.jobs == ()
    assert len(before.decisions) < len(after.decisions)
    assert {one.at for one in before.events} == {START}


def test_an_entry_at_exactly_the_given_time_counts() -> None:
    at = next(row.at for row in STORY.decisions() if b"outside_window" in row.body)
    found = explain(STORY, "LON-1", at=at)
    assert found is not None
    assert found.record is not None
    assert found.record.decision.reason.value == "outside_window"


def test_a_jobs_steps_are_in_the_order_of_the_log() -> None:
    (job, *_) = explained("LON-1").jobs
    assert [step.outcome for step in job.steps] == ["accepted", "started", "acted", "succeeded"]
    assert job.outcome == "succeeded"
    (failed, *_) = explained("LON-2").jobs
    assert (failed.outcome, failed.steps[-1].error_code) == ("failed", "install_failed")


def test_an_open_job_has_outcome_open() -> None:
    job = explained("LON-3").jobs[-1]
    assert (job.job.action.value, job.outcome, job.steps) == ("reenroll", "open", ())


def test_a_job_that_was_assumed_to_have_expired_is_open_again_after_a_result() -> None:
    """A job without any result is assumed to have expired; a later result corrects that."""
    driver = Driver()
    driver.publish("15.7.3", severity="critical", cves=["CVE-2025-2000"])
    driver.enroll("LON-1")
    driver.report("LON-1")
    driver.wait(hours=21)
    assumed = explain(driver.log, "LON-1")
    assert assumed is not None
    assert assumed.jobs[0].outcome == "expired"
    driver.result("LON-1", "started")
    explanation = explain(driver.log, "LON-1")
    assert explanation is not None
    assert explanation.jobs[0].outcome == "open"
    assert [step.outcome for step in explanation.jobs[0].steps] == ["expired", "started"]


def test_reports_with_only_the_serial_number_belong_to_the_mac() -> None:
    driver = Driver()
    driver.report("LON-1")
    driver.wait(hours=1)
    driver.report_serial("SNLON-1", filevault=True)
    assert driver.log.rows[-1].key == "serial:SNLON-1"
    found = explain(driver.log, "LON-1")
    assert found is not None
    assert found.keys == ("LON-1", "serial:SNLON-1")
    assert found.events[-1].event.data.model_dump()["filevault"] is True


def test_an_empty_log_explains_no_mac() -> None:
    assert explain(MemoryLog(), "LON-1") is None
