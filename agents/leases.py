"""Leases: permission to act for one partition of a site, fenced by Kafka transactions.

A lease is a transactional producer whose transactional id names the partition. A new producer ends
the open transaction of its predecessor and takes away its right to write (KIP-98: the coordinator
raises the producer epoch). Only then is the changelog read. Therefore

    a write that the predecessor got confirmed    is in the records of the new lease;
    a write that the predecessor tries later      is refused by Kafka.

An executor that was presumed dead and returns cannot record an intent, and without a recorded
intent no Mac is touched. docs/decisions/0007-fenced-executors.md has the assumptions and limits.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    InvalidProducerEpochError,
    KafkaError,
    ProducerFencedError,
)

from agents.attempts import AttemptFold, Attempts, PreReleaseError
from agents.producers import close_in_background
from agents.replicated import AttemptChanges, LeaseLostError
from runtime.kafka import KafkaConnection
from schemas.envelope import InvalidEvent, JobIssuedEvent, JobSupersededEvent, decode
from schemas.topics import attempts_topic, jobs_topic

_FENCED: Final = (ProducerFencedError, InvalidProducerEpochError)
_RETRY_MS: Final = 20
_POLL_MS: Final = 500


class LeaseManager:
    """Makes the leases of one site's agent. Each request to Kafka ends within `timeout_s`."""

    def __init__(self, connection: KafkaConnection, site: str, timeout_s: float = 15.0) -> None:
        self._connection = connection
        self._topic = attempts_topic(site)
        self._site = site
        self._timeout_s = timeout_s

    @contextmanager
    def acquire(self, partition: int) -> Iterator["Lease"]:
        """Fence the previous lease of the partition, read the changelog and return the new lease.

        Raises LeaseLostError if the lease is not confirmed or the changelog cannot be read. The end
        of the `with` block closes the producer in the background.
        """
        producer = self._producer(partition)
        try:
            _run_within(self._timeout_s, producer.init_transactions, "the lease")
            attempts = self._read_changelog(partition)
            yield Lease(producer, self._topic, partition, attempts, self._timeout_s)
        finally:
            # Do not wait for records under way: they may arrive now, and are refused after the
            # next lease.
            close_in_background(producer)

    def find_orders(self, partition: int, job_ids: Collection[str]) -> list[Any]:
        """Return the records of the job topic that issue or withdraw these jobs, oldest first.

        Raises LeaseLostError if the partition cannot be read to its present end.
        """
        found: list[Any] = []

        def keep(record: Any) -> None:
            try:
                event = decode(record.value or b"")
            except InvalidEvent:
                return
            if isinstance(event, JobIssuedEvent):
                job_id = event.data.job.job_id
            elif isinstance(event, JobSupersededEvent):
                job_id = event.data.job_id
            else:
                return
            if job_id in job_ids:
                found.append(record)

        self._read(TopicPartition(jobs_topic(self._site), partition), keep)
        return found

    def _producer(self, partition: int) -> Any:
        """Return the transactional producer of the partition; it fences no lease yet.

        Raises LeaseLostError if Kafka does not respond.
        """
        options = self._connection.producer_options(linger_ms=0, timeout_s=self._timeout_s) | {
            "transactional_id": f"drydock.attempts.{self._site}.{partition}",
            "transaction_timeout_ms": round(self._timeout_s * 1000),
            # A commit repeats after this time while the previous commit is not in the log yet.
            "retry_backoff_ms": _RETRY_MS,
        }
        try:
            return KafkaProducer(**options)
        except KafkaError as error:
            raise LeaseLostError(f"no Kafka for the lease: {error}") from error

    def _read_changelog(self, partition: int) -> Attempts:
        """Return the attempts in the changelog.

        They are whole only if the changelog is known to begin at its first record: compaction keeps
        the beginning, so else records were deleted. Raises LeaseLostError.
        """
        fold = AttemptFold(self._topic, partition)
        begin = self._read(
            TopicPartition(self._topic, partition),
            lambda record: fold.add(record.offset, record.key, record.value, record.timestamp),
        )
        try:
            return fold.attempts(is_whole=begin == 0)
        except PreReleaseError as error:
            raise LeaseLostError(
                f"{self._topic} was written before release 0.1.0, whose records are not read:"
                " delete the topic, then create it with `drydock topics apply`"
            ) from error

    def _read(self, topic_partition: TopicPartition, handle: Callable[[Any], None]) -> int | None:
        """Call `handle` with each record up to the present end; return the position of the first.

        It is None if the position was not known at first. Raises LeaseLostError if Kafka fails or
        the position does not move for `timeout_s`.
        """
        name = f"{topic_partition.topic}/{topic_partition.partition}"
        limit = round(self._timeout_s * 1000)
        try:
            with KafkaConsumer(**self._connection.consumer_options()) as consumer:
                consumer.assign([topic_partition])
                consumer.seek_to_beginning(topic_partition)
                end = consumer.end_offsets([topic_partition], timeout_ms=limit)[topic_partition]
                moved_at = time.monotonic()
                at: int | None = consumer.position(topic_partition, timeout_ms=limit)
                begin = at
                while at is None or at < end:
                    for record in consumer.poll(timeout_ms=_POLL_MS).get(topic_partition, ()):
                        handle(record)
                    was, at = at, consumer.position(topic_partition, timeout_ms=limit)
                    if at != was:
                        moved_at = time.monotonic()
                    elif time.monotonic() - moved_at > self._timeout_s:
                        raise LeaseLostError(f"{name} stops at offset {at}")
            return begin
        except KafkaError as error:
            raise LeaseLostError(f"cannot read {name}: {error}") from error


class Lease:
    """Permission to act for a partition, until a write is not confirmed.

    `attempts` are the attempts in the changelog at the start of the lease.
    """

    def __init__(
        self,
        producer: Any,
        topic: str,
        partition: int,
        attempts: Attempts,
        timeout_s: float,
    ) -> None:
        self.attempts = attempts
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._timeout_s = timeout_s
        self._confirmed_at = boot_seconds()
        self._lost: LeaseLostError | None = None

    def age_s(self) -> float:
        """Return the seconds since the request of the last confirmed write.

        Before the first write they count from the start of the lease. They include times stopped,
        and on Linux times asleep.
        """
        return boot_seconds() - self._confirmed_at

    def write(self, changes: AttemptChanges) -> None:
        """Write all changes in one transaction, or none. None as a value deletes the job.

        Returns after Kafka confirmed the transaction. Raises LeaseLostError if Kafka refuses it or
        does not confirm it within `timeout_s`, and then on every later call.
        """
        if self._lost is not None:
            raise self._lost
        asked_at = boot_seconds()
        try:
            _run_within(self._timeout_s, lambda: self._transact(changes), "a write")
        except LeaseLostError as error:
            self._lost = error
            raise
        # The time of the request: the coordinator may have responded long before this line.
        self._confirmed_at = asked_at

    def _transact(self, changes: AttemptChanges) -> None:
        """Send each change and commit the transaction; returns when all are confirmed.

        Raises KafkaError or AssertionError if Kafka refuses a record or the commit.
        """
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
        # kafka-python 3.0.12 also returns from a commit whose records the broker refused: it starts
        # a new epoch, and then there is nothing to commit. So check the future of each record.
        for each in sent:
            each.get(timeout=self._timeout_s)


def boot_seconds() -> float:
    """Return seconds of a clock that cannot be set; only differences have a meaning.

    On Linux they include time asleep (CLOCK_BOOTTIME); elsewhere it is `time.monotonic()`.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _run_within(timeout_s: float, work: Callable[[], None], what: str) -> None:
    """Run `work` in a thread and wait for its end, for at most `timeout_s`.

    Raises LeaseLostError after `timeout_s`, or if `work` raises KafkaError or AssertionError;
    `fenced` is True for an error that means a newer lease. Another exception is raised unchanged.
    `what` names the work in the message. kafka-python 3.0.12 has no timeout for a commit.
    """
    done: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            done.put(error)
        else:
            done.put(None)

    threading.Thread(target=run, daemon=True, name="lease").start()
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
