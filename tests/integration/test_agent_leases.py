"""Fencing by Kafka's transactions: who lost a partition can write nothing about it."""

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]

from agents.leases import LeaseManager
from agents.replicated import LeaseLostError
from schemas.attempts import AttemptRecord
from schemas.connection import KafkaConnection
from schemas.topics import attempts_topic
from tests.factories.sites import START, hours
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics

SITE = "claims"


@pytest.fixture
def claims(kafka: KafkaCluster) -> LeaseManager:
    make_topics(kafka.bootstrap, SITE)
    return LeaseManager(KafkaConnection(bootstrap=kafka.bootstrap), SITE)


def record(job_id: str, by: str, *, live: bool = True) -> AttemptRecord:
    return AttemptRecord(job_id=job_id, udid="MAC-1", expires_at=START + hours(1), live=live, by=by)


def test_a_successor_sees_what_was_confirmed_and_fences_who_was_before(
    claims: LeaseManager,
) -> None:
    with claims.acquire(0) as old:
        old.write({"a": record("a", "old"), "b": record("b", "old")})
        old.write({"b": None, "c": record("c", "old")})
        with claims.acquire(0) as new:
            assert {key: found.by for key, found in new.records.items()} == {"a": "old", "c": "old"}
            for _ in range(2):
                with pytest.raises(LeaseLostError) as lost:
                    old.write({"d": record("d", "old")})
                assert lost.value.fenced
            new.write({"a": record("a", "new", live=False)})
    with claims.acquire(0) as third:
        assert {key: found.by for key, found in third.records.items()} == {"a": "new", "c": "old"}


def test_what_a_predecessor_left_half_written_is_never_seen(claims: LeaseManager) -> None:
    with claims.acquire(1) as old:
        old._producer.begin_transaction()
        old._producer.send(old._topic, key=b"half", value=b"{}", partition=1).get(timeout=10)
        with claims.acquire(1) as new:
            assert new.records == {}
            new.write({"whole": record("whole", "new")})
            assert new.age_s() < 10


def test_a_write_whose_records_were_refused_is_lost_although_its_commit_was_silent(
    claims: LeaseManager,
) -> None:
    place = TopicPartition(attempts_topic(SITE), 0)
    with claims.acquire(0) as claim:
        claim.write({"kept": record("kept", "one")})
        # As after a leader's change: the broker finds a gap and refuses. kafka-python then begins
        # anew under its next epoch, and its commit of what is gone raises nothing.
        claim._producer._transaction_manager.increment_sequence_number(place, 7)
        for _ in range(2):
            with pytest.raises(LeaseLostError) as lost:
                claim.write({"refused": record("refused", "one")})
        assert not lost.value.fenced
    with claims.acquire(0) as successor:
        assert "kept" in successor.records
        assert "refused" not in successor.records


def test_partitions_are_claimed_apart(claims: LeaseManager) -> None:
    with claims.acquire(2) as one, claims.acquire(3) as other:
        one.write({"a": record("a", "one")})
        other.write({"b": record("b", "other")})
