"""Fencing by Kafka transactions: an agent that lost a partition cannot write its journal."""

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]

from agents.leases import Lease, LeaseManager
from agents.replicated import LeaseLostError
from runtime.kafka import KafkaConnection
from schemas.attempts import AttemptRecord
from schemas.topics import attempts_topic
from tests.factories.sites import START, hours
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics

SITE = "leases"


@pytest.fixture
def leases(kafka: KafkaCluster) -> LeaseManager:
    make_topics(kafka.bootstrap, SITE)
    return LeaseManager(KafkaConnection(bootstrap=kafka.bootstrap), SITE)


def record(job_id: str, by: str) -> AttemptRecord:
    return AttemptRecord(
        job_id=job_id, udid="MAC-1", expires_at=START + hours(1), live=False, by=by
    )


def written_by(lease: Lease) -> dict[str, str]:
    """Return the writer of each attempt of the lease."""
    return {job_id: found.by for job_id, found in lease.attempts.records.items()}


def test_successor_reads_confirmed_records_and_fences_its_predecessor(
    leases: LeaseManager,
) -> None:
    with leases.acquire(0) as old:
        old.write({"a": record("a", "old"), "b": record("b", "old")})
        old.write({"b": None, "c": record("c", "old")})
        with leases.acquire(0) as new:
            assert written_by(new) == {"a": "old", "c": "old"}
            for _ in range(2):
                with pytest.raises(LeaseLostError) as lost:
                    old.write({"d": record("d", "old")})
                assert lost.value.fenced
            new.write({"a": record("a", "new")})
    with leases.acquire(0) as third:
        assert written_by(third) == {"a": "new", "c": "old"}


def test_open_transaction_of_a_predecessor_is_never_read(leases: LeaseManager) -> None:
    with leases.acquire(1) as old:
        old._producer.begin_transaction()
        old._producer.send(old._topic, key=b"half", value=b"{}", partition=1).get(timeout=10)
        with leases.acquire(1) as new:
            assert new.attempts.records == {}
            new.write({"whole": record("whole", "new")})
            assert new.age_s() < 10


def test_write_with_refused_records_loses_the_lease_although_its_commit_succeeds(
    leases: LeaseManager,
) -> None:
    partition = TopicPartition(attempts_topic(SITE), 0)
    with leases.acquire(0) as lease:
        lease.write({"kept": record("kept", "one")})
        # As after a change of the leader: the broker finds a gap in the sequence and refuses the
        # records. kafka-python continues with its next epoch, and its commit raises no error.
        lease._producer._transaction_manager.increment_sequence_number(partition, 7)
        for _ in range(2):
            with pytest.raises(LeaseLostError) as lost:
                lease.write({"refused": record("refused", "one")})
        assert not lost.value.fenced
    with leases.acquire(0) as successor:
        assert "kept" in successor.attempts.records
        assert "refused" not in successor.attempts.records


def test_leases_of_partitions_are_independent(leases: LeaseManager) -> None:
    with leases.acquire(2) as one, leases.acquire(3) as other:
        one.write({"a": record("a", "one")})
        other.write({"b": record("b", "other")})
