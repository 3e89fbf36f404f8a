"""Who may act for a partition of a site: fencing by Kafka's own transactions.

A claim is a transactional producer whose id names the partition. Making one ends what its
predecessor had begun and takes the predecessor's right to write (KIP-98: the coordinator raises
the producer's epoch); only then is the changelog read. So whatever a predecessor got confirmed is
seen, and whatever it tries later is refused: an executor that was presumed dead and comes back
cannot record an intent, and without a recorded intent nothing is done to a Mac. What this rests
on, and where it ends, is told in docs/decisions/0007-fenced-executors.md.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    InvalidProducerEpochError,
    KafkaError,
    ProducerFencedError,
)
from pydantic import ValidationError

from agents.producers import close_in_background
from agents.replicated import AttemptChanges, LeaseLostError
from schemas.attempts import AttemptRecord
from schemas.connection import KafkaConnection
from schemas.topics import attempts_topic

_FENCED: Final = (ProducerFencedError, InvalidProducerEpochError)
_RETRY_MS: Final = 20
_POLL_MS: Final = 500


class LeaseManager:
    """Makes the claims of one site's executor. Every call ends within `timeout_s` and says so."""

    def __init__(self, connection: KafkaConnection, site: str, timeout_s: float = 15.0) -> None:
        self._connection = connection
        self._topic = attempts_topic(site)
        self._site = site
        self._timeout_s = timeout_s

    @contextmanager
    def acquire(self, partition: int) -> Iterator["Lease"]:
        """Take the partition from whoever had it. Raises ClaimLostError if that cannot be done."""
        producer = self._producer(partition)
        try:
            _run_within(self._timeout_s, producer.init_transactions, "the claim")
            records = self._read_changelog(partition)
            yield Lease(producer, self._topic, partition, records, self._timeout_s)
        finally:
            # What is still under way may arrive or not: nobody waits for it any more, and once
            # there is a new claim it is refused.
            close_in_background(producer)

    def _producer(self, partition: int) -> Any:
        limit = round(self._timeout_s * 1000)
        options = self._connection.producer_options(linger_ms=0) | {
            "transactional_id": f"drydock.attempts.{self._site}.{partition}",
            "transaction_timeout_ms": limit,
            "delivery_timeout_ms": limit,
            "request_timeout_ms": limit // 2,
            "max_block_ms": limit,
            "bootstrap_timeout_ms": limit,
            # A commit waits this long for the one before it to end in the log.
            "retry_backoff_ms": _RETRY_MS,
        }
        try:
            return KafkaProducer(**options)
        except KafkaError as error:
            raise LeaseLostError(f"no Kafka to claim with: {error}") from error

    def _read_changelog(self, partition: int) -> dict[str, AttemptRecord]:
        """The changelog as it stands. Only what moves forward may take long."""
        topic_partition = TopicPartition(self._topic, partition)
        found: dict[str, bytes] = {}
        limit = round(self._timeout_s * 1000)
        try:
            with KafkaConsumer(**self._connection.consumer_options()) as consumer:
                consumer.assign([topic_partition])
                consumer.seek_to_beginning(topic_partition)
                end = consumer.end_offsets([topic_partition], timeout_ms=limit)[topic_partition]
                moved_at = time.monotonic()
                at = consumer.position(topic_partition, timeout_ms=limit)
                while at is None or at < end:
                    for record in consumer.poll(timeout_ms=_POLL_MS).get(topic_partition, ()):
                        key = record.key.decode()
                        found.pop(key, None)
                        if record.value is not None:
                            found[key] = record.value
                    was, at = at, consumer.position(topic_partition, timeout_ms=limit)
                    if at != was:
                        moved_at = time.monotonic()
                    elif time.monotonic() - moved_at > self._timeout_s:
                        raise LeaseLostError(f"{self._topic}/{partition} is not read on from {at}")
            return {key: AttemptRecord.model_validate_json(raw) for key, raw in found.items()}
        except KafkaError as error:
            raise LeaseLostError(f"cannot read {self._topic}/{partition}: {error}") from error
        except ValidationError as error:
            # To go on without it could be to act twice.
            raise LeaseLostError(f"{self._topic}/{partition} holds no attempt: {error}") from error


class Lease:
    """The right to act for a partition, for as long as writes are confirmed.

    `records` is what the changelog held when it was taken.
    """

    def __init__(
        self,
        producer: Any,
        topic: str,
        partition: int,
        records: dict[str, AttemptRecord],
        timeout_s: float,
    ) -> None:
        self.records = records
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._timeout_s = timeout_s
        self._confirmed_at = boot_seconds()
        self._lost: LeaseLostError | None = None

    def age_s(self) -> float:
        """How long ago the claim was last confirmed, times asleep or stopped included."""
        return boot_seconds() - self._confirmed_at

    def write(self, changes: AttemptChanges) -> None:
        """Make all of these the truth, or none. Raises ClaimLostError, then and ever after."""
        if self._lost is not None:
            raise self._lost
        asked_at = boot_seconds()
        try:
            _run_within(self._timeout_s, lambda: self._transact(changes), "a write")
        except LeaseLostError as error:
            self._lost = error
            raise
        # From before it was asked: the coordinator may have answered long ago.
        self._confirmed_at = asked_at

    def _transact(self, changes: AttemptChanges) -> None:
        self._producer.begin_transaction()
        sent = []
        for job_id, record in changes.items():
            value = None if record is None else record.model_dump_json(exclude_none=True).encode()
            sent.append(
                self._producer.send(
                    self._topic, key=job_id.encode(), value=value, partition=self._partition
                )
            )
        self._producer.commit_transaction()
        # kafka-python 3.0.12 also returns from a commit whose records the broker has refused (it
        # begins a new epoch, and then there is nothing to commit): each record is asked for.
        for each in sent:
            each.get(timeout=self._timeout_s)


def boot_seconds() -> float:
    """A clock that nobody sets and that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _run_within(timeout_s: float, work: Callable[[], None], what: str) -> None:
    """Do it or raise ClaimLostError in time. kafka-python's commit waits for ever by itself."""
    done: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            done.put(error)
        else:
            done.put(None)

    threading.Thread(target=run, daemon=True, name="claim").start()
    try:
        error = done.get(timeout=timeout_s)
    except Empty:
        raise LeaseLostError(f"{what} was not confirmed within {timeout_s:g} s") from None
    if isinstance(error, _FENCED):
        raise LeaseLostError("another executor has the partition", fenced=True) from error
    if isinstance(error, KafkaError | AssertionError):
        raise LeaseLostError(f"{what} failed: {error or type(error).__name__}") from error
    if error is not None:
        raise error
