"""Makes records durable: acknowledged by Kafka, or on disk behind all that waits there.

One task sends, so records of one key keep the order they were given in. There are two modes:

- direct: each record goes to Kafka as it comes;
- through the spool, as soon as Kafka is unreachable, refuses, or lets one record wait too long:
  all that is not acknowledged goes into the spool first, then whatever comes, while the spool's
  records are sent in their order. Direct again once the spool is empty: the last of it is sent
  while what comes waits at the door for a moment; a steady stream would never let it empty
  otherwise.

A producer is kept as long as it works: an idempotent one tries a batch until Kafka has it, in
order, never twice. So what is under way when it is spooled is not sent again, only waited for. A
producer that gave up on a record is replaced once all it had under way is decided, and what was
not acknowledged is sent again from the spool. That, or a crash between an acknowledgement and
its note on disk, can double a record; it has the same event id then.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final, ParamSpec, TypeVar

import structlog

from pipeline.gateway.producer import (
    BackpressureError,
    DeliveryFuture,
    DeliveryMetrics,
    DurableIn,
    Producer,
    ProducerError,
    is_acknowledged,
)
from pipeline.gateway.records import Record
from pipeline.gateway.spool import Spool, Spooled, SpoolError, SpoolFullError
from schemas import logkeys as key

_MAX_APPEND_RECORDS: Final = 500
_MAX_READ_RECORDS: Final = 200
_READ_BYTES: Final = 16 * 1024 * 1024
# Longest pause of the intake while the last records of the spool are sent.
_DRAIN_TIMEOUT_S: Final = 0.25
# Longest wait for the outcome of a failed producer's records. Later ones may be sent twice.
_OUTCOME_TIMEOUT_S: Final = 120.0
# A spool with less is as good as full.
_MIN_FREE_BYTES: Final = 256 * 1024

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _PendingRecord:
    """A record on its way, and the future that its sender waits for.

    `accepted_at` and `sent_at` are monotonic seconds. `delivery` is None until a producer accepted
    the record.
    """

    record: Record
    ack: "asyncio.Future[DurableIn]"
    accepted_at: float
    sent_at: float = 0.0
    delivery: DeliveryFuture | None = None

    @property
    def is_acknowledged(self) -> bool:
        return self.delivery is not None and is_acknowledged(self.delivery)


@dataclass(slots=True)
class _Drain:
    """Progress of sending the spool.

    `sent_up_to` is the sequence number of the last record that was sent. `in_flight` has, by
    sequence number, the sent records that are not yet deleted from the spool.
    """

    sent_up_to: int = 0
    in_flight: dict[int, tuple[Spooled, DeliveryFuture]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLimits:
    """Times in seconds, and numbers of records, that a producer works with."""

    max_in_flight: int = 2000  # records sent and not yet acknowledged, in each mode
    max_queued: int = 20_000  # records that wait to be sent; `put` refuses more
    retry_delays_s: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)  # by failures in a row
    # What comes within it goes to a broker in one request. A request for each record costs a broker
    # three times as much; the producer's own linger is by partition, and as good as none.
    linger_s: float = 0.01
    # After `send` timed out, time without a drain, unless a record is acknowledged sooner.
    probe_timeout_s: float = 5.0
    wake_interval_s: float = 0.5  # longest wait for a change


_LIMITS: Final = DeliveryLimits()


class StoreAndForwardProducer:
    """Makes records durable, in Kafka or in the spool.

    `connect` returns a producer, or raises ProducerError. `max_waiting` limits the concurrent calls
    of `put`. `ack_wait_s` is the longest wait for an acknowledgement before a record is spooled.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Producer]],
        spool: Spool,
        metrics: DeliveryMetrics,
        log: structlog.typing.FilteringBoundLogger,
        *,
        max_waiting: int,
        ack_wait_s: float,
        limits: DeliveryLimits = _LIMITS,
    ) -> None:
        self.spooling = True
        self._connect = connect
        self._spool = spool
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="drydock-spool")
        self._metrics = metrics
        self._log = log
        self._max_waiting = max_waiting
        self._ack_wait_s = ack_wait_s
        self._limits = limits
        self._producer: Producer | None = None
        self._failures = 0
        self._failure: BaseException | None = None
        self._queue: deque[_PendingRecord] = deque()
        self._in_flight: deque[_PendingRecord] = deque()
        self._drain = _Drain()
        self._acknowledged_at = 0.0
        self._refused_at = -limits.probe_timeout_s
        self._waiting = 0
        self._stopping = False
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._intake_lock = asyncio.Lock()

    @property
    def is_accepting(self) -> bool:
        """True if new records are accepted: Kafka acknowledges, or the spool has room.

        False after `stop`.
        """
        room = min(_MIN_FREE_BYTES, self._spool.max_bytes // 10)
        return not self._stopping and (not self.spooling or self._spool.has_room(room))

    async def put(self, records: Sequence[Record]) -> None:
        """Return once all of these are durable, in this order.

        Raises BackpressureError (too many records wait, or delivery stops or restarts),
        SpoolFullError (Kafka is away and the spool is full), or SpoolError (the disk fails). Some
        records may be durable all the same, so a retry must use the same event ids.
        """
        if not records:
            return
        if (
            self._stopping
            or self._waiting >= self._max_waiting
            or len(self._queue) >= self._limits.max_queued
        ):
            raise BackpressureError("too many records are waiting")
        if self.spooling and not self._spool.has_room(sum(record.size for record in records)):
            raise SpoolFullError("Kafka is unreachable and the spool is full")
        loop, now = asyncio.get_running_loop(), time.monotonic()
        batch = [_PendingRecord(record, loop.create_future(), now) for record in records]
        for pending in batch:
            pending.ack.add_done_callback(_retrieve_exception)
        self._queue.extend(batch)
        self._arrived.set()
        self._changed.set()
        self._waiting += 1
        try:
            await asyncio.gather(*(one.ack for one in batch))
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Deliver the records of `put` until `stop` is called.

        Records that a crash left in the spool are sent first. At the end the records that wait are
        made durable; producer and spool are closed.
        """
        while not self._stopping:
            try:
                if self._producer is None or self._failure or self._spool.depth:
                    await self._deliver_through_spool()
                else:
                    await self._deliver_directly()
                    if not self._stopping:
                        await self._deliver_through_spool()
            except Exception as error:  # noqa: BLE001 - the task's top: begin again from disk
                self._log.error(
                    "unhandled exception",
                    exc_info=error,
                    **{key.DETAIL: "delivery restarts from the spool"},
                )
                self._reset(error)
                await asyncio.sleep(self._limits.retry_delays_s[-1])
        await self._shut_down()

    def stop(self) -> None:
        """End `run` soon, after it made all records that wait durable.

        From now on `put` raises BackpressureError, unless it gets no records.
        """
        self._stopping = True
        self._changed.set()

    # --- straight to Kafka ---

    async def _deliver_directly(self) -> None:
        """Send queued records to Kafka, until one fails or a stop.

        A record also fails if the producer does not accept it, or Kafka does not acknowledge it,
        within `ack_wait_s`.
        """
        self._set_mode(spooling=False)
        while not self._stopping:
            while self._in_flight and self._in_flight[0].is_acknowledged:
                self._in_flight.popleft()
            ack_time_left_s = self._ack_time_left_s()
            if self._failure or ack_time_left_s <= 0:
                return
            if not self._queue or len(self._in_flight) >= self._limits.max_in_flight:
                await self._wait_for_change(ack_time_left_s)
                if self._queue:
                    await asyncio.sleep(self._limits.linger_s)
            elif await self._send(self._queue[0]):
                self._in_flight.append(self._queue.popleft())
            else:
                return

    def _ack_time_left_s(self) -> float:
        """Return the seconds until the oldest record in flight is overdue; negative after that.

        `ack_wait_s` if no record is in flight.
        """
        if not self._in_flight:
            return self._ack_wait_s
        return self._in_flight[0].sent_at + self._ack_wait_s - time.monotonic()

    async def _send(self, pending: _PendingRecord) -> bool:
        """Return True if the producer accepted the record: `pending` then has its delivery.

        False: it failed or did not accept the record within `ack_wait_s`.
        """
        delivery = await self._try_send(pending.record)
        if delivery is None:
            return False
        pending.delivery, pending.sent_at = delivery, time.monotonic()
        delivery.add_done_callback(partial(self._on_delivery, pending))
        return True

    async def _try_send(self, record: Record) -> DeliveryFuture | None:
        """Return the delivery of a record that the producer accepted within `ack_wait_s`.

        None if it did not accept the record in time, or failed; its error is then in `_failure`.
        """
        assert self._producer is not None
        try:
            async with asyncio.timeout(self._ack_wait_s):
                return await self._producer.send(record)
        except TimeoutError:
            self._refused_at = time.monotonic()
            return None
        except ProducerError as error:
            self._failure = error
            return None

    def _on_delivery(self, pending: _PendingRecord | None, delivery: DeliveryFuture) -> None:
        """Note the end of a delivery: the time of the acknowledgement, or the error in `_failure`.

        An acknowledged `pending` record is reported to its sender; for a record of the spool it is
        None.
        """
        error = asyncio.CancelledError() if delivery.cancelled() else delivery.exception()
        if error is not None:
            self._failure = error
        else:
            self._acknowledged_at = time.monotonic()
            if pending is not None:
                self._acknowledge(pending, DurableIn.KAFKA)
        self._changed.set()

    # --- through the spool ---

    async def _deliver_through_spool(self) -> None:
        """Spool records and send the spool to Kafka in order, until it is empty or a stop.

        First the records in flight without an acknowledgement are spooled, then all records that
        arrive.
        """
        self._set_mode(spooling=True)
        self._drain = _Drain()
        unacknowledged = [pending for pending in self._in_flight if not pending.is_acknowledged]
        self._in_flight.clear()
        for spooled, pending in zip(
            await self._append_to_spool(unacknowledged), unacknowledged, strict=False
        ):
            assert pending.delivery is not None
            self._drain.sent_up_to = spooled.seq
            self._drain.in_flight[spooled.seq] = (spooled, pending.delivery)
        writer = asyncio.create_task(self._spool_queue())
        try:
            await self._send_spool(writer)
        finally:
            async with self._intake_lock:
                writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer

    async def _spool_queue(self) -> None:
        """Move queued records to the spool until cancelled.

        Each transaction takes all that wait, at most 500.
        """
        while True:
            await self._arrived.wait()
            async with self._intake_lock:
                count = min(len(self._queue), _MAX_APPEND_RECORDS)
                batch = [self._queue.popleft() for _ in range(count)]
                if not self._queue:
                    self._arrived.clear()
                await self._append_to_spool(batch)
            self._changed.set()

    async def _append_to_spool(self, batch: Sequence[_PendingRecord]) -> list[Spooled]:
        """Write records to the spool, acknowledge them, and return them with sequence numbers.

        On SpoolError none is written: it is logged, the senders get it, and the list is empty. On
        any other exception the senders get BackpressureError, and it is raised.
        """
        if not batch:
            return []
        records = [pending.record for pending in batch]
        try:
            sequences = await self._run_on_disk(self._spool.append, records, datetime.now(UTC))
        except SpoolError as error:
            self._log.error(
                "records refused: cannot write the spool; check the disk of the data directory",
                **{key.DETAIL: str(error), key.COUNT: len(records)},
            )
            _fail_pending(batch, error)
            return []
        except BaseException:
            _fail_pending(batch, BackpressureError("delivery restarts; retry"))
            raise
        for one in batch:
            self._acknowledge(one, DurableIn.SPOOL)
        return [Spooled(*pair) for pair in zip(sequences, records, strict=True)]

    async def _send_spool(self, writer: "asyncio.Task[None]") -> None:
        """Send the spool to Kafka, until it is empty with the intake paused, or a stop.

        Also returns if `writer`, the task of `_spool_queue`, ends. A SpoolError is logged, and the
        producer then counts as failed: the spool is sent again.
        """
        while not self._stopping:
            if writer.done():
                return  # it failed; the caller awaits it, which raises its exception
            try:
                if not await self._ensure_producer():
                    continue
                rest = await self._send_spooled()
                await self._delete_delivered()
                if not rest and self._can_drain and await self._drain_with_intake_paused(writer):
                    return
            except SpoolError as error:
                self._log.error(
                    "cannot read or write the spool; retrying;"
                    " check the disk of the data directory",
                    **{key.DETAIL: str(error)},
                )
                self._failure = error
                await asyncio.sleep(self._limits.retry_delays_s[-1])
            await self._wait_for_change(self._limits.wake_interval_s)

    @property
    def _can_drain(self) -> bool:
        """True if pausing the intake to drain the spool can succeed.

        A producer whose `send` timed out lately must acknowledge a record first: otherwise the
        modes alternate, and waiting records never become durable.
        """
        now = time.monotonic()
        if self._acknowledged_at <= self._refused_at > now - self._limits.probe_timeout_s:
            return False
        return (
            now - self._acknowledged_at < self._limits.wake_interval_s or not self._drain.in_flight
        )

    async def _drain_with_intake_paused(self, writer: "asyncio.Task[None]") -> bool:
        """Pause the intake and send the rest of the spool; return True if it is empty in time.

        Then `writer` is cancelled. False if a record fails or the spool is not empty within 0.25 s.
        """
        async with self._intake_lock:
            until = time.monotonic() + _DRAIN_TIMEOUT_S
            while self._spool.depth:
                # Send again: records arrived before the intake was paused.
                await self._send_spooled()
                await self._delete_delivered()
                left = until - time.monotonic()
                if self._failure or left <= 0:
                    return False
                if self._drain.in_flight:
                    await self._wait_for_change(left)
                    await self._delete_delivered()
            # Under the lock: the writer waits for it, so it holds no records.
            writer.cancel()
            return True

    async def _ensure_producer(self) -> bool:
        """Return True if a producer is connected; a failed one is dropped first.

        If there is none, it tries once to connect; after a failure it waits, then returns False.
        """
        if self._failure is not None:
            await self._drop_producer(self._failure)
        if self._producer is None:
            try:
                self._producer = await self._connect()
            except ProducerError as error:
                if self._failures == 0:
                    self._log.warning(
                        "cannot connect to Kafka; records go to the spool; retrying",
                        **{key.DETAIL: str(error)},
                    )
                wait_s = self._limits.retry_delays_s[
                    min(self._failures, len(self._limits.retry_delays_s) - 1)
                ]
                self._failures += 1
                await self._sleep_until_stop(wait_s)
                return False
            self._log.info("connected to Kafka", **{key.COUNT: self._spool.depth})
            self._failures = 0
        return True

    async def _drop_producer(self, why: BaseException) -> None:
        """Close the failed producer, once each of its spooled records is delivered or failed.

        It waits at most 120 s for that, and no longer than until `stop`. Acknowledged records are
        deleted from the spool; the next producer sends the rest again. `why` is logged.
        """
        self._log.warning(
            "producer failed; connecting a new one, unconfirmed records are sent again",
            **{key.DETAIL: f"{type(why).__name__}: {why}"},
        )
        until = time.monotonic() + _OUTCOME_TIMEOUT_S
        while not self._stopping and time.monotonic() < until:
            await self._delete_delivered()
            if all(delivery.done() for _, delivery in self._drain.in_flight.values()):
                break
            await self._wait_for_change(self._limits.wake_interval_s)
        producer, self._producer, self._failure = self._producer, None, None
        self._drain = _Drain()
        if producer is not None:
            await producer.close()
        await self._sleep_until_stop(self._limits.retry_delays_s[0])

    async def _send_spooled(self) -> bool:
        """Send the next records of the spool, in order; return True if some are left unsent.

        They are left if too many records are in flight or the producer does not accept one.
        """
        drain = self._drain
        # Read `last` first: records appended during the read must not be skipped.
        while (
            drain.sent_up_to < (last := self._spool.last_seq)
            and len(drain.in_flight) < self._limits.max_in_flight
        ):
            read = partial(
                self._spool.read_after, max_records=_MAX_READ_RECORDS, max_bytes=_READ_BYTES
            )
            found = await self._run_on_disk(read, drain.sent_up_to)
            if not found:
                drain.sent_up_to = last
            for one in found:
                delivery = await self._try_send(one.record)
                if delivery is None:
                    return True
                drain.sent_up_to = one.seq
                drain.in_flight[one.seq] = (one, delivery)
                delivery.add_done_callback(partial(self._on_delivery, None))
        return drain.sent_up_to < self._spool.last_seq

    async def _delete_delivered(self) -> None:
        """Delete the records that Kafka has acknowledged from the spool.

        Raises SpoolError, and keeps them, if the disk fails.
        """
        in_flight = self._drain.in_flight
        delivered = [one for one, delivery in in_flight.values() if is_acknowledged(delivery)]
        if delivered:
            await self._run_on_disk(self._spool.delete, delivered)
            for one in delivered:
                del in_flight[one.seq]

    # --- both ---

    def _set_mode(self, *, spooling: bool) -> None:
        if spooling is not self.spooling:
            mode = "spooled" if spooling else "direct"
            self._log.info("delivery mode changed", **{key.OUTCOME: mode})
        self.spooling = spooling
        self._metrics.set_spooling(spooling=spooling)

    def _acknowledge(self, pending: _PendingRecord, durable_in: DurableIn) -> None:
        """Report a record as durable to its sender and count it, unless that was done before."""
        if not pending.ack.done():
            pending.ack.set_result(durable_in)
            duration_s = time.monotonic() - pending.accepted_at
            self._metrics.observe_durable(pending.record.topic, durable_in, duration_s)

    async def _run_on_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in the thread that may wait for the disk, and return its result."""
        job = partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._disk, job)

    async def _wait_for_change(self, timeout_s: float) -> None:
        """Wait until a record arrives, a delivery ends or `stop` is called.

        Returns at once if that happened since the last call, and after `timeout_s` seconds in any
        case.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._changed.wait()
        self._changed.clear()

    async def _sleep_until_stop(self, timeout_s: float) -> None:
        """Wait for `timeout_s` seconds, or until `stop` is called."""
        until = time.monotonic() + timeout_s
        while not self._stopping and (left := until - time.monotonic()) > 0:
            await self._wait_for_change(left)

    def _reset(self, error: BaseException) -> None:
        """Fail all waiting calls of `put` after a bug; `run` sends the spool again.

        The calls raise BackpressureError; `error` is kept as the producer's failure.
        """
        self._failure = error
        self.spooling = True
        _fail_pending(
            [*self._in_flight, *self._queue], BackpressureError("delivery restarts; retry")
        )
        self._in_flight.clear()
        self._queue.clear()

    async def _shut_down(self) -> None:
        """Make the accepted records durable, then close producer and spool.

        Queued records, and records without an acknowledgement within `ack_wait_s`, go to the spool.
        If they cannot be written there, their senders get an error.
        """
        in_flight = [
            one.delivery for one in self._in_flight if one.delivery and not one.delivery.done()
        ]
        if in_flight:
            await asyncio.wait(in_flight, timeout=self._ack_wait_s)
        rest = [pending for pending in self._in_flight if not pending.is_acknowledged]
        await self._append_to_spool([*rest, *self._queue])
        self._queue.clear()
        with suppress(SpoolError):
            await self._delete_delivered()
        if self._producer is not None:
            await self._producer.close()
        await self._run_on_disk(self._spool.close)
        self._disk.shutdown()


def _retrieve_exception(ack: "asyncio.Future[DurableIn]") -> None:
    """Retrieve the exception so asyncio does not warn when the request was cancelled."""
    if not ack.cancelled():
        ack.exception()


def _fail_pending(batch: Sequence[_PendingRecord], error: Exception) -> None:
    for pending in batch:
        if not pending.ack.done():
            pending.ack.set_exception(error)
