from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agents.executor import Executor
from agents.journal import Journal
from agents.mac import Ack, Observation
from agents.simulated import ALWAYS, Faults, Period
from agents.site_access import SiteAccess
from pipeline.payload_signing import sign
from runtime.trusted_keys import KeyRing
from schemas.events.control import HaltScope
from schemas.jobs import Action, Job, JobIssued, JobSuperseded, Method
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode, Outcome
from schemas.signing import APPROVAL_PAYLOAD
from tests.factories.sites import (
    APPROVALS_KEY,
    JOBS_KEY,
    KEYS,
    NEW,
    SITE,
    START,
    STRANGER_KEY,
    UDID,
    a_fleet,
    a_job,
    a_spec,
    an_erasing_job,
    an_erasing_reimage,
    an_executor,
    collect,
    drive,
    hours,
    outcomes,
    signed_job,
)

DONE = [("started", None), ("acted", None)]
INTEL = {"hardware": "t2", "model": "MacBookPro16,1"}


def with_other_bytes(job: Job) -> JobIssued:
    """Return a readable job with the signed bytes of another job."""
    return JobIssued(job=a_job(reason="routine_update"), signed=signed_job(job).signed)


def signed_as_approval(job: Job) -> JobIssued:
    """Return the job, signed by a trusted key with the payload type of an approval."""
    payload = job.model_dump_json(exclude_none=True).encode()
    return JobIssued(job=job, signed=sign(payload, APPROVAL_PAYLOAD, JOBS_KEY))


REFUSALS = {
    "signed by a stranger": (signed_job(a_job(), STRANGER_KEY), "refused", "bad_signature"),
    "signed by an approver": (signed_job(a_job(), APPROVALS_KEY), "refused", "bad_signature"),
    "signed as an approval": (signed_as_approval(a_job()), "refused", "bad_signature"),
    "not the signed bytes": (with_other_bytes(a_job()), "refused", "bad_signature"),
    "another site's": (signed_job(a_job(site="paris")), "refused", "wrong_site"),
    "expired": (
        signed_job(a_job(issued_at=START - hours(2), expires_at=START)),
        "expired",
        "expired",
    ),
    "erases unapproved": (
        signed_job(a_job(Action.REINSTALL, Method.STARTOSINSTALL, erases=True)),
        "refused",
        "no_approval",
    ),
    "erases by its method, unapproved": (
        signed_job(a_job(Action.REINSTALL, Method.ERASE_DEVICE)),
        "refused",
        "no_approval",
    ),
    "approved by a stranger": (
        signed_job(an_erasing_job(key=STRANGER_KEY)),
        "refused",
        "no_approval",
    ),
    "approved with the jobs key": (
        signed_job(an_erasing_job(key=JOBS_KEY)),
        "refused",
        "no_approval",
    ),
    "approved for another Mac": (
        signed_job(an_erasing_job(approve={"udid": "MAC-2"})),
        "refused",
        "no_approval",
    ),
    "approved for another job": (
        signed_job(an_erasing_job(approve={"job_id": "job-0"})),
        "refused",
        "no_approval",
    ),
    "approved for another action": (
        signed_job(an_erasing_job(approve={"action": "reimage"})),
        "refused",
        "no_approval",
    ),
    "approval ran out": (
        signed_job(an_erasing_job(approve={"expires_at": START})),
        "refused",
        "no_approval",
    ),
}


@pytest.mark.parametrize(("order", "outcome", "code"), REFUSALS.values(), ids=REFUSALS.keys())
def test_invalid_job_is_refused_and_its_mac_untouched(
    order: JobIssued, outcome: str, code: str
) -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.submit(order, START)
    results = [item.result for item in executor.results()]
    assert [(each.outcome, each.error_code) for each in results] == [(outcome, code)]
    drive(executor, fleet, START + hours(48))
    assert [item.result for item in collect(executor)] == results
    assert fleet.acted == []


@pytest.mark.parametrize("job", [a_job(), an_erasing_job()], ids=["update", "approved erase"])
def test_valid_job_is_carried_out(job: Job) -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.submit(signed_job(job), START)
    drive(executor, fleet, START + hours(48))
    assert outcomes(collect(executor)) == DONE
    assert [act[2] for act in fleet.acted] == [job.job_id]


def test_erase_is_refused_if_its_approval_expires_while_it_waits() -> None:
    away = Faults(offline=(Period(START, START + hours(50)),))
    fleet = a_fleet(a_spec(faults=away))
    executor = an_executor(fleet, halted=True)
    executor.submit(signed_job(an_erasing_job()), START)
    drive(executor, fleet, START + hours(49))
    executor.set_halts(())
    drive(executor, fleet, START + hours(60))
    assert outcomes(collect(executor)) == [("refused", "no_approval")]
    assert fleet.acted == []


METHODS = {
    "ddm": (a_job(method=Method.DDM), {}),
    "ddm at a time": (a_job(method=Method.DDM, enforce_at=START + hours(30)), {}),
    "mdm command": (
        a_job(method=Method.MDM_COMMAND),
        {"os_version": parse_os_version("13.7"), "build": parse_build("22H123")},
    ),
    "softwareupdate": (a_job(), {}),
    "upgrade": (
        a_job(Action.UPGRADE, Method.STARTOSINSTALL),
        {"os_version": parse_os_version("15.7"), "build": parse_build("24G222")},
    ),
    "reinstall in place": (
        a_job(Action.REINSTALL, Method.STARTOSINSTALL),
        {"os_version": NEW.version, "build": NEW.build},
    ),
    "reinstall with erase": (an_erasing_job(Method.STARTOSINSTALL), {}),
    "erase device": (an_erasing_job(), {}),
    "image": (
        an_erasing_job(Method.ASR, approve={"action": "reimage"}).model_copy(),
        {"hardware": "intel", "model": "iMac19,1", "os_version": NEW.version, "build": NEW.build},
    ),
    "profiles renew": (
        a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="checked_out"),
        {"enrolled": False},
    ),
}


@pytest.mark.parametrize(("job", "spec"), METHODS.values(), ids=METHODS.keys())
def test_each_method_acts_once_and_reports(job: Job, spec: dict[str, Any]) -> None:
    if job.method is Method.ASR:
        job = an_erasing_reimage()
    fleet = a_fleet(a_spec(**spec))
    executor = an_executor(fleet)
    executor.submit(signed_job(job), START)
    drive(executor, fleet, START + hours(48))
    assert outcomes(collect(executor)) == DONE
    assert len(fleet.acted) == 1
    mac = fleet.macs[UDID]
    if job.target is not None:
        assert (mac.os_version, mac.build) == (NEW.version, NEW.build)
    assert mac.enrolled


PREFLIGHT = {
    "no disk": (a_job(), {"free_disk_gb": 9.0}, "no_disk_space"),
    "little disk for an installer": (
        a_job(Action.UPGRADE, Method.STARTOSINSTALL),
        {"free_disk_gb": 40.0},
        "no_disk_space",
    ),
    "battery low": (a_job(), {"on_ac_power": False, "battery_percent": 19.0}, "low_power"),
    "battery low for Intel": (
        a_job(),
        {"on_ac_power": False, "battery_percent": 49.0, **INTEL},
        "low_power",
    ),
    "no volume owner": (a_job(), {"volume_owner": False}, "no_volume_owner"),
    "no bootstrap token": (
        a_job(method=Method.DDM),
        {"bootstrap_token": False},
        "no_bootstrap_token",
    ),
    "not enrolled": (a_job(method=Method.DDM), {"enrolled": False}, "not_enrolled"),
    "newer than the target": (
        a_job(Action.REINSTALL, Method.STARTOSINSTALL),
        {"os_version": parse_os_version("26.3"), "build": parse_build("25D125")},
        "unsupported",
    ),
}


@pytest.mark.parametrize(("job", "spec", "code"), PREFLIGHT.values(), ids=PREFLIGHT.keys())
def test_unfit_mac_is_reported_and_untouched(job: Job, spec: dict[str, Any], code: str) -> None:
    fleet = a_fleet(a_spec(**spec))
    executor = an_executor(fleet)
    executor.submit(signed_job(job), START)
    drive(executor, fleet, START + hours(1))
    ((outcome, found),) = outcomes(collect(executor))
    assert found == code
    assert outcome in ("failed", "refused")
    assert fleet.acted == []


FAULTS = {
    "offline at first": (Faults(offline=(Period(START, START + hours(20)),)), DONE, 1),
    "offline for 900 h": (
        Faults(offline=(Period(START, START + hours(900)),)),
        [("failed", "unreachable")],
        0,
    ),
    "order lost": (Faults(lost_orders=1), DONE, 1),
    "every order lost": (
        Faults(lost_orders=ALWAYS),
        [("started", None), ("failed", "unreachable")],
        0,
    ),
    "response lost": (Faults(lost_answers=1), DONE, 1),
    "not now for a while": (Faults(not_now=5), DONE, 1),
    "not now for ever": (
        Faults(not_now=ALWAYS),
        [("started", None), ("failed", "command_rejected")],
        0,
    ),
    "does nothing": (
        Faults(ignored=1),
        [("started", None), ("failed", "nothing_happened")],
        1,
    ),
    "refuses": (Faults(rejected=1), [("started", None), ("failed", "command_rejected")], 0),
    "download fails": (
        Faults(failing_downloads=1),
        [("started", None), ("failed", "download_failed")],
        1,
    ),
    "install fails": (
        Faults(failing_installs=1),
        [("started", None), ("failed", "install_failed")],
        1,
    ),
    "report late": (Faults(report_delay=hours(30)), DONE, 1),
    "never reports": (Faults(mute_after_install=True), DONE, 1),
}


@pytest.mark.parametrize("method", [Method.DDM, Method.SOFTWAREUPDATE])
@pytest.mark.parametrize(("faults", "want", "acts"), FAULTS.values(), ids=FAULTS.keys())
def test_attempt_under_a_fault_ends_with_the_expected_outcomes(
    faults: Faults, want: list[tuple[str, str | None]], acts: int, method: Method
) -> None:
    fleet = a_fleet(a_spec(faults=faults))
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job(method=method)), START)
    drive(executor, fleet, START + hours(200))
    assert outcomes(collect(executor)) == want
    assert len(fleet.acted) == acts
    assert executor.live_jobs == 0


def test_full_disk_after_the_order_is_reported() -> None:
    faults = Faults(disk_full_at=START + timedelta(seconds=2))
    fleet = a_fleet(a_spec(faults=faults))
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    drive(executor, fleet, START + hours(2))
    assert outcomes(collect(executor)) == [("started", None), ("failed", "no_disk_space")]


def test_declaration_fails_if_the_mac_leaves_mdm() -> None:
    faults = Faults(loses_profile_at=START + hours(1))
    fleet = a_fleet(a_spec(faults=faults))
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job(method=Method.DDM, enforce_at=START + hours(40))), START)
    drive(executor, fleet, START + hours(8))
    assert outcomes(collect(executor)) == [("started", None), ("failed", "not_enrolled")]


def test_mac_that_runs_the_target_is_untouched() -> None:
    fleet = a_fleet(a_spec(os_version=NEW.version, build=NEW.build))
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    (last,) = [result for result in collect(executor) if result.result.outcome == "acted"]
    assert (last.result.detail, last.result.observed_build) == ("already there", NEW.build)
    assert fleet.acted == []


HALTS = {
    "unreadable": None,
    "everything": (HaltScope(everything=True),),
    "its site": (HaltScope(site=SITE),),
    "its advisory": (HaltScope(advisory_id="macOS-26.2"),),
}


@pytest.mark.parametrize("halts", HALTS.values(), ids=HALTS.keys())
def test_no_job_starts_under_a_halt(halts: tuple[HaltScope, ...] | None) -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.set_halts(halts)
    executor.submit(signed_job(a_job(advisory_ids=("macOS-26.2",))), START)
    drive(executor, fleet, START + hours(10))
    assert fleet.acted == []
    executor.set_halts(())
    drive(executor, fleet, START + hours(20))
    assert outcomes(collect(executor)) == DONE


def test_no_job_starts_before_the_halts_are_set() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet, halted=True)
    executor.submit(signed_job(a_job()), START)
    drive(executor, fleet, START + hours(10))
    assert fleet.acted == []


def test_halt_of_another_site_or_advisory_blocks_no_job() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.set_halts((HaltScope(site="paris"), HaltScope(advisory_id="macOS-15.7.3")))
    executor.submit(signed_job(a_job(advisory_ids=("macOS-26.2",))), START)
    drive(executor, fleet, START + hours(10))
    assert len(fleet.acted) == 1


def test_halted_job_expires() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet, halted=True)
    executor.submit(signed_job(a_job()), START)
    drive(executor, fleet, START + timedelta(days=8))
    assert outcomes(collect(executor)) == [("expired", "expired")]


def test_lost_order_is_not_repeated_under_a_halt() -> None:
    fleet = a_fleet(a_spec(faults=Faults(lost_orders=1)))
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    executor.set_halts((HaltScope(everything=True),))
    drive(executor, fleet, START + hours(10))
    assert fleet.acted == []
    executor.set_halts(())
    drive(executor, fleet, START + hours(20))
    assert len(fleet.acted) == 1


def test_touched_mac_is_watched_under_a_halt() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    executor.set_halts(None)
    drive(executor, fleet, START + hours(10))
    assert outcomes(collect(executor)) == DONE


def test_done_job_that_arrives_again_gets_its_result_from_the_journal() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    order = signed_job(a_job())
    executor.submit(order, START)
    drive(executor, fleet, START + hours(10))
    results = collect(executor)
    executor.submit(order, START + hours(11))
    again = collect(executor)
    assert again == [results[-1]]
    assert again[0].event("x").id == results[-1].event("x").id
    drive(executor, fleet, START + hours(20))
    assert len(fleet.acted) == 1


def test_newer_job_supersedes_an_untouched_one() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet, halted=True)
    old, new = a_job(), a_job(generation=1, issued_at=START + hours(1))
    executor.submit(signed_job(old), START)
    executor.submit(signed_job(new), START + hours(1))
    executor.set_halts(())
    drive(executor, fleet, START + hours(10))
    results = collect(executor)
    assert outcomes(results, old) == [("superseded", "superseded")]
    assert outcomes(results, new) == DONE
    assert [act[2] for act in fleet.acted] == [new.job_id]


@pytest.mark.parametrize(("later_h", "is_kept"), [(49, False), (1, True)], ids=["past", "future"])
def test_job_issued_before_one_of_the_past_is_out_of_date(later_h: float, is_kept: bool) -> None:
    """A newest job of the future shows that a clock was ahead: the next job is not older."""
    fleet = a_fleet()
    executor = an_executor(fleet, halted=True)
    ahead = a_job(udid="MAC-1", issued_at=START + hours(48), expires_at=START + hours(90))
    executor.submit(signed_job(ahead), START + hours(48))
    next_job = a_job(generation=1, issued_at=START + hours(1), expires_at=START + hours(80))
    executor.submit(signed_job(next_job), START + hours(later_h))
    ends = outcomes(collect(executor), next_job)
    assert ends == ([] if is_kept else [("superseded", "newer_job")])
    assert executor.live_jobs == 1


@pytest.mark.parametrize("is_touched", [True, False], ids=["touched", "untouched"])
def test_job_issued_before_one_of_the_future_waits_only_if_that_is_untouched(
    *, is_touched: bool
) -> None:
    """The clock of the pipeline was 3 h ahead when it issued the newest job."""
    fleet = a_fleet()
    executor = an_executor(fleet, halted=not is_touched)
    ahead = a_job(issued_at=START + hours(3))
    executor.submit(signed_job(ahead), START)
    executor.tick(START)
    assert executor.touched_jobs == is_touched
    delayed = a_job(generation=1, issued_at=START - hours(1))
    executor.submit(signed_job(delayed), START + hours(0.1))
    ends = outcomes(collect(executor), delayed)
    assert ends == ([("superseded", "newer_job")] if is_touched else [])
    executor.set_halts(())
    drive(executor, fleet, START + hours(12))
    assert [act[2] for act in fleet.acted] == [(ahead if is_touched else delayed).job_id]


def test_newer_job_waits_for_a_job_that_touched_the_mac() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    old = a_job(method=Method.DDM, enforce_at=START + hours(5))
    new = a_job(
        Action.REINSTALL, Method.STARTOSINSTALL, issued_at=START + hours(1), intent="seal@1"
    )
    executor.submit(signed_job(old), START)
    executor.tick(START)
    executor.submit(signed_job(new), START + hours(1))
    drive(executor, fleet, START + hours(4))
    assert [act[2] for act in fleet.acted] == [old.job_id]
    drive(executor, fleet, START + hours(20))
    assert [act[2] for act in fleet.acted] == [old.job_id, new.job_id]
    results = collect(executor)
    assert outcomes(results, old) == outcomes(results, new) == DONE


def test_older_job_that_arrives_late_never_runs() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    old, new = a_job(), a_job(generation=1, issued_at=START + hours(1))
    executor.submit(signed_job(new), START + hours(1))
    drive(executor, fleet, START + hours(10))
    executor.submit(signed_job(old), START + hours(10))
    drive(executor, fleet, START + hours(20))
    assert outcomes(collect(executor), old) == [("superseded", "newer_job")]
    assert [act[2] for act in fleet.acted] == [new.job_id]


def test_job_with_a_bad_signature_does_not_make_valid_jobs_look_old() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    forged = a_job(generation=7, issued_at=START + hours(1))
    executor.submit(signed_job(forged, STRANGER_KEY), START)
    executor.submit(signed_job(a_job()), START)
    drive(executor, fleet, START + hours(10))
    assert outcomes(collect(executor), a_job()) == DONE


def withdraw(job: Job) -> JobSuperseded:
    return JobSuperseded(job_id=job.job_id, udid=job.udid, site=job.site)


def test_superseded_job_ends_if_its_mac_is_untouched() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    executor.supersede(withdraw(a_job()), START)
    drive(executor, fleet, START + hours(10))
    assert outcomes(collect(executor)) == [("superseded", "superseded")]
    assert fleet.acted == []


def test_superseded_job_runs_to_its_end_if_it_touched_its_mac() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    executor.supersede(withdraw(a_job()), START)
    drive(executor, fleet, START + hours(10))
    assert outcomes(collect(executor)) == DONE


def test_lost_order_of_a_superseded_job_is_not_repeated() -> None:
    fleet = a_fleet(a_spec(faults=Faults(lost_orders=1)))
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    executor.supersede(withdraw(a_job()), START)
    drive(executor, fleet, START + hours(10))
    assert outcomes(collect(executor)) == [("started", None), ("superseded", "superseded")]
    assert fleet.acted == []


def test_job_withdrawn_before_it_arrives_never_runs() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.supersede(withdraw(a_job()), START)
    executor.submit(signed_job(a_job()), START)
    drive(executor, fleet, START + hours(10))
    assert fleet.acted == []
    assert set(outcomes(collect(executor))) == {("superseded", "superseded")}


def test_number_of_touched_macs_never_exceeds_the_slots() -> None:
    specs = [a_spec(f"MAC-{number}") for number in range(7)]
    fleet = a_fleet(*specs)
    executor = an_executor(fleet, slots=2)
    for spec in specs:
        executor.submit(signed_job(a_job(udid=spec.udid)), START)
    executor.tick(START)
    assert len(fleet.acted) == 2
    drive(executor, fleet, START + hours(24))
    assert len(fleet.acted) == 7
    assert executor.live_jobs == 0


def test_unreachable_mac_uses_no_slot() -> None:
    away = Faults(offline=(Period(START, START + hours(9)),))
    fleet = a_fleet(a_spec("MAC-1", faults=away), a_spec("MAC-2"))
    executor = an_executor(fleet, slots=1)
    for udid in fleet.macs:
        executor.submit(signed_job(a_job(udid=udid)), START)
    executor.tick(START)
    assert [act[1] for act in fleet.acted] == ["MAC-2"]


class Broken:
    """A Mac whose form has a bug."""

    def look(self, job: Job) -> Observation:
        raise LookupError(job.job_id)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        raise AssertionError((step, job, attempt))


def test_bug_in_one_form_does_not_stop_other_macs() -> None:
    fleet = a_fleet(a_spec("MAC-1"), a_spec("MAC-2"))
    executor = Executor(
        SITE,
        Journal(":memory:"),
        KEYS,
        SiteAccess.simulated(lambda job: Broken() if job.udid == "MAC-1" else fleet.mac_for(job)),
    )
    executor.set_halts(())
    for udid in fleet.macs:
        executor.submit(signed_job(a_job(udid=udid)), START)
    drive(executor, fleet, START + hours(10))
    results = collect(executor)
    assert outcomes(results, a_job(udid="MAC-1")) == [("failed", ErrorCode.BUG)]
    assert outcomes(results, a_job(udid="MAC-2")) == DONE


# --- dry run ---


def a_dry_run(path: Path, *jobs: Job) -> list[tuple[str, str | None]]:
    """Submit the jobs to an executor in dry run; return the outcomes of its first tick."""
    with Journal(path) as journal:
        executor = Executor(SITE, journal, KEYS, None)
        executor.set_halts(())
        for job in jobs:
            executor.submit(signed_job(job), START)
        executor.tick(START)
        assert executor.live_jobs == 0
        return outcomes(collect(executor))


@pytest.mark.parametrize(
    "job",
    [a_job(), a_job(method=Method.DDM), an_erasing_job()],
    ids=["over SSH", "over DDM", "erasing"],
)
def test_job_of_a_site_in_dry_run_is_withheld(tmp_path: Path, job: Job) -> None:
    assert a_dry_run(tmp_path / "j", job) == [("withheld", None)]


@pytest.mark.parametrize("refusal", ["signed by a stranger", "another site's", "erases unapproved"])
def test_dry_run_verifies_a_job_first(refusal: str) -> None:
    issued, outcome, code = REFUSALS[refusal]
    executor = Executor(SITE, Journal(":memory:"), KEYS, None)
    executor.set_halts(())
    executor.submit(issued, START)
    executor.tick(START)
    assert outcomes(collect(executor)) == [(outcome, code)]


def test_halted_job_is_not_withheld_before_the_halt_ends() -> None:
    executor = Executor(SITE, Journal(":memory:"), KEYS, None)
    executor.set_halts([HaltScope(everything=True)])
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    assert outcomes(collect(executor)) == []
    executor.set_halts(())
    executor.tick(START)
    assert outcomes(collect(executor)) == [("withheld", None)]


def test_jobs_withheld_in_a_dry_run_are_superseded_once_when_the_site_is_live(
    tmp_path: Path,
) -> None:
    earlier = a_job(issued_at=START - hours(9))
    newest = a_job(generation=1, issued_at=START - hours(1))
    other = a_job(Action.REENROLL, Method.PROFILES_RENEW, intent="x", target=None)
    for job in (earlier, newest, other):
        a_dry_run(tmp_path / "j", job)
    fleet = a_fleet()
    for wanted in ([newest.job_id, other.job_id], []):
        with Journal(tmp_path / "j") as journal:
            executor = an_executor(fleet, journal)
            assert executor.next_wake(START) == (START if wanted else None)
            executor.tick(START)
            results = collect(executor)
            assert [item.result.job_id for item in results] == wanted
            assert all(item.result.outcome is Outcome.SUPERSEDED for item in results)
    assert fleet.acted == []


def test_job_that_a_dry_run_withheld_never_runs_when_it_arrives_again(tmp_path: Path) -> None:
    a_dry_run(tmp_path / "j", a_job())
    fleet = a_fleet()
    with Journal(tmp_path / "j") as journal:
        executor = an_executor(fleet, journal)
        executor.submit(signed_job(a_job()), START)
        drive(executor, fleet, START + hours(10))
    assert fleet.acted == []


def test_job_under_way_when_its_site_enters_a_dry_run_is_left_to_the_report_of_its_mac(
    tmp_path: Path,
) -> None:
    fleet = a_fleet()
    with Journal(tmp_path / "j") as journal:
        live = an_executor(fleet, journal)
        live.submit(signed_job(a_job(method=Method.STARTOSINSTALL)), START)
        live.tick(START)
        collect(live)
    with Journal(tmp_path / "j") as journal:
        executor = Executor(SITE, journal, KEYS, None)
        executor.set_halts(())
        drive(executor, fleet, START + hours(30))
        assert outcomes(collect(executor)) == [("acted", None)]
    assert len(fleet.acted) == 1


def test_job_signed_with_a_retired_key_is_refused() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.set_keys(KeyRing())
    executor.submit(signed_job(a_job()), START)
    assert outcomes(collect(executor)) == [("refused", "bad_signature")]


def test_results_are_returned_until_they_are_marked_published() -> None:
    fleet = a_fleet()
    executor = an_executor(fleet)
    executor.submit(signed_job(a_job()), START)
    first = executor.results()
    assert executor.results() == first != []
    executor.mark_published(first)
    assert executor.results() == []
