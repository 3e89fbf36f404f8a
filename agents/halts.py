"""Halts in force, read from two topics; None if they are unknown.

Operators set and clear halts in the control topic. Workers set those of an action that Drydock
itself halts in the topic of halts.

Every agent reads both topics whole, without a consumer group, and asks the broker every second for
the end offsets. The halts are known for `STALE_AFTER_S` after a request for the end offsets, once
everything before them is read. After that time they are unknown, and no job may start.

Only events count that a trusted key signed: one for control in the control topic, one for jobs in
the other. Others are logged and counted: anyone who can write the topic could clear a halt. When a
key is added or removed, the topics are read again from their first records.

The topics keep all records, so halts may be missing if the first records of one were deleted before
they were read. That is reported; while nothing else is in it, the halts are unknown. Halts that
were read once stay in force until they are cleared, also if the topic is created again, or if the
key that signed them is removed; a clearing by a removed key does not count any more.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from runtime.kafka import KafkaConnection
from runtime.retry import QUICK, Backoff
from runtime.trusted_keys import KeyRing
from schemas import logkeys as key
from schemas.envelope import HaltClearedEvent, HaltSetEvent, InvalidEvent, decode
from schemas.events.control import HaltScope, HaltSet
from schemas.signed_payloads import PublicKeys
from schemas.signed_records import AUTOMATIC_HALT_RECORD, CONTROL_RECORD, verify_record
from schemas.signing import SignatureError
from schemas.topics import CONTROL, HALTS

STALE_AFTER_S: Final = 5.0
_END_OFFSET_INTERVAL_S: Final = 1.0
_POLL_MS: Final = 250
_TIMEOUT_MS: Final = 4000
_HALT: Final = b"drydock.halt."
_PARTITIONS: Final = (TopicPartition(CONTROL.name, 0), TopicPartition(HALTS.name, 0))
_LOG_INTERVAL_S: Final = 30.0

# Time, True for a halt (a halt wins against a clearing of the same time), content as JSON.
_SortKey = tuple[datetime, bool, str]


class HaltBook:
    """Fold of halt events: for each scope the newest event wins, in any order of arrival."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[_SortKey, HaltSet | None]] = {}

    def apply(self, event: HaltSetEvent | HaltClearedEvent) -> None:
        """Fold one event. A repeat or an older event changes nothing.

        Of two events with one scope and time, a halt wins against a clearing.
        """
        halt = event.data if isinstance(event, HaltSetEvent) else None
        content = "" if halt is None else halt.model_dump_json()
        sort_key = (event.time, halt is not None, content)
        scope = event.data.scope.key
        if scope not in self._newest or sort_key > self._newest[scope][0]:
            self._newest[scope] = (sort_key, halt)

    def without_clearings(self) -> "HaltBook":
        """Return a new book with the halts alone: the key of a clearing may be trusted no more."""
        kept = HaltBook()
        kept._newest = {
            scope: newest for scope, newest in self._newest.items() if newest[1] is not None
        }
        return kept

    def changed_at(self, scope: HaltScope) -> datetime | None:
        """Return the time of the newest event that set or cleared this scope, None without one."""
        newest = self._newest.get(scope.key)
        return None if newest is None else newest[0][0]

    def in_force(self, now: datetime) -> tuple[HaltScope, ...]:
        """Return the scopes in which no job may start at `now`, sorted by key; empty without halts.

        A halt whose `until` is past is not in force.
        """
        halts = (halt for _, (_, halt) in sorted(self._newest.items()) if halt is not None)
        return tuple(h.scope for h in halts if h.until is None or now < h.until)


def decode_halt(raw: bytes | None, keys: PublicKeys) -> HaltSetEvent | HaltClearedEvent | None:
    """Return the halt event in these bytes; None for an event of another type.

    Raises SignatureError if none of `keys` signed a halt event, InvalidEvent for bytes that are no
    event.
    """
    event = decode(raw or b"")
    if not isinstance(event, HaltSetEvent | HaltClearedEvent):
        return None
    verify_record(raw or b"", CONTROL_RECORD, keys)
    return event


def decode_automatic_halt(raw: bytes, keys: PublicKeys) -> HaltSetEvent | None:
    """Return the halt that Drydock itself set, in these bytes; None for any other event.

    Raises SignatureError if none of `keys` signed it, InvalidEvent for bytes that are no event.
    """
    event = decode(raw)
    if not isinstance(event, HaltSetEvent) or not event.data.is_automatic:
        return None
    verify_record(raw, AUTOMATIC_HALT_RECORD, keys)
    return event


class HaltReader(threading.Thread):
    """Thread that keeps the halts current. Any thread may call `scopes`.

    `on_lost` is called with a topic and its number of records that were deleted before they were
    read, `keys` returns the trusted keys (the same object until they change), and `on_ignored` is
    called for each halt event that is unreadable or that no trusted key signed.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        log: Any,
        on_lost: Callable[[str, int], None],
        keys: Callable[[], KeyRing],
        on_ignored: Callable[[], None],
    ) -> None:
        super().__init__(daemon=True, name="halts")
        self._connection = connection
        self._log = log
        self._on_lost = on_lost
        self._keys = keys
        self._on_ignored = on_ignored
        # By topic: the offset before which all records are read, and that before which records are
        # lost.
        self._read_before = {partition.topic: 0 for partition in _PARTITIONS}
        self._lost_before = dict(self._read_before)
        self._book = HaltBook()
        self._read_with: KeyRing | None = None
        self._lock = threading.Lock()
        self._known_at: float | None = None
        self._ending = threading.Event()
        self._next_log_at = 0.0

    def scopes(self, now: datetime) -> tuple[HaltScope, ...] | None:
        """Return the scopes of the halts in force at `now`; empty without halts, None if unknown.

        The halts are unknown if a topic was not read to its end in the last `STALE_AFTER_S`
        seconds of system time. `now` is by the agent's clock.
        """
        with self._lock:
            if self._known_at is None or time.monotonic() - self._known_at > STALE_AFTER_S:
                return None
            return self._book.in_force(now)

    def stop(self) -> None:
        """Request the end of the thread; returns at once."""
        self._ending.set()

    def run(self) -> None:
        """Read until stopped.

        After an error a new client begins at the first record, so that it also finds a topic that
        was missing or was created again.
        """
        backoff = Backoff(QUICK)
        while not self._ending.is_set():
            try:
                self._read_until_stopped()
            except Exception as error:  # noqa: BLE001 - top of the thread; unknown halts stop jobs
                self._log_failure(error)
            backoff.wait(self._ending)

    def _read_until_stopped(self) -> None:
        """Read the topics from their first records with a new client, until stopped.

        An event counts when it is read. Raises KafkaError.
        """
        options = self._connection.consumer_options() | {
            "request_timeout_ms": _TIMEOUT_MS,
            "reconnect_backoff_max_ms": 1000,
            "bootstrap_timeout_ms": _TIMEOUT_MS,
        }
        with KafkaConsumer(**options) as consumer:
            consumer.assign(_PARTITIONS)
            consumer.seek_to_beginning(*_PARTITIONS)
            begins = consumer.beginning_offsets(_PARTITIONS, timeout_ms=_TIMEOUT_MS)
            for partition in _PARTITIONS:
                self._check_begin(partition.topic, begins[partition])
            ends: dict[TopicPartition, int] = {}
            asked_at = ask_at = 0.0
            keys = self._keys()
            book = self._book if keys is self._read_with else self._book.without_clearings()
            while not self._ending.is_set() and self._keys() is keys:
                if time.monotonic() >= ask_at:
                    asked_at = time.monotonic()
                    ends = consumer.end_offsets(_PARTITIONS, timeout_ms=_TIMEOUT_MS)
                    ask_at = asked_at + _END_OFFSET_INTERVAL_S
                for records in consumer.poll(timeout_ms=_POLL_MS).values():
                    for record in records:
                        self._fold_record(record, keys, book)
                if self._has_read(consumer, ends):
                    with self._lock:
                        self._book, self._read_with = book, keys
                        if all(self._has_halts(each.topic, ends[each]) for each in _PARTITIONS):
                            self._known_at = asked_at

    def _has_read(self, consumer: Any, ends: Mapping[TopicPartition, int]) -> bool:
        """Return True if every topic is read to its end, and keep how far each one is read."""
        positions = {
            each: consumer.position(each, timeout_ms=_TIMEOUT_MS) or 0 for each in _PARTITIONS
        }
        if any(positions[each] < ends[each] for each in _PARTITIONS):
            return False
        for each, position in positions.items():
            self._read_before[each.topic] = max(self._read_before[each.topic], position)
        return True

    def _has_halts(self, topic: str, end: int) -> bool:
        """Return False while a topic has lost records, and has no others."""
        lost_before = self._lost_before[topic]
        return end > lost_before or not lost_before

    def _fold_record(self, record: Any, keys: KeyRing, book: HaltBook) -> None:
        """Fold the halt event of a record; log and count one that does not count.

        An unreadable halt does not count: it could never be cleared and would stop all jobs
        forever.
        """
        raw = record.value or b""
        try:
            event = (
                decode_halt(raw, keys.control)
                if record.topic == CONTROL.name
                else decode_automatic_halt(raw, keys.jobs)
            )
        except SignatureError as error:
            self._ignore("halt event ignored: no trusted key signed it", record, error)
        except InvalidEvent as error:
            if _HALT in raw:
                message = "unreadable halt ignored; publish it again with `drydock halt`"
                self._ignore(message, record, error)
        else:
            if event is not None:
                with self._lock:
                    book.apply(event)

    def _ignore(self, message: str, record: Any, error: Exception) -> None:
        if record.offset < self._read_before[record.topic]:
            return  # it was counted when it was read first
        self._on_ignored()
        found = {key.TOPIC: record.topic, key.OFFSET: record.offset, key.DETAIL: str(error)}
        self._log.error(message, **found)

    def _check_begin(self, topic: str, begin: int) -> None:
        """Report records before `begin` that were deleted before this agent read them."""
        if begin < self._lost_before[topic]:
            self._lost_before[topic] = 0  # the topic was created again
        lost = begin - self._read_before[topic]
        if lost <= 0:
            return
        self._lost_before[topic] = begin
        self._on_lost(topic, lost)
        self._log.error(
            "records lost: they were deleted or skipped; repeat the halts that must be in force",
            **{key.TOPIC: topic, key.COUNT: lost, key.OFFSET: begin},
        )

    def _log_failure(self, error: Exception) -> None:
        if time.monotonic() >= self._next_log_at:
            self._next_log_at = time.monotonic() + _LOG_INTERVAL_S
            detail = str(error) or type(error).__name__
            self._log.warning(
                "cannot read halts from their topics; retrying;"
                " without a success for 5 s no job starts",
                **{key.DETAIL: detail},
            )
