"""Open jobs by site, and the order of the Macs that wait for a site's capacity."""

from typing import Any

from msgspec.structs import replace

from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.site_capacity import SiteCapacity
from schemas.decisions import Reason, Verdict
from schemas.jobs import Action
from schemas.results import Outcome
from tests.factories import UDID
from tests.factories.jobs import entry


def waiting(site: str | None = "london", deadline_us: int = 0, **fields: Any) -> LastDecision:
    reason = fields.pop("reason", Reason.SITE_FULL)
    fields.setdefault("waits_for", int(reason is Reason.SITE_FULL))
    return LastDecision(b"", Verdict.HOLD, reason, 0, site, None, deadline_us, **fields)


def test_a_job_is_counted_while_it_is_open() -> None:
    capacity, job = SiteCapacity(), entry()
    assert capacity.count_changes(UDID, (), (job,)) == ()
    assert capacity.open_job_of(UDID) == job
    assert capacity.site_jobs["london"] == capacity.open_jobs["london", "update"] == 1
    ended = replace(job, outcome=Outcome.SUCCEEDED)
    assert capacity.count_changes(UDID, (job,), (ended,)) == ("london",)
    assert capacity.open_job_of(UDID) is None
    assert not +capacity.site_jobs
    assert not +capacity.open_jobs


def test_a_reenrollment_uses_no_capacity() -> None:
    capacity, job = SiteCapacity(), entry(action=Action.REENROLL, version=None)
    capacity.recount({UDID: (job,)})
    assert capacity.open_jobs["london", "reenroll"] == 1
    assert capacity.count_others("london", None) == 0


def test_the_own_job_is_not_one_of_the_others() -> None:
    capacity, job = SiteCapacity(), entry()
    capacity.recount({UDID: (job,), "OTHER": (entry(udid="OTHER"),)})
    assert capacity.count_others("london", job) == 1
    assert capacity.count_others("london", None) == 2
    assert capacity.count_others("tokyo", job) == 0
    assert capacity.count_others(None, None) == 0


def test_the_first_deadline_is_first_and_a_mac_without_one_is_last() -> None:
    capacity = SiteCapacity()
    last = {"A": waiting(), "B": waiting(deadline_us=9), "C": waiting(deadline_us=5)}
    for udid, one in last.items():
        capacity.wait(udid, one)
    found = [capacity.pop_waiting("london", [*Action], last) for _ in range(4)]
    assert found == ["C", "B", "A", None]


def test_a_mac_that_waits_no_more_is_skipped() -> None:
    capacity = SiteCapacity()
    for udid in "ABCD":
        capacity.wait(udid, waiting())
    last = {
        "A": waiting(reason=Reason.COMPLIANT),
        "B": waiting("tokyo"),
        "D": waiting(reason=Reason.HALTED, waits_for=1),
    }
    assert capacity.pop_waiting("london", [*Action], last) == "D"
    assert capacity.pop_waiting("london", [*Action], last) is None


def test_a_decision_without_site_or_need_of_capacity_does_not_wait() -> None:
    capacity = SiteCapacity()
    last = {"A": waiting(None), "B": waiting(reason=Reason.HALTED)}
    for udid, one in last.items():
        capacity.wait(udid, one)
    assert capacity.pop_waiting("london", [*Action], last) is None
