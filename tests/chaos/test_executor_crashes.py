"""Killed at every durable write, before and after it, and in the moment after a Mac was touched;
started again on the same journal against the same Macs."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from agents.executor import Executor
from agents.journal import Journal, Told
from agents.mac import Ack, Look
from agents.simulated import Faults, MacSpec, SimulatedFleet, SimulatedMac
from schemas.jobs import Action, Job, Method
from tests.factories.sites import (
    KEYS,
    RELEASES,
    SITE,
    START,
    a_job,
    a_spec,
    an_erasing_job,
    hours,
    issued,
)

UNTIL = START + hours(40)
Hook = Callable[[str], None]


class Killed(BaseException):
    """The process is gone: nothing of ours runs any more."""


class Mortal:
    """A Mac whose touch is a moment at which the executor can be killed."""

    def __init__(self, mac: SimulatedMac, moment: Hook) -> None:
        self._mac = mac
        self._moment = moment

    def look(self, job: Job) -> Look:
        return self._mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        ack = self._mac.act(step, job, attempt)
        self._moment("touched")
        return ack


def site() -> tuple[list[MacSpec], list[Job]]:
    """A Mac for each way in which an attempt can go on after a crash."""
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


class Life:
    """A site over several lives of its executor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs, self.jobs = site()
        self.published: list[Told] = []
        self.now = START

    def live(self, moment: Hook) -> SimulatedFleet:
        """One life, from start-up to the end of the run, unless `moment` kills it."""
        fleet = SimulatedFleet.open(
            self.folder / "macs.sqlite", self.specs, START, releases=RELEASES
        )
        journal = Journal(self.folder / "journal.sqlite", moment)
        executor = Executor(
            SITE, journal, KEYS, lambda job: Mortal(fleet.macs[job.udid], moment), slots=4
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
        # The bus delivers from where it was last committed: from the start, here.
        for job in self.jobs:
            executor.submit(issued(job), self.now)
        while self.now <= UNTIL:
            fleet.advance(self.now)
            executor.tick(self.now)
            told = executor.results()
            self.published += told
            executor.mark_published(told)
            due = (executor.next_wake(self.now), fleet.next_event_at())
            self.now = max(min(at for at in due if at is not None), self.now)


def moments(folder: Path) -> list[str]:
    """Every moment of an undisturbed run."""
    seen: list[str] = []
    Life(folder).live(seen.append)
    return seen


def check(life: Life, fleet: SimulatedFleet) -> None:
    """Each Mac acted on once for its job; the results whole, in order, without contradiction."""
    assert Counter(act[2] for act in fleet.acted) == Counter(job.job_id for job in life.jobs)
    for job in life.jobs:
        told = [item for item in life.published if item.result.job_id == job.job_id]
        by_seq = {item.seq: item for item in told}
        assert all(by_seq[item.seq] == item for item in told), "a repeat differed"
        in_order = [by_seq[seq].result for seq in sorted(by_seq)]
        outcomes = [told.outcome.value for told in in_order if told.outcome != "progressed"]
        assert outcomes == ["accepted", "started", "acted"], (job.udid, outcomes)


def die_at(which: int) -> Hook:
    count = 0

    def moment(_: str) -> None:
        nonlocal count
        count += 1
        if count == which:
            raise Killed

    return moment


def test_an_undisturbed_run_is_what_the_others_are_measured_by(tmp_path: Path) -> None:
    life = Life(tmp_path)
    check(life, life.live(lambda _: None))


@pytest.mark.slow
def test_killed_at_every_moment_each_mac_is_acted_on_once(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    seen = moments(whole)
    assert {name.split(":")[0] for name in seen} >= {
        "accept",
        "intend",
        "answer",
        "finish",
        "published",
        "touched",
    }
    for which in range(1, len(seen) + 1):
        folder = tmp_path / str(which)
        folder.mkdir()
        life = Life(folder)
        with pytest.raises(Killed):
            life.live(die_at(which))
        # It is noticed and started again a little later.
        life.now += timedelta(seconds=90)
        check(life, life.live(lambda _: None))


@pytest.mark.parametrize("pace", [3, 7, 13])
def test_killed_again_and_again_each_mac_is_acted_on_once(tmp_path: Path, pace: int) -> None:
    life = Life(tmp_path)
    # Every start repeats all orders, which is durable too: each life is given a little longer.
    for lives in range(400):
        try:
            fleet = life.live(die_at(pace + lives))
        except Killed:
            life.now += timedelta(seconds=90)
            continue
        check(life, fleet)
        return
    pytest.fail("never came to an end")


def test_a_crash_before_the_intent_leaves_no_trace_on_the_mac(tmp_path: Path) -> None:
    life = Life(tmp_path)

    def moment(name: str) -> None:
        if name == "intend:before":
            raise Killed

    with pytest.raises(Killed):
        life.live(moment)
    fleet = SimulatedFleet.open(tmp_path / "macs.sqlite", life.specs, START, releases=RELEASES)
    assert fleet.acted == []
    fleet.close()


def test_a_fleet_opened_again_has_gone_through_the_same(tmp_path: Path) -> None:
    life = Life(tmp_path)
    before = life.live(lambda _: None)
    after = SimulatedFleet.open(tmp_path / "macs.sqlite", life.specs, START, releases=RELEASES)
    after.advance(before.now)
    assert after.acted == before.acted
    job = life.jobs[0]
    for udid, mac in after.macs.items():
        assert mac.look(job) == before.macs[udid].look(job)
    after.close()
