"""Explanation of a Mac from the log alone: its gates, jobs and events, now and earlier."""

from datetime import timedelta

import pytest

from pipeline.replay.device_lookup import find_device_key
from pipeline.replay.explain import Explanation, explain
from pipeline.replay.operator_steps import Step
from schemas.decisions import Verdict
from tests.factories import denied
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


def test_each_decision_of_one_time_is_explained_by_its_entry() -> None:
    decisions = explained("LON-1").decisions
    sent = next(one for one in decisions if one.decision.decision is Verdict.SEND)
    held = next(one for one in decisions if one.seq > sent.seq)
    assert held.at == sent.at
    at_time = explain(STORY, "LON-1", at=sent.at)
    at_entry = explain(STORY, "LON-1", last_seq=sent.seq)
    assert at_time is not None
    assert at_entry is not None
    assert at_entry.seq == sent.seq
    assert at_time.seq in [one.seq for one in decisions if one.seq >= held.seq]
    assert at_entry.record is not None
    assert at_entry.record.decision == sent.decision
    assert at_entry.decisions == decisions[: decisions.index(sent) + 1]


def test_halts_and_resumes_that_cover_the_mac_have_author_and_reason() -> None:
    found = explained("TYO-3")
    assert [(one.step, one.scope, one.by, one.why) for one in found.operator_steps] == [
        (Step.HALTED, "site:tokyo", "sre", "CHG-123"),
        (Step.RESUMED, "site:tokyo", "sre", ""),
    ]
    assert explained("LON-1").operator_steps == ()


def test_halt_of_the_action_at_the_site_has_its_author_and_end() -> None:
    driver = Driver()
    driver.publish("26.2", severity="high", cves=["CVE-2025-2001"])
    driver.enroll("LON-1")
    driver.report("LON-1", "26.1")
    for action in ("update", "reimage"):
        driver.halt(site="london", action=action)
    driver.halt(site="tokyo", action="update")
    driver.halt(clear=True, site="london", action="update")
    found = explain(driver.log, "LON-1")
    assert found is not None
    assert [(one.step, one.scope, one.by) for one in found.operator_steps] == [
        (Step.HALTED, "site:london/update", "sre"),
        (Step.RESUMED, "site:london/update", "sre"),
    ]


def test_halt_after_the_end_is_left_out() -> None:
    assert [one.step for one in explained("TYO-3", hours=13.5).operator_steps] == [Step.HALTED]
    assert explained("TYO-3", hours=4).operator_steps == ()


def test_refused_approval_of_the_mac_has_its_author_and_reason() -> None:
    driver = Driver()
    driver.report("LON-1")
    event = denied("job-1", "LON-1", driver.now)
    driver.handle_event(event.model_copy(update={"subject": "LON-1"}))
    found = explain(driver.log, "LON-1")
    assert found is not None
    (step,) = found.operator_steps
    assert (step.step, step.scope, step.by) == (Step.DENIED, "job-1", event.data.by)


def test_decision_names_the_policy_and_its_author() -> None:
    found = explained("LON-1")
    assert found.policy is not None
    assert (found.policy.by, found.policy.at) == ("sre", START)
    assert {one.policy_digest for one in found.decisions} == {found.policy.digest}


def test_hold_for_an_open_job_names_the_decision_that_sent_it() -> None:
    held = explained("LON-2", hours=13)
    assert held.blocked_by is not None
    assert held.blocked_by.gate == "job_open"
    assert held.sent is not None
    assert held.sent.decision.decision is Verdict.SEND
    sent = explain(STORY, "LON-2", last_seq=held.sent.seq)
    assert sent is not None
    assert (sent.seq, sent.sent) == (held.sent.seq, None)
