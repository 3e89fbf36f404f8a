"""A journal is lost, deleted or replaced by an older copy: no order is given a second time."""

import shutil
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agents.executor import Executor
from agents.journal import Journal
from agents.simulated import Faults, SimulatedFleet
from agents.site_access import SiteAccess
from schemas.jobs import Action, Job, Method
from tests.crash_points import Crash, CrashPoint, WatchedMac
from tests.factories.sites import (
    KEYS,
    NEW,
    SITE,
    START,
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

INTEL: dict[str, Any] = {
    "hardware": "intel",
    "model": "iMac19,1",
    "os_version": NEW.version,
    "build": NEW.build,
}
JOBS = {
    "erase over MDM": an_erasing_job(Method.ERASE_DEVICE),
    "erase over SSH": an_erasing_job(Method.STARTOSINSTALL),
    "restore from an image": an_erasing_reimage(),
    "reinstall in place": a_job(Action.REINSTALL, Method.STARTOSINSTALL),
    "update over SSH": a_job(),
    "update over DDM": a_job(method=Method.DDM),
    "MDM command": a_job(method=Method.MDM_COMMAND),
    "prompt": a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="x"),
}
ERASING = ("erase over MDM", "erase over SSH", "restore from an image")


def slow(*values: float) -> list[Any]:
    """Return values of a parameter that only `make faults` runs."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def a_mac_for(job: Job, not_now: int = 0) -> SimulatedFleet:
    hardware = INTEL if job.method is Method.ASR else {}
    return a_fleet(a_spec(**hardware, faults=Faults(not_now=not_now)))


def run_for(executor: Executor, fleet: SimulatedFleet, job: Job, passed: timedelta) -> None:
    executor.submit(signed_job(job), fleet.now)
    drive(executor, fleet, fleet.now + passed)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("passed", [0.2, *slow(0.001, 3, 20)])
def test_job_is_done_once_although_the_journal_is_lost(name: str, passed: float) -> None:
    job = JOBS[name]
    fleet = a_mac_for(job)
    run_for(an_executor(fleet), fleet, job, hours(passed))
    assert len(fleet.acted) == 1
    again = an_executor(fleet)
    run_for(again, fleet, job, hours(30))
    assert len(fleet.acted) == 1, "the order was given twice"
    assert outcomes(collect(again))[-1][0] in ("acted", "failed")


@pytest.mark.parametrize("name", JOBS)
def test_order_that_is_queued_at_the_server_is_not_given_again(name: str) -> None:
    job = JOBS[name]
    fleet = a_mac_for(job, not_now=3)
    run_for(an_executor(fleet), fleet, job, hours(0.1))
    assert fleet.acted == []
    run_for(an_executor(fleet), fleet, job, hours(40))
    assert len(fleet.acted) == 1


@pytest.mark.parametrize("name", ERASING)
@pytest.mark.parametrize("passed", [3, *slow(0.2, 20)])
def test_older_journal_that_is_put_back_erases_no_mac_again(
    name: str, passed: float, tmp_path: Path
) -> None:
    job = JOBS[name]
    fleet = a_mac_for(job)
    path, older = tmp_path / "london.sqlite", tmp_path / "older.sqlite"
    with Journal(path) as journal:
        an_executor(fleet, journal, halted=True).submit(signed_job(job), START)
    shutil.copy(path, older)
    with Journal(path) as journal:
        drive(an_executor(fleet, journal), fleet, START + hours(passed))
    assert len(fleet.acted) == 1
    older.replace(path)
    with Journal(path) as journal:
        executor = an_executor(fleet, journal)
        executor.distrust_journal(fleet.now)
        drive(executor, fleet, fleet.now + hours(30))
    assert len(fleet.acted) == 1, "the Mac was erased twice"


@pytest.mark.parametrize("name", ERASING)
def test_older_journal_erases_no_mac_again_although_the_loss_is_unknown(
    name: str, tmp_path: Path
) -> None:
    job = JOBS[name]
    fleet = a_mac_for(job)
    path, older = tmp_path / "london.sqlite", tmp_path / "older.sqlite"
    with Journal(path) as journal:
        an_executor(fleet, journal, halted=True).submit(signed_job(job), START)
    shutil.copy(path, older)
    with Journal(path) as journal:
        drive(an_executor(fleet, journal), fleet, START + hours(3))
    older.replace(path)
    with Journal(path) as journal:
        executor = an_executor(fleet, journal)
        drive(executor, fleet, fleet.now + hours(30))
        assert outcomes(collect(executor))[-1] in (
            ("refused", "history_unknown"),
            ("acted", None),
            ("failed", "nothing_happened"),
        )
    assert len(fleet.acted) == 1, "the Mac was erased twice"


@pytest.mark.parametrize("name", ERASING)
def test_refused_erase_names_its_own_code(name: str) -> None:
    """The Mac restarted after the issue: nothing proves that it was not erased."""
    job = JOBS[name]
    fleet = a_mac_for(job)
    fleet.macs[job.udid].boot_at = START + hours(1)
    fleet.advance(START + hours(2))
    executor = an_executor(fleet)
    run_for(executor, fleet, job, hours(1))
    assert fleet.acted == []
    assert outcomes(collect(executor)) == [("refused", "history_unknown")]


@pytest.mark.parametrize("name", ERASING)
def test_first_erase_of_a_new_journal_is_given_if_the_mac_is_proven_untouched(name: str) -> None:
    job = JOBS[name]
    fleet = a_mac_for(job)
    fleet.advance(START + hours(2))
    executor = an_executor(fleet)
    run_for(executor, fleet, job, hours(3))
    assert len(fleet.acted) == 1
    assert outcomes(collect(executor))[0] == ("started", None)


@pytest.mark.parametrize("name", JOBS)
def test_crash_at_any_step_and_loss_of_the_journal_give_no_second_order(
    name: str, tmp_path: Path
) -> None:
    job = JOBS[name]
    at = 0
    while not lost_after_a_crash(job, tmp_path / f"{at}.sqlite", at := at + 1):
        pass
    assert at > 4


def lost_after_a_crash(job: Job, path: Path, at: int) -> bool:
    """Crash at the `at`-th moment, lose the journal and submit again; True if there is no such."""
    fleet = a_mac_for(job)
    crash = CrashPoint(at)
    ended = False
    with Journal(path, crash) as journal, suppress(Crash):
        watched = WatchedMac(fleet.macs[job.udid], crash)
        executor = Executor(SITE, journal, KEYS, SiteAccess.simulated(lambda _: watched))
        executor.set_halts(())
        run_for(executor, fleet, job, hours(5))
        ended = True
    path.unlink()
    with Journal(path) as journal:
        run_for(an_executor(fleet, journal), fleet, job, hours(30))
    given = Counter(act[2] for act in fleet.acted)
    assert given[job.job_id] <= 1, f"{crash.moments[-1]}: the order was given twice"
    return ended
