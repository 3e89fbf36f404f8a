"""Decisions under another policy: they differ for exactly the affected Macs and fields."""

from datetime import timedelta

import pytest

from pipeline.policy.file import PolicyError
from pipeline.replay.counterfactual import ChangeKind, DecisionChange, counterfactual
from pipeline.replay.log import UnreadableLog
from schemas.decisions import Verdict
from tests.unit.replay.driver import POLICY, START, Driver, MemoryLog, story

STORY = story()
# 15.7.3 of the story is critical: its deadline is 7 days. 26.2, only for TYO-2, is not critical.
ON_15 = {"LON-1", "LON-2", "LON-3", "TYO-1", "TYO-3"}


def macs(changes: tuple[DecisionChange, ...]) -> set[str]:
    return {change.alternative.udid for change in changes}


def test_the_same_policy_gives_no_difference() -> None:
    diff = counterfactual(STORY, POLICY + "# another text, the same policy\n")
    assert diff.changes == ()
    assert (diff.decisions, diff.macs) == (len(STORY.decisions()), 6)


def test_a_changed_deadline_differs_for_exactly_its_macs() -> None:
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


def test_an_exemption_of_a_site_removes_its_jobs() -> None:
    policy = POLICY + "exemptions: [{who: {hostnames: ['ldn-*']}, why: audit}]\n"
    diff = counterfactual(STORY, policy)
    removed = [change for change in diff.changes if change.kind is ChangeKind.REMOVED]
    assert {change.site for change in diff.changes} == {"london"}
    sent = [row for row in STORY.decisions() if b'"decision":"send"' in row.body]
    assert len(removed) == len([row for row in sent if row.key.startswith("LON")])
    assert all(change.alternative.reason.value == "exempt" for change in removed)


def test_macs_without_a_decision_in_the_period_are_compared_at_its_end() -> None:
    since = START + timedelta(hours=4, minutes=1)
    assert not list(STORY.entries(since=since, until=since + timedelta(minutes=1)))
    diff = counterfactual(
        STORY,
        POLICY.replace("critical: 7d", "critical: 6d"),
        since=since,
        until=since + timedelta(minutes=1),
    )
    assert diff.decisions == 0
    # TYO-1's window is open and its job is issued; its deadline differs too.
    assert macs(diff.changes) == ON_15
    assert {change.seq for change in diff.changes} == {None}
    assert {change.at for change in diff.changes} == {since + timedelta(minutes=1)}


def test_entries_after_the_period_are_ignored() -> None:
    diff = counterfactual(
        STORY, POLICY.replace("critical: 7d", "critical: 6d"), until=START + timedelta(hours=1)
    )
    assert diff.changes == ()


def test_with_a_udid_only_that_mac_is_compared() -> None:
    diff = counterfactual(STORY, POLICY.replace("critical: 7d", "critical: 6d"), udid="LON-1")
    assert macs(diff.changes) == {"LON-1"}
    assert diff.macs == 1


def test_differences_are_counted_by_site_and_action() -> None:
    diff = counterfactual(STORY, POLICY.replace("critical: 7d", "critical: 6d"))
    assert set(diff.by_site_and_action) == {("london", "update"), ("tokyo", "update")}
    assert sum(counts.total() for counts in diff.by_site_and_action.values()) == len(diff.changes)
    assert list(diff.by_mac) == sorted(ON_15)
    assert sum(counts.total() for counts in diff.by_mac.values()) == len(diff.changes)


def test_macs_of_a_log_without_a_policy_are_decided_only_at_its_end() -> None:
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


def test_an_invalid_policy_is_refused_with_the_line_of_each_problem() -> None:
    with pytest.raises(PolicyError) as caught:
        counterfactual(STORY, POLICY.replace("7d", "soon").replace("max_jobs: 2", "max_jobs: 0"))
    assert [problem.line for problem in caught.value.problems] == [5, 13]


def test_a_log_without_its_policies_is_refused() -> None:
    log = MemoryLog(list(STORY.rows), {})
    with pytest.raises(UnreadableLog, match="missing in the log's store"):
        counterfactual(log, POLICY)
