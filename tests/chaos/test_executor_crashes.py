"""An executor killed before and after every durable write, and right after each act on a Mac.

It is started again on the same journal with the same Macs.
"""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from agents.executor import Executor
from agents.journal import Journal, UnpublishedResult
from agents.simulated import Faults, MacSpec, SimulatedFleet
from agents.site_access import SiteAccess
from schemas.jobs import Action, Job, Method
from tests.crash_points import Crash, CrashPoint, WatchedMac
from tests.factories.sites import (
    KEYS,
    RELEASES,
    SITE,
    START,
    a_job,
    a_spec,
    an_erasing_job,
    hours,
    signed_job,
)

UNTIL = START + hours(40)
Hook = Callable[[str], None]


def site() -> tuple[list[MacSpec], list[Job]]:
    """Return a Mac and its job for each way in which an attempt can continue after a crash."""
    specs = [
        a_spec("SSH"),
        a_spec("DDM"),
        a_spec("NOT-NOW", faults=Faults(not_now=2)),
        a_spec("NOT-NOW-SSH", faults=Faults(not_now=2)),
        a_spec("LOST", faults=Faults(lost_orders=1)),
        a_spec("ERASED"),
        a_spec("RENEW", enrolled=False),
    ]
    jobs = [
        a_job(udid="SSH"),
        a_job(udid="DDM", method=Method.DDM),
        a_job(udid="NOT-NOW", method=Method.DDM),
        a_job(udid="NOT-NOW-SSH"),
        a_job(udid="LOST"),
        an_erasing_job(Method.STARTOSINSTALL, udid="ERASED"),
        a_job(Action.REENROLL, Method.PROFILES_RENEW, udid="RENEW", target=None, intent="silent@1"),
    ]
    return specs, jobs


class RestartedSite:
    """A site over several lives of its executor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs, self.jobs = site()
        self.published: list[UnpublishedResult] = []
        self.now = START

    def run_until_killed(self, moment: Hook) -> SimulatedFleet:
        """Run one process until the end of the run, or until `moment` raises Crash."""
        fleet = SimulatedFleet.open(
            self.folder / "macs.sqlite", self.specs, START, releases=RELEASES
        )
        journal = Journal(self.folder / "journal.sqlite", moment)
        executor = Executor(
            SITE,
            journal,
            KEYS,
            SiteAccess.simulated(lambda job: WatchedMac(fleet.macs[job.udid], moment)),
            slots=4,
        )
        executor.set_halts(())
        try:
            self._run(executor, fleet)
        finally:
            journal.close()
            fleet.close()
        return fleet

    def _run(self, executor: Executor, fleet: SimulatedFleet) -> None:
        fleet.advance(self.now)
        # Nothing was committed, so the topic delivers every job again after each start.
        for job in self.jobs:
            executor.submit(signed_job(job), self.now)
        while self.now <= UNTIL:
            fleet.advance(self.now)
            executor.tick(self.now)
            results = executor.results()
            self.published += results
            executor.mark_published(results)
            due = (executor.next_wake(self.now), fleet.next_event_at())
            self.now = max(min(at for at in due if at is not None), self.now)


def moments(folder: Path) -> list[str]:
    """Return every moment of a run without a crash."""
    seen: list[str] = []
    RestartedSite(folder).run_until_killed(seen.append)
    return seen


def check(restarted: RestartedSite, fleet: SimulatedFleet) -> None:
    """Assert one act for each job, and complete results in order without contradiction."""
    assert Counter(act[2] for act in fleet.acted) == Counter(job.job_id for job in restarted.jobs)
    for job in restarted.jobs:
        published = [item for item in restarted.published if item.result.job_id == job.job_id]
        by_seq = {item.seq: item for item in published}
        assert all(by_seq[item.seq] == item for item in published), "a repeat differed"
        in_order = [by_seq[seq].result for seq in sorted(by_seq)]
        outcomes = [result.outcome.value for result in in_order if result.outcome != "progressed"]
        assert outcomes == ["accepted", "started", "acted"], (job.udid, outcomes)


def test_run_without_a_crash_acts_once_on_each_mac(tmp_path: Path) -> None:
    restarted = RestartedSite(tmp_path)
    check(restarted, restarted.run_until_killed(lambda _: None))


@pytest.mark.slow
def test_executor_killed_at_any_moment_acts_once_on_each_mac(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    seen = moments(whole)
    assert {name.split(":")[0] for name in seen} >= {
        "accept",
        "intend",
        "response",
        "finish",
        "published",
        "touched",
    }
    for which in range(1, len(seen) + 1):
        folder = tmp_path / str(which)
        folder.mkdir()
        restarted = RestartedSite(folder)
        with pytest.raises(Crash):
            restarted.run_until_killed(CrashPoint(which))
        # The process is started again a little later.
        restarted.now += timedelta(seconds=90)
        check(restarted, restarted.run_until_killed(lambda _: None))


@pytest.mark.parametrize("pace", [3, 7, 13])
def test_executor_killed_repeatedly_acts_once_on_each_mac(tmp_path: Path, pace: int) -> None:
    restarted = RestartedSite(tmp_path)
    # Every start accepts all jobs again, with durable writes: each life gets one write more.
    for lives in range(400):
        try:
            fleet = restarted.run_until_killed(CrashPoint(pace + lives))
        except Crash:
            restarted.now += timedelta(seconds=90)
            continue
        check(restarted, fleet)
        return
    pytest.fail("the run did not end within 400 lives")


def test_crash_before_the_intent_leaves_the_mac_untouched(tmp_path: Path) -> None:
    restarted = RestartedSite(tmp_path)

    def moment(name: str) -> None:
        if name == "intend:before":
            raise Crash

    with pytest.raises(Crash):
        restarted.run_until_killed(moment)
    fleet = SimulatedFleet.open(tmp_path / "macs.sqlite", restarted.specs, START, releases=RELEASES)
    assert fleet.acted == []
    fleet.close()


def test_simulated_fleet_opened_again_has_the_same_acts_and_states(tmp_path: Path) -> None:
    restarted = RestartedSite(tmp_path)
    before = restarted.run_until_killed(lambda _: None)
    after = SimulatedFleet.open(tmp_path / "macs.sqlite", restarted.specs, START, releases=RELEASES)
    after.advance(before.now)
    assert after.acted == before.acted
    job = restarted.jobs[0]
    for udid, mac in after.macs.items():
        assert mac.look(job) == before.macs[udid].look(job)
    after.close()
