"""Leases on a fake Kafka: fencing, timeouts, changelogs that cannot be read."""

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from kafka.errors import (  # type: ignore[import-untyped]
    InvalidProducerEpochError,
    KafkaConnectionError,
    KafkaTimeoutError,
    ProducerFencedError,
)

from agents import leases
from agents.leases import LeaseManager, boot_seconds
from agents.replicated import LeaseLostError
from runtime.kafka import KafkaConnection
from schemas.attempts import AttemptRecord
from schemas.envelope import JobIssuedEvent, JobSupersededEvent, encode
from schemas.jobs import JobSuperseded
from tests.factories.sites import START, a_job, hours, osquery_report, signed_job
from tests.unit.agents.memory_kafka import SITE, Broker, Record, do_nothing, install

SHORT_S = 0.1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    install(broker, monkeypatch)
    return broker


def lease_manager(timeout_s: float = 15.0) -> LeaseManager:
    return LeaseManager(KafkaConnection(), SITE, timeout_s)


def attempt(job_id: str, by: str = "one") -> AttemptRecord:
    return AttemptRecord(
        job_id=job_id, udid="MAC-1", expires_at=START + hours(1), live=False, by=by
    )


def lost_by(lease: leases.Lease) -> LeaseLostError:
    with pytest.raises(LeaseLostError) as lost:
        lease.write({"a": attempt("a")})
    return lost.value


# --- the records of a lease ---


def test_lease_has_the_newest_attempt_of_each_job_that_is_not_deleted(
    broker: Broker,
) -> None:
    with lease_manager().acquire(3) as first:
        assert first.attempts.records == {}
        first.write({"a": attempt("a"), "b": attempt("b")})
        first.write({"a": attempt("a", "two"), "b": None})
    assert [record.key for record in broker.log if record is not None] == [b"a", b"b", b"a", b"b"]
    with lease_manager().acquire(3) as second:
        assert second.attempts.records == {"a": attempt("a", "two")}


def test_changelog_is_read_after_the_predecessor_is_fenced(broker: Broker) -> None:
    with lease_manager().acquire(3):
        pass
    assert broker.steps == ["init", "read", "close consumer"]


def test_fields_without_a_value_are_not_written(broker: Broker) -> None:
    with lease_manager().acquire(3) as lease:
        lease.write({"a": attempt("a")})
    assert broker.log[0] == Record(b"a", attempt("a").model_dump_json(exclude_none=True).encode())


def test_changelog_is_read_to_its_end_if_the_position_is_unknown_at_first(broker: Broker) -> None:
    broker.put("a", attempt("a").model_dump_json())
    broker.polls_before_known = 1
    with lease_manager().acquire(3) as lease:
        assert list(lease.attempts.records) == ["a"]


@pytest.mark.parametrize(
    ("first_offset", "polls_before_known", "is_whole"),
    [
        pytest.param(0, 0, True, id="begins at its first record"),
        pytest.param(1, 0, False, id="first record deleted"),
        pytest.param(0, 1, False, id="begin unknown"),
    ],
)
def test_changelog_is_whole_only_if_it_is_known_to_begin_at_its_first_record(
    broker: Broker, first_offset: int, polls_before_known: int, is_whole: bool
) -> None:
    broker.put("a", attempt("a").model_dump_json())
    broker.put("b", attempt("b").model_dump_json())
    broker.first_offset, broker.polls_before_known = first_offset, polls_before_known
    with lease_manager().acquire(3) as lease:
        assert lease.attempts.is_whole is is_whole
        assert "b" in lease.attempts.records


def test_orders_of_named_jobs_are_found_oldest_first_with_their_withdrawals(
    broker: Broker,
) -> None:
    jobs = [a_job(intent=f"intent-{number}") for number in range(3)]
    issued = [encode(job_event(JobIssuedEvent, signed_job(job))) for job in jobs]
    first, _, last = (job.job_id for job in jobs)
    superseded = JobSuperseded(job_id=first, udid="MAC-1", site=SITE)
    withdrawn = encode(job_event(JobSupersededEvent, superseded))
    other = encode(osquery_report())
    broker.jobs = [
        Record(b"MAC-1", value) for value in (b"no event", *issued, other, withdrawn, None)
    ]
    found = lease_manager().find_orders(3, {first, last})
    assert [record.value for record in found] == [issued[0], issued[2], withdrawn]


def job_event(kind: type[Any], data: object) -> Any:
    return kind(id="1", source="/test", subject="MAC-1", time=START, data=data)


def test_slow_read_of_a_changelog_may_exceed_the_limit_while_it_advances(broker: Broker) -> None:
    for number in range(8):
        broker.put(f"job-{number}", attempt(f"job-{number}").model_dump_json())
    broker.on_poll = lambda: time.sleep(SHORT_S / 3)
    with lease_manager(SHORT_S).acquire(3) as lease:
        assert len(lease.attempts.records) == 8


# --- the end of a lease ---


def test_fenced_lease_never_writes_again(broker: Broker) -> None:
    with lease_manager().acquire(3) as old, lease_manager().acquire(3):
        first = lost_by(old)
        assert first.fenced
        begun = broker.steps.count("begin")
        assert lost_by(old) is first
        assert broker.steps.count("begin") == begun
    assert broker.log == []


@pytest.mark.parametrize(
    ("error", "fenced"),
    [
        pytest.param(ProducerFencedError(), True, id="fenced"),
        pytest.param(InvalidProducerEpochError(), True, id="older epoch"),
        pytest.param(KafkaTimeoutError("late"), False, id="broker too late"),
        # kafka-python uses `assert` to check the state of the client.
        pytest.param(AssertionError("wrong state"), False, id="client in a wrong state"),
    ],
)
def test_lease_is_lost_if_a_commit_fails(broker: Broker, error: Exception, fenced: bool) -> None:
    def fail() -> None:
        raise error

    with lease_manager().acquire(3) as lease:
        broker.on_commit = fail
        lost = lost_by(lease)
        assert lost.fenced is fenced
        assert lost.__cause__ is error
        broker.on_commit = do_nothing
        assert lost_by(lease) is lost


def test_lease_is_lost_if_a_record_is_refused_and_the_commit_returns(
    broker: Broker,
) -> None:
    with lease_manager().acquire(3) as lease:
        broker.refusal = KafkaTimeoutError("refused")
        assert not lost_by(lease).fenced
    assert broker.log == []


def test_lease_is_lost_after_the_limit_if_a_commit_never_returns(broker: Broker) -> None:
    may_end = threading.Event()
    with lease_manager(SHORT_S).acquire(3) as lease:
        broker.on_commit = lambda: wait_for(may_end)
        lost = lost_by(lease)
        # The end of the process does not wait for them.
        waiting = [thread for thread in threading.enumerate() if thread.name == "lease"]
        assert waiting
        assert all(thread.daemon for thread in waiting)
        may_end.set()
    assert not lost.fenced
    assert "not confirmed within 0.1 s" in str(lost)


def wait_for(event: threading.Event) -> None:
    assert event.wait(10)


def test_lease_not_confirmed_in_time_is_refused_and_its_producer_closed(
    broker: Broker,
) -> None:
    may_end = threading.Event()
    broker.on_init = lambda: wait_for(may_end)
    with pytest.raises(LeaseLostError, match="the lease was not confirmed"):
        lease_manager(SHORT_S).acquire(3).__enter__()
    may_end.set()
    assert broker.closed.wait(10)
    assert "read" not in broker.steps


def test_error_that_is_not_from_kafka_is_raised_unchanged(broker: Broker) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with lease_manager().acquire(3) as lease:
        broker.on_commit = fail
        with pytest.raises(ZeroDivisionError):
            lease.write({"a": attempt("a")})


def test_lease_without_a_broker_is_refused(broker: Broker) -> None:
    broker.unreachable = KafkaConnectionError("no broker")
    with pytest.raises(LeaseLostError, match="no broker"), lease_manager().acquire(3):
        pass


def test_lease_is_refused_if_the_changelog_cannot_be_fetched(broker: Broker) -> None:
    def fail() -> None:
        raise KafkaTimeoutError("no fetch")

    broker.put("a", "{}")
    broker.on_poll = fail
    with pytest.raises(LeaseLostError, match=r"cannot read .*no fetch"), lease_manager().acquire(3):
        pass
    assert broker.closed.wait(10)


@pytest.mark.parametrize("field", ["told", "ordered_at"])
def test_lease_is_refused_if_the_changelog_is_from_before_the_first_release(
    field: str, broker: Broker
) -> None:
    old = json.loads(attempt("a").model_dump_json(exclude_none=True)) | {field: None}
    broker.put("a", json.dumps(old))
    with (
        pytest.raises(LeaseLostError, match=r"written before release 0.1.0"),
        lease_manager().acquire(3),
    ):
        pass


UNREADABLE = ["{}", "5", "null", "", "no JSON", '{"job_id":"a","udid":"MAC-1","live":true}']


@pytest.mark.parametrize("value", UNREADABLE)
def test_unreadable_record_leaves_the_other_jobs_and_its_earlier_record(
    value: str, broker: Broker
) -> None:
    with lease_manager().acquire(3) as lease:
        lease.write({"a": attempt("a"), "b": attempt("b")})
    broker.put("a", value)
    broker.put("c", value)
    with lease_manager().acquire(3) as lease:
        found = lease.attempts
    assert found.records == {"a": attempt("a"), "b": attempt("b")}
    assert found.doubted == {"a", "c"}
    assert [(one.offset, one.key, one.value) for one in found.unreadable] == [
        (3, b"a", value.encode()),
        (4, b"c", value.encode()),
    ]


def test_readable_record_after_an_unreadable_one_ends_the_doubt(broker: Broker) -> None:
    broker.put("a", "no JSON")
    broker.put("b", "no JSON")
    with lease_manager().acquire(3) as lease:
        lease.write({"a": attempt("a"), "b": None})
    with lease_manager().acquire(3) as lease:
        assert lease.attempts.records == {"a": attempt("a")}
        assert lease.attempts.unreadable == ()


@pytest.mark.parametrize("last", [0, 1])
def test_lease_is_refused_if_the_read_stops_before_the_end(broker: Broker, last: int) -> None:
    broker.put("a", attempt("a").model_dump_json())
    broker.put("b", attempt("b").model_dump_json())
    broker.last_offset = last
    broker.on_poll = lambda: time.sleep(SHORT_S / 10)
    begun = time.monotonic()
    with (
        pytest.raises(LeaseLostError, match=f"stops at offset {last}"),
        lease_manager(SHORT_S).acquire(3),
    ):
        pass
    assert SHORT_S < time.monotonic() - begun < 10


def test_producer_is_closed_at_the_end_of_the_lease(broker: Broker) -> None:
    with lease_manager().acquire(3):
        assert not broker.closed.is_set()
    assert broker.closed.wait(10)


# --- the producer and the age of a lease ---


def test_transactional_id_names_site_and_partition_and_timeouts_follow_the_limit(
    broker: Broker,
) -> None:
    with lease_manager(12.0).acquire(3):
        pass
    assert broker.options["bootstrap_servers"] == ["127.0.0.1:19092"]
    assert {name: broker.options[name] for name in LIMITS} == LIMITS


LIMITS = {
    "acks": "all",
    "linger_ms": 0,
    "transactional_id": "drydock.attempts.london.3",
    "transaction_timeout_ms": 12_000,
    "delivery_timeout_ms": 12_000,
    "request_timeout_ms": 6_000,
    "max_block_ms": 12_000,
    "bootstrap_timeout_ms": 12_000,
    "retry_backoff_ms": 20,
}


@dataclass
class Clock:
    """A clock that the test moves."""

    now_s: float = 1000.0

    def move(self, by_s: float) -> None:
        self.now_s += by_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "boot_seconds", lambda: clock.now_s)
    return clock


def test_age_of_a_lease_counts_from_the_request_of_the_last_confirmed_write(
    broker: Broker, clock: Clock
) -> None:
    with lease_manager().acquire(3) as lease:
        clock.move(8)
        assert lease.age_s() == 8
        broker.on_commit = lambda: clock.move(2)
        lease.write({"a": attempt("a")})
        assert lease.age_s() == 2


def test_unconfirmed_write_does_not_renew_the_lease(broker: Broker, clock: Clock) -> None:
    with lease_manager().acquire(3) as lease:
        clock.move(8)
        broker.refusal = KafkaTimeoutError("refused")
        lost_by(lease)
        assert lease.age_s() == 8


def test_boot_seconds_include_time_asleep_if_the_system_has_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", {7: 1234.5}.__getitem__)
    assert boot_seconds() == 1234.5
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    before = time.monotonic()
    assert before <= boot_seconds() <= time.monotonic()
