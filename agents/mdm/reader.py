"""The answers of Macs, read from Kafka into the store of an agent.

Every agent reads the check-ins and the inventory reports of the whole fleet, without a consumer
group: the answer to a command can be of any Mac. Positions are stored together with the answers,
one for each partition, so a restart continues where the store ends. A store without positions is
filled from the first records that the topics have. Inventory reports of other sources than MDM have
no facts for an agent: they are skipped, as they are most of the records of a fleet.

Of the others only records that a trusted key for records signed count: a gateway accepted their
sender. The rest is counted and logged: who can write the topics could give a Mac another serial
number. When a trusted key is added or removed, also while the agent is stopped, the records that no
trusted key had signed are read again: the offset of the first one, and the keys, are stored with
the positions.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import UnknownTopicOrPartitionError  # type: ignore[import-untyped]

from agents.answer_feed import AnswerFeed
from agents.mdm.facts import may_have_facts
from runtime.kafka import KafkaConnection
from runtime.logs import Log
from runtime.retry import QUICK, Backoff
from runtime.trusted_keys import KeyRing
from schemas import logkeys as key
from schemas.envelope import Event, InvalidEvent, decode
from schemas.signed_records import REPORT_RECORD, verify_record, without_stamp
from schemas.signing import SignatureError
from schemas.topics import REPORT_TOPICS

STALE_AFTER_S: Final = 30.0
_END_OFFSETS_INTERVAL_S: Final = 5.0
_POLL_MS: Final = 250
_TIMEOUT_MS: Final = 4000
_LOG_INTERVAL_S: Final = 30.0
_NO_OFFSET: Final = -1


class AnswerReader(threading.Thread):
    """Thread that keeps the store current. Any thread may call `is_current`.

    `wake` is called with the UDIDs of Macs whose jobs have news. `now` is the agent's clock. `keys`
    returns the trusted keys (the same object until they change), and `on_ignored` is called for
    each record that none of them signed.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        feed: AnswerFeed,
        wake: Callable[[Collection[str]], None],
        now: Callable[[], datetime],
        keys: Callable[[], KeyRing],
        on_ignored: Callable[[], None],
        log: Log,
    ) -> None:
        super().__init__(daemon=True, name="answers")
        self._connection = connection
        self._feed = feed
        self._wake = wake
        self._now = now
        self._keys = keys
        self._on_ignored = on_ignored
        self._read_with = keys()
        # The first record of each partition that no key of `_read_with` signed.
        self._first_ignored: dict[Any, int] = {}
        self._ignored = 0
        self._next_ignored_log_at = 0.0
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
                self._read_ignored_again(consumer)
                batches = consumer.poll(timeout_ms=_POLL_MS)
                for partition, batch in batches.items():
                    self._store(partition, batch)
                if all(_reached(consumer, partition, ends[partition]) for partition in partitions):
                    self._current_at = asked_at

    def _assign(self, consumer: Any) -> list[Any]:
        """Assign every partition of the topics at its stored position; return them.

        A position that a topic does not have any more, because it was made again or its records
        expired, is replaced by that of its first record. Raises KafkaError for a missing topic.
        """
        partitions = []
        for topic in REPORT_TOPICS:
            numbers = consumer.partitions_for_topic(topic.name)
            if not numbers:
                raise UnknownTopicOrPartitionError(topic.name)
            partitions += [TopicPartition(topic.name, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        first = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        for partition in partitions:
            position = self._feed.position(_feed_name(partition.topic, partition.partition))
            if position is None or not first[partition] <= position <= ends[partition]:
                position = first[partition]
                self._first_ignored.pop(partition, None)
            else:
                position = max(first[partition], self._before_ignored(partition, position))
            consumer.seek(partition, position)
        return partitions

    def _before_ignored(self, partition: Any, position: int) -> int:
        """Return the stored position, or that of the first ignored record if the keys changed."""
        self._first_ignored.pop(partition, None)
        name = _feed_name(partition.topic, partition.partition)
        ignored = self._feed.position(_ignored_name(name))
        if ignored is None or ignored == _NO_OFFSET:
            return position
        if self._feed.position(_keys_name(name)) != _keys_number(self._read_with):
            return min(ignored, position)
        self._first_ignored[partition] = ignored
        return position

    def _read_ignored_again(self, consumer: Any) -> None:
        """Go back to the first ignored record of each partition if the trusted keys changed."""
        keys = self._keys()
        if keys is self._read_with:
            return
        self._read_with = keys
        for partition, offset in self._first_ignored.items():
            consumer.seek(partition, offset)
        self._first_ignored = {}

    def _store(self, partition: Any, batch: list[Any]) -> None:
        """Store the events of records of one partition, and wake the jobs with news."""
        events = []
        for record in batch:
            raw = record.value or b""
            if not may_have_facts(record.topic, raw):
                continue
            try:
                events.append(self._accepted_event(raw))
            except InvalidEvent:
                continue  # its reader in the pipeline makes it a dead letter
            except SignatureError as error:
                self._first_ignored.setdefault(partition, record.offset)
                self._ignore(record, error)
        name = _feed_name(partition.topic, partition.partition)
        positions = {
            name: batch[-1].offset + 1,
            _ignored_name(name): self._first_ignored.get(partition, _NO_OFFSET),
            _keys_name(name): _keys_number(self._read_with),
        }
        udids = self._feed.add_events(events, self._now(), positions)
        if udids:
            self._wake(udids)

    def _accepted_event(self, raw: bytes) -> Event:
        """Return the event of a record. Raises SignatureError before it is parsed, InvalidEvent."""
        signed = without_stamp(raw)
        verify_record(signed, REPORT_RECORD, self._read_with.records)
        # Not the stamp: in its place a forger could write members that replace signed ones.
        return decode(signed)

    def _ignore(self, record: Any, error: SignatureError) -> None:
        self._on_ignored()
        self._ignored += 1
        if time.monotonic() < self._next_ignored_log_at:
            return
        self._next_ignored_log_at = time.monotonic() + _LOG_INTERVAL_S
        found = {key.TOPIC: record.topic, key.OFFSET: record.offset, key.DETAIL: str(error)}
        self._log.error(
            "records of Macs ignored: no trusted key for records signed them",
            **found,
            **{key.COUNT: self._ignored},
        )
        self._ignored = 0

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


def _ignored_name(feed: str) -> str:
    """Return the name under which the offset of the first ignored record is stored."""
    return f"{feed}/first-ignored"


def _keys_name(feed: str) -> str:
    """Return the name under which `_keys_number` of the keys that ignored it is stored."""
    return f"{feed}/keys"


def _keys_number(keys: KeyRing) -> int:
    """Return a number of 56 bits for the ids of the trusted keys for records."""
    ids = "\n".join(sorted(keys.records))
    return int.from_bytes(hashlib.sha256(ids.encode()).digest()[:7])


def _reached(consumer: Any, partition: Any, end: int) -> bool:
    position = consumer.position(partition, timeout_ms=_TIMEOUT_MS)
    return position is not None and position >= end
