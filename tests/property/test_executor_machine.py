"""The executor under any order of jobs, halts, faults, restarts, and crashes at any step."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents.executor import Executor
from agents.journal import Journal, UnpublishedResult
from agents.mac import Ack, Observation
from agents.simulated import Faults, Period, SimulatedFleet, SimulatedMac
from agents.site_access import SiteAccess
from runtime.sqlite import delete_files
from schemas.events.control import HaltScope
from schemas.jobs import Action, Job, JobSuperseded, Method
from tests.crash_points import Crash
from tests.factories.sites import (
    JOBS_KEY,
    KEYS,
    SITE,
    START,
    STRANGER_KEY,
    a_fleet,
    a_job,
    a_spec,
    an_erasing_job,
    hours,
    signed_job,
)

UDIDS = ("A", "B", "C")
ENDS = {"acted", "failed", "refused", "expired", "superseded"}
HALTS = (None, (), (HaltScope(everything=True),), (HaltScope(site=SITE),), (HaltScope(site="x"),))
FAULTS = st.builds(
    Faults,
    not_now=st.sampled_from([0, 0, 1, 3, 200]),
    lost_orders=st.sampled_from([0, 0, 1, 2]),
    lost_answers=st.sampled_from([0, 0, 1, 2]),
    ignored=st.sampled_from([0, 0, 1]),
    rejected=st.sampled_from([0, 0, 1]),
    failing_downloads=st.sampled_from([0, 0, 1]),
    failing_installs=st.sampled_from([0, 0, 1]),
    offline=st.lists(
        st.tuples(st.integers(0, 100), st.integers(1, 40)).map(
            lambda pair: Period(START + hours(pair[0]), START + hours(pair[0] + pair[1]))
        ),
        max_size=2,
    ).map(tuple),
)


class HaltCheckingMac:
    """A Mac whose `act` asserts that no halt covers the job, and may crash the executor."""

    def __init__(self, mac: SimulatedMac, machine: "ExecutorMachine") -> None:
        self._mac = mac
        self._machine = machine

    def look(self, job: Job) -> Observation:
        return self._mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        assert self._machine.may_start(job), "a Mac was touched under a halt"
        assert self._machine.is_live, "a Mac was touched in a dry run"
        ack = self._mac.act(step, job, attempt)
        self._machine.count_down("touched")
        return ack


class ExecutorMachine(RuleBasedStateMachine):
    """One executor, three simulated Macs, and jobs, some of them forged."""

    @initialize(faults=st.tuples(FAULTS, FAULTS, FAULTS), seed=st.integers(0, 3))
    def begin(self, faults: Iterable[Faults], seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now = START
        specs = [a_spec(udid, faults=each) for udid, each in zip(UDIDS, faults, strict=True)]
        self.fleet: SimulatedFleet = a_fleet(*specs, seed=seed)
        self.halts: tuple[HaltScope, ...] | None = ()
        self.jobs: dict[str, Job] = {}
        self.forged: set[str] = set()
        self.results: dict[int, UnpublishedResult] = {}
        self.writes_left = -1
        self.is_live = True
        self.executor = self.start()

    def start(self) -> Executor:
        self.writes_left = -1
        path = Path(self.folder.name) / "journal"
        self.journal = Journal(path, self.count_down)
        access = SiteAccess.simulated(lambda job: HaltCheckingMac(self.fleet.macs[job.udid], self))
        executor = Executor(SITE, self.journal, KEYS, access if self.is_live else None, slots=2)
        executor.set_halts(self.halts)
        return executor

    def count_down(self, _: str) -> None:
        if self.writes_left > 0:
            self.writes_left -= 1
            if self.writes_left == 0:
                raise Crash

    def may_start(self, job: Job) -> bool:
        return self.halts is not None and not any(job.halted_by(scope) for scope in self.halts)

    def survive(self, work: str, *arguments: object) -> None:
        """Call the executor; after a crash, start another and call again, as redelivery does."""
        try:
            getattr(self.executor, work)(*arguments)
        except Crash:
            self.journal.close()
            self.executor = self.start()
            getattr(self.executor, work)(*arguments)

    @rule(
        udid=st.sampled_from(UDIDS),
        kind=st.sampled_from(["ssh", "ddm", "later", "erase", "in place", "renew"]),
        forge=st.sampled_from([False, False, False, True]),
    )
    def submit(self, udid: str, kind: str, forge: bool) -> None:
        made: dict[str, Any] = {
            "udid": udid,
            "generation": len(self.jobs),
            "issued_at": self.now,
            "expires_at": self.now + hours(72),
        }
        in_place = (Action.REINSTALL, Method.STARTOSINSTALL)
        job = {
            "ssh": lambda: a_job(**made),
            "ddm": lambda: a_job(method=Method.DDM, **made),
            "later": lambda: a_job(method=Method.DDM, enforce_at=self.now + hours(20), **made),
            "in place": lambda: a_job(*in_place, **made),
            "erase": lambda: an_erasing_job(
                Method.STARTOSINSTALL, approve={"expires_at": self.now + hours(30)}, **made
            ),
            "renew": lambda: a_job(
                Action.REENROLL, Method.PROFILES_RENEW, **{**made, "target": None}
            ),
        }[kind]()
        self.jobs[job.job_id] = job
        if forge:
            self.forged.add(job.job_id)
        self.survive(
            "submit", signed_job(job, STRANGER_KEY) if forge else signed_job(job), self.now
        )

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        job = self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]
        # A forged record of the job's id does not prevent the true one.
        self.forged.discard(job.job_id)
        self.survive("submit", signed_job(job), self.now)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def supersede(self, data: st.DataObject) -> None:
        job = self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]
        superseded = JobSuperseded(job_id=job.job_id, udid=job.udid, site=job.site)
        self.survive("supersede", superseded, self.now)

    @rule(halts=st.sampled_from(HALTS))
    def halt(self, halts: tuple[HaltScope, ...] | None) -> None:
        self.halts = halts
        self.executor.set_halts(halts)

    @rule(writes_left=st.integers(1, 12))
    def will_be_killed(self, writes_left: int) -> None:
        self.writes_left = writes_left

    @rule(is_live=st.sampled_from([None, True, False]))
    def restart(self, is_live: bool | None) -> None:
        """Start again; with a value the site is live, or in dry run, from then on."""
        self.is_live = self.is_live if is_live is None else is_live
        self.journal.close()
        self.executor = self.start()

    @rule(passed=st.sampled_from([0.01, 0.5, 3, 12, 30]))
    def time_passes(self, passed: float) -> None:
        end = self.now + hours(passed)
        while self.now < end:
            self.fleet.advance(self.now)
            self.survive("tick", self.now)
            due = (self.executor.next_wake(self.now), self.fleet.next_event_at())
            upcoming = min((at for at in due if at is not None), default=end)
            # A tick may leave something due at once; a second passes, so the loop ends.
            self.now = min(max(upcoming, self.now + timedelta(seconds=1)), end)

    @rule()
    def publish(self) -> None:
        for item in self.executor.results():
            assert self.results.setdefault(item.seq, item) == item
        self.survive("mark_published", list(self.results.values()))

    @invariant()
    def no_mac_is_acted_on_twice_for_a_job(self) -> None:
        assert all(n == 1 for n in Counter(act[2] for act in self.fleet.acted).values())

    @invariant()
    def no_forged_job_is_carried_out(self) -> None:
        assert self.forged.isdisjoint(act[2] for act in self.fleet.acted)

    @invariant()
    def one_job_a_mac_is_under_way(self) -> None:
        touched = [self.jobs[job_id].udid for job_id in self.executor._touched]
        assert len(touched) == len(set(touched)) <= 2

    def teardown(self) -> None:
        if not hasattr(self, "executor"):
            return
        self.halt(())
        self.restart(is_live=True)
        for _ in range(12):
            self.time_passes(30)
        self.publish()
        assert self.executor.live_jobs == 0
        for job_id in self.jobs:
            self.check_results_of(job_id)
        self.journal.close()
        self.folder.cleanup()

    def check_results_of(self, job_id: str) -> None:
        """Assert that a job has one final result, and that a touched Mac has a `started` result.

        A job that was withheld before a newer one for the same intent stays withheld.
        """
        results = [self.results[seq].result for seq in sorted(self.results)]
        of_job = [each for each in results if each.job_id == job_id]
        outcomes = [each.outcome.value for each in of_job if each.order_sha256 is None]
        unproven = {each.outcome.value for each in of_job if each.order_sha256 is not None}
        assert unproven <= {"refused"}
        if job_id in self.forged:
            assert unproven
            assert set(outcomes) <= {"superseded"}
            return
        acted = any(act[2] == job_id for act in self.fleet.acted)
        if outcomes[-1] == "withheld":
            assert not acted
            assert outcomes == ["accepted", "withheld"]
            return
        assert len([outcome for outcome in outcomes if outcome in ENDS]) == 1
        assert outcomes[-1] in ENDS
        assert "started" in outcomes or not acted
        assert outcomes.count("accepted") <= 1
        assert outcomes.count("started") <= 1


ExecutorMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25)
TestExecutor = ExecutorMachine.TestCase


class LostJournalMachine(ExecutorMachine):
    """The same, but the journal is lost at times and every job arrives again.

    The results of a lost journal are lost with it, so only the acts are checked.
    """

    @rule(order=st.randoms(use_true_random=False))
    def lose_the_journal(self, order: Random) -> None:
        self.journal.close()
        delete_files(Path(self.folder.name) / "journal")
        self.results.clear()
        self.executor = self.start()
        for job_id in order.sample(sorted(self.jobs), len(self.jobs)):
            signer = STRANGER_KEY if job_id in self.forged else JOBS_KEY
            self.executor.submit(signed_job(self.jobs[job_id], signer), self.now)

    def check_results_of(self, job_id: str) -> None:
        """Check nothing: `no_mac_is_acted_on_twice_for_a_job` is the check."""


LostJournalMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25)
TestLostJournal = LostJournalMachine.TestCase
