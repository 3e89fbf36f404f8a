"""The answers of Macs, read from Kafka into the store of an agent.

Every agent reads the check-ins and the inventory reports of the whole fleet, without a consumer
group: the answer to a command can be of any Mac. Positions are stored together with the answers,
one for each partition, so a restart continues where the store ends. A store without positions is
filled from the first records that the topics have.
"""

import threading
import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import UnknownTopicOrPartitionError  # type: ignore[import-untyped]

from agents.answer_feed import AnswerFeed
from runtime.kafka import KafkaConnection
from runtime.logs import Log
from runtime.retry import QUICK, Backoff
from schemas import logkeys as key
from schemas.envelope import InvalidEvent, decode
from schemas.topics import CHECKINS, INVENTORY

STALE_AFTER_S: Final = 30.0
_END_OFFSETS_INTERVAL_S: Final = 5.0
_POLL_MS: Final = 250
_TIMEOUT_MS: Final = 4000
_LOG_INTERVAL_S: Final = 30.0


class AnswerReader(threading.Thread):
    """Thread that keeps the store current. Any thread may call `is_current`.

    `wake` is called with the UDIDs of Macs whose jobs have news. `now` is the agent's clock.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        feed: AnswerFeed,
        wake: Callable[[Collection[str]], None],
        now: Callable[[], datetime],
        log: Log,
    ) -> None:
        super().__init__(daemon=True, name="answers")
        self._connection = connection
        self._feed = feed
        self._wake = wake
        self._now = now
        self._log = log
        self._current_at: float | None = None
        self._ending = threading.Event()
        self._next_log_at = 0.0

    def is_current(self) -> bool:
        """Return True if the topics were read to their ends in the last `STALE_AFTER_S` seconds."""
        at = self._current_at
        return at is not None and time.monotonic() - at < STALE_AFTER_S

    def stop(self) -> None:
        """Request the end of the thread; returns at once."""
        self._ending.set()

    def run(self) -> None:
        """Read until stopped. After an error a new client begins at the stored positions."""
        backoff = Backoff(QUICK)
        while not self._ending.is_set():
            try:
                self._read_until_stopped()
            except Exception as error:  # noqa: BLE001 - top of the thread; stale answers stop jobs
                self._log_failure(error)
            backoff.wait(self._ending)

    def _read_until_stopped(self) -> None:
        """Read with a new client. Raises KafkaError, and sqlite3.Error of the store."""
        options = self._connection.consumer_options() | {
            "request_timeout_ms": _TIMEOUT_MS,
            "reconnect_backoff_max_ms": 1000,
            "bootstrap_timeout_ms": _TIMEOUT_MS,
        }
        with KafkaConsumer(**options) as consumer:
            partitions = self._assign(consumer)
            ends: dict[Any, int] = {}
            asked_at = ask_at = 0.0
            while not self._ending.is_set():
                if time.monotonic() >= ask_at:
                    asked_at = time.monotonic()
                    ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
                    ask_at = asked_at + _END_OFFSETS_INTERVAL_S
                batches = consumer.poll(timeout_ms=_POLL_MS)
                for batch in batches.values():
                    self._store(batch)
                if all(_reached(consumer, partition, ends[partition]) for partition in partitions):
                    self._current_at = asked_at

    def _assign(self, consumer: Any) -> list[Any]:
        """Assign every partition of the topics at its stored position; return them.

        A position that a topic does not have any more, because it was made again or its records
        expired, is replaced by that of its first record. Raises KafkaError for a missing topic.
        """
        partitions = []
        for topic in (CHECKINS, INVENTORY):
            numbers = consumer.partitions_for_topic(topic.name)
            if not numbers:
                raise UnknownTopicOrPartitionError(topic.name)
            partitions += [TopicPartition(topic.name, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        first = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        for partition in partitions:
            position = self._feed.position(_feed_name(partition.topic, partition.partition))
            known = position is not None and first[partition] <= position <= ends[partition]
            consumer.seek(partition, position if known else first[partition])
        return partitions

    def _store(self, batch: list[Any]) -> None:
        """Store the events of records of one partition, and wake the jobs with news."""
        events = []
        for record in batch:
            try:
                events.append(decode(record.value or b""))
            except InvalidEvent:
                continue  # its reader in the pipeline makes it a dead letter
        name = _feed_name(batch[-1].topic, batch[-1].partition)
        udids = self._feed.add_events(events, self._now(), {name: batch[-1].offset + 1})
        if udids:
            self._wake(udids)

    def _log_failure(self, error: Exception) -> None:
        if time.monotonic() >= self._next_log_at:
            self._next_log_at = time.monotonic() + _LOG_INTERVAL_S
            self._log.warning(
                "cannot read the answers of Macs; retrying; without a success for 30 s no Mac is"
                " looked at",
                **{key.DETAIL: str(error) or type(error).__name__},
            )


def _feed_name(topic: str, partition: int) -> str:
    return f"{topic}/{partition}"


def _reached(consumer: Any, partition: Any, end: int) -> bool:
    position = consumer.position(partition, timeout_ms=_TIMEOUT_MS)
    return position is not None and position >= end
