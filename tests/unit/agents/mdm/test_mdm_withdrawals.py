"""Orders over MDM that are withdrawn: declarations, and commands that are already queued."""

from pathlib import Path

import pytest

from schemas.events.control import HaltScope
from schemas.jobs import Job
from tests.factories.sites import START, a_job, hours
from tests.mdm_site import (
    COMMAND,
    DDM,
    ERASE,
    MAC,
    MdmSite,
    a_site,
    started,
)

KIND = {DDM: "DeclarativeManagement", COMMAND: "ScheduleOSUpdate", ERASE: "EraseDevice"}
JOBS = [DDM, COMMAND, ERASE]
IDS = [job.method.value for job in JOBS]


def withdrawn(site: MdmSite) -> bool:
    return site.mdm.declaration_items(MAC) == {} and site.mdm.declarations == {}


@pytest.mark.parametrize("fetched", [True, False], ids=["fetched", "not fetched"])
def test_superseded_declaration_is_withdrawn(*, fetched: bool) -> None:
    site = started(DDM)
    if fetched:
        site.poll()
    site.supersede(DDM)
    assert site.end == "superseded/superseded"
    assert withdrawn(site)
    site.poll()
    site.run(hours(1))
    assert site.executor.live_jobs == 0


def test_declaration_that_is_not_fetched_before_the_job_expires_is_withdrawn() -> None:
    job = a_job(**{**DDM.model_dump(exclude={"job_id"}), "expires_at": START + hours(3)})
    site = started(job)
    site.run(hours(2))
    assert site.end == "started"
    site.run(hours(2))
    assert site.end == "expired/expired"
    assert withdrawn(site)


def test_declaration_that_was_fetched_in_time_runs_to_its_end() -> None:
    job = a_job(**{**DDM.model_dump(exclude={"job_id"}), "expires_at": START + hours(3)})
    site = started(job)
    site.poll()
    site.run(hours(5))
    assert site.end == "started"
    assert not withdrawn(site)


def test_halted_declaration_is_withdrawn() -> None:
    site = started(DDM)
    site.poll()
    site.halt(HaltScope(everything=True))
    assert site.end == "superseded/halted"
    assert withdrawn(site)


def test_unknown_halts_withdraw_nothing() -> None:
    site = started(DDM)
    site.poll()
    site.executor.set_halts(None)
    site.run(hours(1))
    assert not withdrawn(site)
    assert site.end == "started"


@pytest.mark.parametrize("job", [COMMAND, ERASE], ids=IDS[1:])
def test_queued_command_may_still_be_delivered_after_a_halt_or_a_withdrawal(job: Job) -> None:
    site = started(job)
    site.halt(HaltScope(everything=True))
    site.halt()
    site.halt(HaltScope(everything=True))
    site.supersede(job)
    site.supersede(job)
    assert site.outcomes[2:] == ["progressed/halted", "progressed/superseded"]
    assert "may still be delivered" in site.detail
    assert site.queued(KIND[job]) == 1


def test_declaration_is_withdrawn_when_its_server_is_back() -> None:
    site = started(DDM)
    site.poll()
    site.mdm.is_down = True
    site.supersede(DDM)
    assert site.end == "superseded/superseded"
    site.run(hours(1))
    assert not withdrawn(site)
    site.mdm.is_down = False
    site.run(hours(5))
    assert withdrawn(site)


def test_withdrawal_lasts_until_the_mac_has_fetched_its_declarations() -> None:
    site = started(DDM)
    site.poll()
    site.supersede(DDM)
    site.run(hours(24 * 7), hours(1))
    assert site.executor.live_jobs == 1
    assert site.executor.touched_jobs == 0
    site.mdm.lose(MAC)
    site.poll()
    site.run(hours(5))
    assert site.poll() == ["DeclarativeManagement"]
    site.run(hours(5))
    assert site.executor.live_jobs == 0


def test_next_declaration_replaces_one_that_was_forgotten() -> None:
    site = started(DDM)
    site.poll()
    forgotten = {*site.mdm.declarations}
    other = a_site()
    other.mdm.declarations, other.mdm.sets = site.mdm.declarations, site.mdm.sets
    other.mdm.enrollment_sets = site.mdm.enrollment_sets
    again = a_job(**{**DDM.model_dump(exclude={"job_id"}), "generation": 1})
    other.start(again)
    assert not forgotten & {*other.mdm.declaration_items(MAC)}
    assert other.mdm.declaration_items(MAC)


def test_declarations_of_other_programs_are_never_changed() -> None:
    site = a_site()
    site.mdm.declarations["org.example.update"] = {"Identifier": "org.example.update"}
    site.mdm.sets["org.example.set"] = ["org.example.update"]
    site.mdm.enrollment_sets[MAC] = ["org.example.set"]
    site.start(DDM)
    site.poll()
    site.supersede(DDM)
    site.poll()
    site.run(hours(1))
    assert {*site.mdm.declaration_items(MAC)} == {"org.example.update"}
    assert {*site.mdm.declarations} == {"org.example.update"}


def after_a_lost_journal(folder: Path, state: str = "downloading") -> MdmSite:
    """Return the next life of a site whose journal was lost while its Mac was in this state."""
    site = started(DDM, a_site(folder))
    site.poll()
    site.status(state)
    site.close()
    (folder / "journal.sqlite").unlink()
    return MdmSite(site.mdm, folder, now=site.now + hours(1))


@pytest.mark.parametrize("state", ["downloading", "installing"])
@pytest.mark.parametrize("is_halted_before", [True, False], ids=["before", "after"])
def test_halt_withdraws_a_declaration_that_a_lost_journal_gave(
    tmp_path: Path, state: str, *, is_halted_before: bool
) -> None:
    """The job arrives again before or after the halt."""
    site = after_a_lost_journal(tmp_path, state)
    if is_halted_before:
        site.halt(HaltScope(everything=True))
    site.start(DDM)
    if not is_halted_before:
        assert site.outcomes == ["accepted", "started"]
        site.halt(HaltScope(everything=True))
    assert site.end == "superseded/halted"
    assert withdrawn(site)
    site.poll()
    site.run(hours(1))
    assert site.executor.live_jobs == 0


@pytest.mark.parametrize("end", ["superseded", "expired"])
def test_job_of_a_lost_journal_that_ends_untouched_is_withdrawn(tmp_path: Path, end: str) -> None:
    site = after_a_lost_journal(tmp_path)
    site.executor.set_halts(None)
    site.start(DDM)
    assert not withdrawn(site)
    if end == "superseded":
        site.supersede(DDM)
    else:
        site.run(DDM.expires_at - site.now)
    assert site.outcomes == ["accepted", f"{end}/{end}"]
    assert withdrawn(site)


def test_failed_declaration_that_a_lost_journal_gave_is_withdrawn(tmp_path: Path) -> None:
    site = after_a_lost_journal(tmp_path)
    site.status("failed", more={"failure-reason": {"reason": "no space"}})
    site.start(DDM)
    assert site.outcomes[:2] == ["accepted", "started"]
    assert site.end.startswith("failed/")
    assert withdrawn(site)


def test_halt_leaves_a_job_without_an_order_in_the_queue() -> None:
    site = a_site()
    site.halt(HaltScope(everything=True))
    site.start(DDM)
    assert site.outcomes == ["accepted"]
    site.halt()
    assert site.end == "started"
