"""Another policy differs for exactly the Macs that it means, and says how."""

from datetime import timedelta

import pytest

from pipeline.decide.policy_file import PolicyError
from pipeline.replay.counterfactual import ChangeKind, DecisionChange, counterfactual
from pipeline.replay.log import UnreadableLog
from schemas.decisions import Verdict
from tests.unit.replay.driver import POLICY, START, Driver, MemoryLog, story

STORY = story()
# The 15.7.3 of the story is critical: 7 days. 26.2, which concerns TYO-2 alone, is not.
ON_15 = {"LON-1", "LON-2", "LON-3", "TYO-1", "TYO-3"}


def macs(changes: tuple[DecisionChange, ...]) -> set[str]:
    return {change.alternative.udid for change in changes}


def test_the_same_policy_differs_nowhere() -> None:
    diff = counterfactual(STORY, POLICY + "# another text, the same policy\n")
    assert diff.changes == ()
    assert (diff.decisions, diff.macs) == (len(STORY.decisions()), 6)


def test_one_deadline_changed_differs_for_exactly_the_macs_it_is_for() -> None:
    diff = counterfactual(STORY, POLICY.replace("critical: 7d", "critical: 6d"))
    assert macs(diff.changes) == ON_15
    for change in diff.changes:
        assert change.recorded is not None
        assert change.recorded.deadline_at is not None
        assert change.alternative.deadline_at == change.recorded.deadline_at - timedelta(days=1)
        assert "deadline_at" in change.fields


def test_a_deadline_that_passed_sends_outside_the_window() -> None:
    diff = counterfactual(STORY, POLICY.replace("critical: 7d", "critical: 0h"))
    added = [change for change in diff.changes if change.kind is ChangeKind.ADDED]
    assert added
    for change in added:
        assert change.recorded is not None
        assert change.recorded.decision is Verdict.HOLD
        assert change.alternative.decision is Verdict.SEND


def test_a_site_that_may_do_nothing_removes_its_jobs() -> None:
    policy = POLICY + "exemptions: [{who: {hostnames: ['ldn-*']}, why: audit}]\n"
    diff = counterfactual(STORY, policy)
    removed = [change for change in diff.changes if change.kind is ChangeKind.REMOVED]
    assert {change.site for change in diff.changes} == {"london"}
    sent = [row for row in STORY.decisions() if b'"decision":"send"' in row.body]
    assert len(removed) == len([row for row in sent if row.key.startswith("LON")])
    assert all(change.alternative.reason.value == "exempt" for change in removed)


def test_macs_without_a_record_in_the_slice_are_compared_at_its_end() -> None:
    since = START + timedelta(hours=4, minutes=1)
    assert not list(STORY.entries(since=since, until=since + timedelta(minutes=1)))
    diff = counterfactual(
        STORY,
        POLICY.replace("critical: 7d", "critical: 6d"),
        since=since,
        until=since + timedelta(minutes=1),
    )
    assert diff.decisions == 0
    # TYO-1's window is open and its job is out; the deadline moves all the same.
    assert macs(diff.changes) == ON_15
    assert {change.seq for change in diff.changes} == {None}
    assert {change.at for change in diff.changes} == {since + timedelta(minutes=1)}


def test_what_came_after_the_slice_is_not_looked_at() -> None:
    diff = counterfactual(
        STORY, POLICY.replace("critical: 7d", "critical: 6d"), until=START + timedelta(hours=1)
    )
    assert diff.changes == ()


def test_one_mac_alone_can_be_asked_about() -> None:
    diff = counterfactual(STORY, POLICY.replace("critical: 7d", "critical: 6d"), udid="LON-1")
    assert macs(diff.changes) == {"LON-1"}
    assert diff.macs == 1


def test_sums_say_where_and_what() -> None:
    diff = counterfactual(STORY, POLICY.replace("critical: 7d", "critical: 6d"))
    assert set(diff.by_site_and_action) == {("london", "update"), ("tokyo", "update")}
    assert sum(counts.total() for counts in diff.by_site_and_action.values()) == len(diff.changes)
    assert set(diff.by_mac) == ON_15
    assert sum(counts.total() for counts in diff.by_mac.values()) == len(diff.changes)


def test_a_log_without_policy_is_decided_at_its_end_alone() -> None:
    driver = Driver(policy=None)
    driver.publish("15.7.3", severity="critical", cves=["CVE-2025-2000"])
    driver.report("LON-1")
    diff = counterfactual(driver.finish(), POLICY)
    assert [(change.seq, change.recorded, change.kind) for change in diff.changes] == [
        (None, None, ChangeKind.CHANGED)
    ]


def test_an_empty_log_has_no_differences() -> None:
    diff = counterfactual(MemoryLog(), POLICY)
    assert (diff.decisions, diff.macs, diff.changes) == (0, 0, ())


def test_a_bad_policy_is_named_line_by_line() -> None:
    with pytest.raises(PolicyError) as caught:
        counterfactual(STORY, POLICY.replace("7d", "soon").replace("max_jobs: 2", "max_jobs: 0"))
    assert [problem.line for problem in caught.value.problems] == [5, 13]


def test_a_log_that_cannot_be_read_is_refused() -> None:
    log = MemoryLog(list(STORY.rows), {})
    with pytest.raises(UnreadableLog, match="missing in the log's store"):
        counterfactual(log, POLICY)
