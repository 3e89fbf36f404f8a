"""The Macs that a change marks for a decision."""

from typing import Any

import pytest

from pipeline.reconcile.changes import Changes
from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.marking import Marking
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import from_us, to_us
from schemas.decisions import Reason, Verdict
from schemas.envelope import encode
from schemas.fast.report_peek import ReportPeek, peek_report
from tests.factories import (
    HOUR,
    NOW,
    POLICY_TEXT,
    UDID,
    enrolled,
    full_report,
    policy_changed,
    polled,
    release,
)
from tests.reconcile_loop import UNLIMITED, inputs, new_reconciler

MINUTE = HOUR / 60


def compliant_mac(*, with_job: bool = False) -> Reconciler:
    """Return a reconciler with one Mac whose decision does not depend on telemetry."""
    reconciler = new_reconciler()
    version = "26.1" if with_job else "26.2"
    releases = [release("26.1"), release("26.2")]
    mac = [*enrolled(), polled(), full_report(version, when=NOW - HOUR)]
    changes = reconciler.apply(inputs(policy_changed(), *releases, *mac), NOW)
    reconciler.decide_marked(NOW, UNLIMITED, changes)
    assert (UDID in reconciler.fleet.job_histories) is with_job
    return reconciler


def replace_decision(reconciler: Reconciler, **fields: Any) -> None:
    last = LastDecision(b"", Verdict.NOTHING, Reason.COMPLIANT, 0, "london", None, 0)
    fields = {"recheck_on_telemetry": False} | fields
    reconciler.last_decisions[UDID] = last._replace(**fields)


def marked(reconciler: Reconciler, **facts: Any) -> bool:
    """Apply a report that changes only telemetry; return True if it marks the Mac."""
    version = str(reconciler.fleet.devices[UDID].os_version)
    report = full_report(version, when=NOW - MINUTE, free_disk_gb=77.0, **facts)
    changes = reconciler.apply(inputs(report), NOW)
    assert list(changes.telemetry) == [UDID]
    assert (UDID in changes.marked) is reconciler.queue.is_undecided(UDID)
    return UDID in changes.marked


def test_telemetry_does_not_mark_a_mac_whose_decision_ignores_it() -> None:
    reconciler = compliant_mac()
    replace_decision(reconciler)
    assert not marked(reconciler)


def test_telemetry_marks_a_mac_without_a_decision() -> None:
    reconciler = compliant_mac()
    reconciler.last_decisions.clear()
    assert marked(reconciler)


def test_telemetry_marks_a_mac_whose_decision_depends_on_it() -> None:
    reconciler = compliant_mac()
    replace_decision(reconciler, recheck_on_telemetry=True)
    assert marked(reconciler)


@pytest.mark.parametrize(("us_from_now", "expected"), [(-1, True), (0, True), (1, False)])
def test_telemetry_marks_a_mac_whose_time_has_come(us_from_now: int, expected: bool) -> None:
    reconciler = compliant_mac()
    replace_decision(reconciler, recheck_us=to_us(NOW) + us_from_now)
    assert marked(reconciler) is expected


@pytest.mark.parametrize(("days_later", "expected"), [(0, False), (30, True)])
def test_telemetry_marks_a_mac_whose_job_has_ended(days_later: int, expected: bool) -> None:
    """The open job expires by time; its Mac has no other reason to be decided."""
    reconciler = compliant_mac(with_job=True)
    replace_decision(reconciler)
    report = full_report("26.1", when=NOW - MINUTE, free_disk_gb=77.0)
    changes = reconciler.apply(inputs(report), NOW + days_later * 24 * HOUR)
    assert (UDID in changes.marked) is expected


@pytest.mark.parametrize(("hours_later", "expected"), [(0, False), (1, True)])
def test_telemetry_marks_a_mac_whose_report_shows_that_mdm_is_silent(
    hours_later: int, expected: bool
) -> None:
    reconciler = compliant_mac()
    replace_decision(reconciler)
    policy = reconciler.policy
    assert policy is not None
    silent_at = from_us(reconciler.fleet.devices[UDID].mdm_seen_us) + policy.mdm.silent_after
    now = silent_at + hours_later * HOUR
    report = full_report("26.2", when=now, free_disk_gb=77.0)
    assert (UDID in reconciler.apply(inputs(report), now).marked) is expected


def test_policy_with_a_shorter_silence_counts_from_the_next_report() -> None:
    reconciler = compliant_mac()
    replace_decision(reconciler)
    assert not marked(reconciler)
    shorter = POLICY_TEXT + "mdm: {silent_after: 2d}\n"
    changes = reconciler.apply(inputs(policy_changed(shorter, NOW + MINUTE)), NOW)
    reconciler.decide_marked(NOW, UNLIMITED, changes)
    replace_decision(reconciler)
    report = full_report("26.2", when=NOW + 4 * 24 * HOUR, free_disk_gb=78.0)
    assert UDID in reconciler.apply(inputs(report), NOW + 4 * 24 * HOUR).marked


@pytest.mark.parametrize("reads_hostnames", [False, True])
def test_another_host_name_marks_the_mac_only_if_the_policy_reads_it(reads_hostnames: bool) -> None:
    reconciler = compliant_mac()
    rule = "exemptions: [{who: {hostnames: ['lon-*']}, why: render}]\n"
    text = POLICY_TEXT + (rule if reads_hostnames else "")
    changes = reconciler.apply(inputs(policy_changed(text, NOW)), NOW)
    reconciler.decide_marked(NOW, UNLIMITED, changes)
    replace_decision(reconciler)
    renamed = full_report("26.2", when=NOW - MINUTE, hostname="lon-77")
    changes = reconciler.apply(inputs(renamed), NOW)
    assert (UDID in changes.marked) is reads_hostnames
    assert list(changes.devices) == [UDID]


def test_duplicate_on_which_marking_raises_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    reconciler = compliant_mac()
    first = encode(full_report("26.2", when=NOW - MINUTE))
    peek = _peek(first)
    reconciler.apply([inputs(full_report("26.2", when=NOW - MINUTE))[0]._replace(peek=peek)], NOW)
    before, changes = reconciler.fleet.devices[UDID], Changes()

    def broken(*_: Any) -> bool:
        raise LookupError("our bug")

    again = _peek(encode(full_report("26.2", when=NOW)))
    monkeypatch.setattr(Marking, "mark_for_telemetry", broken)
    with pytest.raises(LookupError):
        reconciler.apply_duplicate(again, NOW, changes)
    assert reconciler.fleet.devices[UDID] is before
    assert changes.is_empty
    monkeypatch.undo()
    assert reconciler.apply_duplicate(again, NOW, changes) == to_us(NOW)
    assert reconciler.fleet.devices[UDID] != before
    assert list(changes.telemetry) == [UDID]


def _peek(raw: bytes) -> ReportPeek:
    found = peek_report(raw)
    assert found is not None
    return found
