"""The reconciler under random events of a small fleet, with an executor whose results are late.

After every step each Mac has one open job at most, no job id is used twice, every record gives the
same bytes again, and a sweep finds no job to send that the events had missed.
"""

from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.decide.recomputation import recompute
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.jobs import open_job
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, JobIssuedEvent, JobSupersededEvent, decode, encode
from schemas.jobs import Action, Job
from schemas.results import ErrorCode, Outcome
from tests import factories as make
from tests.reconcile_loop import accept, advance, new_reconciler, sweep, values
from tests.strategies import (
    MODELS,
    UDIDS,
    VERSIONS,
    advisory_events,
    consistent,
    overrides,
    policy_texts,
)

MINUTE = timedelta(minutes=1)


class QueuedExecutor:
    """An executor that runs one job per Mac unless it is superseded, and queues its results."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.begun: dict[str, Job] = {}
        self.dropped: set[str] = set()
        self.results: list[tuple[Job, Outcome, ErrorCode | None]] = []

    def begin(self, job: Job, now: Any) -> None:
        self.jobs.remove(job)
        if job.job_id in self.dropped:
            self.results.append((job, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED))
        elif now >= job.expires_at:
            self.results.append((job, Outcome.EXPIRED, ErrorCode.EXPIRED))
        elif job.udid in self.begun:
            self.jobs.append(job)
        else:
            self.begun[job.udid] = job
            self.results.append((job, Outcome.STARTED, None))


class FleetMachine(RuleBasedStateMachine):
    """Reconciler, executor and clock."""

    def __init__(self) -> None:
        super().__init__()
        self.reconciler = new_reconciler()
        self.executor = QueuedExecutor()
        self.now = make.NOW
        self.ids: set[str] = set()

    # --- the part of the shell ---

    def give(self, event: Event) -> None:
        self.follow(values(accept(self.reconciler, decode(encode(event)), self.now)))

    def follow(self, found: list[DecisionRecord | Event]) -> None:
        for value in found:
            if isinstance(value, DecisionRecord):
                self.check(value)
            elif isinstance(value, JobSupersededEvent):
                self.executor.dropped.add(value.data.job_id)
            elif isinstance(value, JobIssuedEvent):
                job = value.data.job
                assert job.job_id not in self.ids, "an id was used twice"
                self.ids.add(job.job_id)
                self.executor.jobs.append(job)

    def check(self, record: DecisionRecord) -> None:
        policy = self.reconciler.policy
        assert policy is not None
        again = recompute(record, policy, self.reconciler.fleet.advisories)
        assert again.model_dump_json() == record.decision.model_dump_json()

    # --- rules ---

    @initialize(text=policy_texts())
    def begin(self, text: str) -> None:
        self.give(make.policy_changed(text))
        for version in make.RELEASES:
            self.give(make.release(version))
        for udid in UDIDS:
            for event in make.enrolled(udid):
                self.give(event)

    @rule(udid=st.sampled_from(UDIDS), version=st.sampled_from(list(VERSIONS)), facts=overrides())
    def report(self, udid: str, version: str, facts: dict[str, Any]) -> None:
        fields = make.MODERN | {"serial": f"C02-{udid[-1]}", "os_version": version} | facts
        fields["build"] = VERSIONS[fields["os_version"]]
        fields.pop("enrollment_id", None)
        fields["serial"] = f"C02-{udid[-1]}"
        self.give(make.reported(udid, self.now, "osquery", **consistent(fields)))
        self.give(make.polled(udid, self.now))

    @rule(serial=st.sampled_from(["C02-1", "C02-9"]), model=st.sampled_from(list(MODELS)))
    def report_by_serial(self, serial: str, model: str) -> None:
        self.give(make.reported(None, self.now, "jamf", serial=serial, model=model))

    @rule(udid=st.sampled_from(UDIDS), which=st.integers(0, 2))
    def check_in(self, udid: str, which: int) -> None:
        if which == 2:
            self.give(make.checked_out(udid, self.now))
            return
        for event in make.enrolled(udid, self.now):
            self.give(event)

    @rule(event=advisory_events(-24 * 8))
    def advise(self, event: Event) -> None:
        self.give(event)

    @rule(
        text=policy_texts(),
        halt=st.booleans(),
        clear=st.booleans(),
        action=st.sampled_from([None, "update", "reinstall", "reenroll"]),
    )
    def govern(self, text: str, halt: bool, clear: bool, action: str | None) -> None:
        if halt:
            self.give(make.halted(self.now, site="london", action=action))
        elif clear:
            self.give(make.halt_cleared(self.now, site="london", action=action))
        else:
            self.give(make.policy_changed(text, self.now))

    @rule(pick=st.integers(0, 9))
    def executor_begins(self, pick: int) -> None:
        if self.executor.jobs:
            jobs = self.executor.jobs
            self.executor.begin(jobs[pick % len(jobs)], self.now)

    @rule(pick=st.integers(0, 9), ends=st.sampled_from(["acted", "failed", "reports"]))
    def executor_goes_on(self, pick: int, ends: str) -> None:
        if not self.executor.begun:
            return
        begun = list(self.executor.begun.values())
        job = begun[pick % len(begun)]
        if ends == "failed":
            del self.executor.begun[job.udid]
            self.executor.results.append((job, Outcome.FAILED, ErrorCode.INSTALL_FAILED))
            return
        self.executor.results.append((job, Outcome.ACTED, None))
        if ends == "acted":
            return
        del self.executor.begun[job.udid]
        if job.action is Action.REENROLL:
            for event in make.enrolled(job.udid, self.now + MINUTE):
                self.give(event)
        elif job.action is Action.RESTART:
            self.give(make.reported(job.udid, self.now + MINUTE, boot_at=self.now))
        elif job.target is not None:
            version = str(job.target.version)
            report: dict[str, Any] = {
                "os_version": version,
                "build": VERSIONS.get(version),
                "boot_at": self.now,
            }
            self.give(make.reported(job.udid, self.now + MINUTE, **report))

    @rule(count=st.integers(1, 3), again=st.booleans())
    def results_arrive(self, count: int, again: bool) -> None:
        for job, outcome, code in self.executor.results[:count]:
            event = make.resulted(job, outcome, self.now, code)
            self.give(event)
            if again:
                self.give(event)
        del self.executor.results[:count]

    @rule(hours=st.sampled_from([1, 5, 13, 30, 100]))
    def time_passes(self, hours: int) -> None:
        until = self.now + timedelta(hours=hours)
        for _ in range(50):
            wake = self.reconciler.next_due_at(self.now)
            if wake is None or wake > until:
                break
            self.now = wake
            self.follow(values(advance(self.reconciler, self.now)))
        self.now = until + MINUTE
        self.follow(values(advance(self.reconciler, self.now)))

    # --- invariants ---

    @invariant()
    def one_open_job_a_mac(self) -> None:
        for history in self.reconciler.fleet.job_histories.values():
            opened = [entry for entry in history if entry.is_open]
            assert len(opened) <= 1
            assert len({entry.job_id for entry in history}) == len(history)

    @invariant()
    def open_jobs_are_counted(self) -> None:
        counted = {key: n for key, n in self.reconciler.open_jobs.items() if n}
        expected = {key: n for key, n in self.reconciler.capacity.site_jobs.items() if n}
        other = Reconciler(self.reconciler.fleet)
        other.recount_jobs()
        assert counted == {key: n for key, n in other.open_jobs.items() if n}
        assert expected == {key: n for key, n in other.capacity.site_jobs.items() if n}
        assert +self.reconciler.capacity.withheld == +other.capacity.withheld
        for udid, history in self.reconciler.fleet.job_histories.items():
            assert self.reconciler.capacity.open_job_of(udid) == open_job(history)

    @invariant()
    def exposure_is_counted(self) -> None:
        assert all(n >= 0 for n in self.reconciler.exposed.values())
        known = sum(one.severity is not None for one in self.reconciler.last_decisions.values())
        assert sum(self.reconciler.exposed.values()) == known

    @invariant()
    def a_sweep_finds_nothing_that_was_missed(self) -> None:
        found = values(sweep(self.reconciler, self.now))
        assert [one for one in found if not isinstance(one, DecisionRecord)] == []


FleetMachine.TestCase.settings = settings(
    max_examples=settings().max_examples, stateful_step_count=30
)
TestReconciler = FleetMachine.TestCase
