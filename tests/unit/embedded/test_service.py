"""The embedded service: an input and all its consequences are durable together, or not at all."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.journal import Journal
from agents.simulated import Faults, SimulatedFleet
from agents.site_access import SiteAccess
from pipeline.embedded import control_events, executors
from pipeline.embedded.log import StoreError
from pipeline.embedded.service import Service
from pipeline.embedded.status import read_status
from pipeline.embedded.transaction import Committed, load_state
from pipeline.payload_signing import sign_job
from pipeline.reconcile.deciding import Deciding
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.fleet import Fleet
from schemas.decisions import Decision, DecisionRecord, Reason
from schemas.envelope import JobIssuedEvent, decode
from schemas.events.control import HaltScope
from schemas.jobs import Method
from schemas.results import Outcome
from tests.embedded_world import POLICY, Environment, at, live, needy_macs, open_service
from tests.factories.sites import (
    APPROVALS_KEY,
    JOBS_KEY,
    KEYS,
    START,
    STRANGER_KEY,
    a_spec,
    critical_release,
    osquery_report,
)

EVERYTHING = HaltScope(everything=True)
OLD: dict[str, Any] = {"os_version": "26.1", "build": "25B78", "model": "Mac14,2", "site": "london"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    opened = open_service(tmp_path, Environment.of())
    yield opened
    opened.close()


def reason_of(service: Service, udid: str = "MAC-1") -> Reason:
    return service.reconciler.last_decisions[udid].reason


def codes(service: Service) -> list[tuple[str, str]]:
    return [(one.code, one.origin) for one in service.store.dead_letters()]


def same_state(reconciler: Reconciler, other: Reconciler) -> None:
    assert reconciler.fleet.devices == other.fleet.devices
    assert list(reconciler.fleet.devices) == list(other.fleet.devices)
    assert {
        k: v for k, v in reconciler.fleet.job_histories.items() if v
    } == other.fleet.job_histories
    assert reconciler.fleet.broadcast_to_wire() == other.fleet.broadcast_to_wire()
    assert reconciler.last_decisions == other.last_decisions
    assert +reconciler.exposed == +other.exposed
    assert +reconciler.open_jobs == +other.open_jobs
    assert +reconciler.capacity.withheld == +other.capacity.withheld
    assert reconciler.queue._next_timer() == other.queue._next_timer()


def test_event_decision_and_job_are_one_transaction(tmp_path: Path) -> None:
    moments: list[str] = []
    seen: list[Committed] = []
    service = open_service(
        tmp_path, Environment.of(), moments.append, on_commit=lambda done, _: seen.append(done)
    )
    service.accept([critical_release("26.2", "25C56")], (), START)
    moments.clear()
    done = service.accept([osquery_report(**OLD)], (), START)
    service.close()
    assert moments == ["accept:before", "accept:after"]
    assert (done.folded, done.duplicates, done.jobs, done.dead_letters) == (1, 0, 1, 0)
    assert [type(event).__name__ for event in seen[-1].events] == [
        "InventoryEvent",
        "JobIssuedEvent",
    ]
    assert [record.decision.reason for record in seen[-1].decisions] == [
        Reason.SECURITY_UPDATE,
        Reason.JOB_OPEN,
    ]


def test_repeated_event_changes_nothing(service: Service) -> None:
    service.accept([critical_release("26.2", "25C56"), osquery_report(**OLD)], (), START)
    before = service.store.last_seq()
    done = service.accept([osquery_report(**OLD), osquery_report(**OLD)], (), at(1))
    assert (done.folded, done.duplicates) == (0, 2)
    assert service.store.last_seq() == before


def test_only_changed_rows_are_written(service: Service) -> None:
    service.accept([osquery_report("MAC-1", **OLD), osquery_report("MAC-2", **OLD)], (), START)
    changes = service.store._db.total_changes
    service.accept([osquery_report("MAC-1", at(1), **OLD)], (), at(1))
    # The row of the log, and the state of the Mac that reported again.
    assert service.store._db.total_changes - changes == 2


def poison(marked: str) -> Callable[..., Any]:
    real = Fleet.apply

    def apply(fleet: Fleet, event: Any) -> Any:
        change = real(fleet, event)
        if event.subject == marked:
            raise LookupError("our bug")
        return change

    return apply


def test_event_on_which_folding_raises_is_dead_lettered_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fleet, "apply", poison("MAC-2"))
    batch = [
        osquery_report("MAC-1", **OLD),
        osquery_report("MAC-2", **OLD),
        osquery_report("MAC-3", **OLD),
    ]
    done = service.accept(batch, (), START)
    assert (done.folded, done.dead_letters) == (2, 1)
    (letter,) = service.store.dead_letters()
    assert letter.code == "bug"
    assert b"LookupError" in letter.body
    assert set(service.reconciler.fleet.devices) == {"MAC-1", "MAC-3"}
    same_state(service.reconciler, load_state(service.store))


def test_mac_on_which_deciding_raises_delays_no_other_mac(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.accept([osquery_report(udid, **OLD) for udid in ("MAC-1", "MAC-2", "MAC-3")], (), START)
    real = Deciding.record_of

    def record_of(self: Deciding, decision: Decision, situation: Any) -> DecisionRecord:
        if decision.udid == "MAC-2":
            raise LookupError("our bug")
        return real(self, decision, situation)

    monkeypatch.setattr(Deciding, "record_of", record_of)
    service.accept([critical_release("26.2", "25C56")], (), at(1))
    service.accept([critical_release("15.7", "24G222")], (), at(2))
    assert reason_of(service, "MAC-1") is reason_of(service, "MAC-3") is Reason.JOB_OPEN
    assert codes(service) == [("bug", "MAC-2")]
    monkeypatch.undo()
    service.accept([osquery_report("MAC-2", at(3), **OLD)], (), at(3))
    service.reconciler.queue.start_sweep(at(3))
    while service.reconciler.next_due_at(at(3)) == at(3):
        service.tick(at(3))
    assert reason_of(service, "MAC-2") is Reason.JOB_OPEN


def test_reports_of_one_batch_lead_to_one_decision(service: Service) -> None:
    service.accept([critical_release("26.2", "25C56")], (), START)
    batch = [osquery_report(when=at(minute), **OLD) for minute in (0, 1)]
    batch[1] = osquery_report(when=at(1), **OLD | {"os_version": "26.2", "build": "25C56"})
    done = service.accept(batch, (), at(1))
    assert (done.folded, done.decisions, done.jobs) == (2, 1, 0)
    assert reason_of(service) is Reason.COMPLIANT


def test_a_release_that_concerns_many_macs_is_decided_in_slices(service: Service) -> None:
    service._writer._slice_size = 2
    udids = [f"MAC-{number}" for number in range(5)]
    service.accept([osquery_report(udid, **OLD) for udid in udids], (), START)
    while service.next_wake(START) == START:
        service.tick(START)
    done = service.accept([critical_release("26.2", "25C56")], (), at(1))
    assert (done.jobs, done.decisions) == (2, 4)
    assert service.next_wake(at(1)) == at(1)
    # A request between two slices is served first.
    assert service.accept([osquery_report("MAC-9", at(1), **OLD)], (), at(1)).folded == 1
    while service.next_wake(at(1)) == at(1):
        service.tick(at(1))
    reasons = {reason_of(service, udid) for udid in udids}
    assert reasons == {Reason.JOB_OPEN, Reason.SITE_FULL}


def test_all_results_are_stored_although_few_are_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_RESULTS_AT_ONCE", 1)
    service = Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([critical_release("26.2", "25C56")], (), START)
    service.accept([osquery_report(f"MAC-{number}", **OLD) for number in range(3)], (), START)
    while service.next_wake(START) == START:
        service.tick(START)
    histories = service.reconciler.fleet.job_histories.values()
    assert [entry.outcome for (entry,) in histories] == [Outcome.WITHHELD] * 3
    service.close()


def test_marks_lost_with_a_failed_write_are_replaced_by_a_sweep(service: Service) -> None:
    service._writer._slice_size = 1
    service.accept([osquery_report(udid, **OLD) for udid in ("MAC-1", "MAC-2")], (), START)
    service.accept([critical_release("26.2", "25C56")], (), at(1))
    (pages,) = service.store._db.execute("PRAGMA page_count").fetchone()
    service.store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match="full"):
        service.accept([osquery_report(f"NEW-{one}", **OLD) for one in range(50)], (), at(2))
    service.store._db.execute("PRAGMA max_page_count=100000")
    while service.next_wake(at(2)) == at(2):
        service.tick(at(2))
    assert len(service.reconciler.fleet.job_histories) == 2


def test_rejected_event_is_a_dead_letter_each_time(service: Service) -> None:
    invalid = control_events.policy_changed("version: 2", "me", START)
    assert service.accept([invalid, invalid], (), at(1)).dead_letters == 2
    assert service.accept([invalid], (), at(2)).dead_letters == 1


def test_full_disk_refuses_the_input_and_memory_equals_the_disk(service: Service) -> None:
    service.accept([critical_release("26.2", "25C56")], (), START)
    (pages,) = service.store._db.execute("PRAGMA page_count").fetchone()
    service.store._db.execute(f"PRAGMA max_page_count={pages}")
    many = [osquery_report(f"MAC-{number}", **OLD) for number in range(50)]
    with pytest.raises(StoreError, match="full"):
        service.accept(many, (), START)
    same_state(service.reconciler, load_state(service.store))
    service.store._db.execute("PRAGMA max_page_count=100000")
    assert service.accept(many, (), START).folded == 50


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        (control_events.policy_changed("version: 2", "me", START), "the policy is invalid"),
        (
            control_events.policy_changed(POLICY, "me", START).model_copy(
                update={
                    "data": control_events.policy_changed(POLICY, "me", START).data.model_copy(
                        update={"digest": "0" * 64}
                    )
                }
            ),
            "digest differs from the digest of its text",
        ),
    ],
    ids=["invalid policy", "another digest"],
)
def test_invalid_policy_event_is_dead_lettered(service: Service, event: Any, detail: str) -> None:
    in_force = service.reconciler.policy_digest
    service.accept([event], (), at(1))
    assert service.reconciler.policy_digest == in_force
    (letter,) = service.store.dead_letters()
    assert letter.code == "bad_value"
    assert detail in letter.body.decode()


def test_job_signed_by_an_unknown_key_is_dead_lettered(service: Service) -> None:
    service.accept([critical_release("26.2", "25C56"), osquery_report(**OLD)], (), START)
    rows = service.store.entries(key="MAC-1", kind="event")
    issued = next(decode(row.body) for row in rows if row.type == "drydock.job.issued.v1")
    assert isinstance(issued, JobIssuedEvent)
    forged = issued.model_copy(
        update={"id": "forged", "data": sign_job(issued.data.job, STRANGER_KEY)}
    )
    assert service.accept([forged], (), at(1)).dead_letters == 1


def test_policy_is_put_in_force_once_and_not_before_a_later_one(service: Service) -> None:
    assert not service.set_policy(POLICY, at(1), "me")
    assert service.set_policy(POLICY + "# changed\n", at(1), "me")
    with pytest.raises(StoreError, match="check the clock"):
        service.set_policy(POLICY, at(-1), "me")


def test_halt_stops_new_jobs_until_it_ends(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"))
    service = open_service(tmp_path, environment)
    service.accept([control_events.halt_set(EVERYTHING, "me", "", at(30), START)], (), START)
    live(service, environment, at(29))
    assert environment.fleet.acted == []
    assert reason_of(service) is Reason.HALTED
    live(service, environment, at(60))
    assert len(environment.fleet.acted) == 1
    assert reason_of(service) is Reason.COMPLIANT
    service.close()


def test_halt_outlives_a_restart_and_jobs_start_once_it_is_cleared(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"))
    service = open_service(tmp_path, environment)
    service.accept([control_events.halt_set(EVERYTHING, "me", "", None, START)], (), START)
    live(service, environment, at(5))
    service.close()
    service = open_service(tmp_path, environment)
    live(service, environment, at(10))
    assert environment.fleet.acted == []
    service.accept([control_events.halt_cleared(EVERYTHING, "me", at(10))], (), at(10))
    live(service, environment, at(40))
    assert len(environment.fleet.acted) == 1
    service.close()


def test_erasing_job_waits_for_an_approval_by_a_trusted_key(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1", loan_returned_at=START - timedelta(days=1)))
    service = open_service(tmp_path, environment)
    live(service, environment, at(8))
    assert reason_of(service) is Reason.AWAITING_APPROVAL
    assert environment.fleet.acted == []
    now, day = environment.now, timedelta(days=1)
    service.approve("MAC-1", by="stranger", now=now, lasts=day, key=STRANGER_KEY)
    live(service, environment, at(12))
    assert reason_of(service) is Reason.AWAITING_APPROVAL
    service.approve("MAC-1", by="me", now=environment.now, lasts=day, key=APPROVALS_KEY)
    live(service, environment, at(24))
    steps = [step for *_, step in environment.fleet.acted]
    assert steps == ["erase", "declare"], "the erase keeps the system, which is then updated"
    with pytest.raises(ValueError, match="awaits no approval"):
        service.approve("MAC-1", by="me", now=environment.now, lasts=day, key=APPROVALS_KEY)
    service.close()


def open_sites(folder: Path, environment: Environment, *live_sites: str) -> Service:
    """Open the service with executors for these sites; the others are in dry run."""
    access = SiteAccess.simulated(environment.fleet.mac_for)
    return Service.open(
        folder,
        now=environment.now,
        signer=JOBS_KEY,
        trust=KEYS,
        policy_text=POLICY,
        access=lambda site: access if site in live_sites else None,
    )


def test_job_of_a_dry_run_uses_its_capacity_and_leaves_no_attempt(tmp_path: Path) -> None:
    environment = Environment.of(*(a_spec(f"MAC-{n}") for n in range(12)))
    service = open_sites(tmp_path, environment)
    histories = service.reconciler.fleet.job_histories
    used = []
    for hour in range(71):
        live(service, environment, at(hour))
        used.append(service.reconciler.open_jobs["london", "update"])
    assert (max(used), used[-1]) == (3, 0)
    assert [len(history) for history in histories.values()] == [1] * 12
    assert {reason_of(service, udid) for udid in histories} == {Reason.DRY_RUN}
    assert read_status(service.store, at(70)).dry_run == {"london": {"update": 12}}
    live(service, environment, at(24 * 29))
    assert {history[-1].generation for history in histories.values()} == {2}
    assert not any(one.failed for history in histories.values() for one in history)
    service.close()
    assert environment.fleet.acted == []


def test_site_that_goes_live_sends_new_jobs_at_once(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"), a_spec("MAC-2", site="tokyo"))
    service = open_sites(tmp_path, environment)
    live(service, environment, at(8))
    service.close()
    service = open_sites(tmp_path, environment, "london")
    live(service, environment, at(20))
    assert [udid for _, udid, *_ in environment.fleet.acted] == ["MAC-1", "MAC-2"]
    assert {reason_of(service, udid) for udid in ("MAC-1", "MAC-2")} == {Reason.COMPLIANT}
    assert read_status(service.store, at(20)).dry_run == {}
    service.close()


def test_site_without_executors_stays_in_dry_run_beside_a_live_one(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"))
    service = open_sites(tmp_path, environment, "tokyo")
    live(service, environment, at(8))
    assert environment.fleet.acted == []
    assert reason_of(service) is Reason.DRY_RUN
    service.close()


def test_jobs_that_a_journal_refuses_are_handed_over_when_it_accepts_them(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"), a_spec("MAC-2"))
    service = open_service(tmp_path, environment)
    environment.now = at(7)
    service.accept([*environment.unsent, *environment.fleet.advance(at(7))], (), at(7))
    environment.unsent = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "accept", refuse)
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                service.tick(at(7))
    live(service, environment, at(30))
    assert sorted(udid for _, udid, *_ in environment.fleet.acted) == ["MAC-1", "MAC-2"]
    service.close()


def refuse(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


def test_jobs_not_handed_over_are_handed_over_after_a_restart(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"))
    service = open_service(tmp_path, environment)
    environment.now = at(7)
    service.accept([*environment.unsent, *environment.fleet.advance(at(7))], (), at(7))
    assert reason_of(service) is Reason.JOB_OPEN
    service.close()  # before any tick: the executor does not have the job
    environment.unsent = []
    service = open_service(tmp_path, environment)
    live(service, environment, at(30))
    assert len(environment.fleet.acted) == 1
    assert reason_of(service) is Reason.COMPLIANT
    service.close()


def test_withdrawal_of_a_begun_job_is_handed_over_after_a_restart(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"))

    def opened(policy_text: str) -> Service:
        return Service.open(
            tmp_path,
            now=environment.now,
            signer=JOBS_KEY,
            trust=KEYS,
            policy_text=policy_text,
            access=lambda _: SiteAccess(environment.fleet.mac_for, withdraw_order=lambda *_: ""),
        )

    service = opened(POLICY)
    environment.now = at(7)
    service.accept([*environment.unsent, *environment.fleet.advance(at(7))], (), at(7))
    environment.unsent = []
    for _ in range(3):
        service.tick(at(7))
    (begun,) = service.reconciler.fleet.job_histories["MAC-1"]
    assert (begun.method, begun.outcome) == (Method.DDM, Outcome.STARTED)
    frozen = POLICY + "exemptions: [{who: {udids: [MAC-1]}, why: frozen}]\n"
    assert service.set_policy(frozen, environment.now, "me")
    service._writer.advance(environment.now)
    assert reason_of(service) is Reason.EXEMPT
    service.close()  # before any tick: the executor does not know of the withdrawal
    service = opened(frozen)
    live(service, environment, environment.now)
    (ended,) = service.reconciler.fleet.job_histories["MAC-1"]
    assert ended.outcome is Outcome.SUPERSEDED
    service.close()


def test_stored_policy_that_this_version_refuses_is_replaced_by_that_of_the_log(
    tmp_path: Path,
) -> None:
    open_service(tmp_path, Environment.of()).close()
    service = open_service(tmp_path, Environment.of())
    wire = service.store.setting("policy")
    assert wire is not None
    with service.store.transaction("test"):
        service.store.put_setting("policy", wire.replace(b"london:", b"lon don:"))
    service.close()
    service = Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS)
    assert service.store.setting("policy") == wire
    assert [letter.code for letter in service.store.dead_letters()] == ["unreadable"]
    service.close()


@settings(max_examples=15)
@given(hours=st.lists(st.integers(1, 12), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_state_loaded_from_disk_equals_the_state_in_memory(
    tmp_path_factory: pytest.TempPathFactory, hours: list[int], seed: int
) -> None:
    environment = Environment.of(*needy_macs())
    environment.fleet = SimulatedFleet(
        [*needy_macs(), a_spec("MAC-IGNORES", faults=Faults(ignored=1))],
        START,
        seed=seed,
        releases=environment.fleet._releases.values(),
    )
    service = open_service(tmp_path_factory.mktemp("state"), environment)
    try:
        for step in hours:
            live(service, environment, environment.now + timedelta(hours=step))
            same_state(service.reconciler, load_state(service.store))
    finally:
        service.close()
