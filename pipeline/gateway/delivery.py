"""Makes records durable: acknowledged by Kafka, or in the spool behind all that waits there.

| phase   | a record is durable in | ends                                                | next    |
| ------- | ---------------------- | --------------------------------------------------- | ------- |
| spooled | the spool              | Kafka has the whole spool, with the intake paused   | direct  |
| direct  | Kafka                  | a record fails, is not accepted in `ack_wait_s`, or | spooled |
|         |                        | is not acknowledged in `ack_wait_s`                 |         |

Delivery begins in the spooled phase. From direct to spooled, the records in flight go into the
spool first; they are not sent again while the producer works. From spooled to direct, new records
wait for at most 0.25 s: with a steady stream the spool would otherwise never be empty. `stop` ends
each phase; then each record that waits is acknowledged or goes into the spool.

In the spooled phase, by the disk:

| disk              | Kafka responds                                     | Kafka is away           |
| ----------------- | -------------------------------------------------- | ----------------------- |
| refuses to write  | records wait in memory until the spool is sent     | `put` raises SpoolError |
| refuses to delete | `Spool` remembers the delivered; sending continues | the same                |
| refuses to read   | direct phase past the spool, for `reread_s`        | records are spooled     |

Invariants: one task sends, so the records of one key keep the order of `put`. `put` returns only
when Kafka or the spool has its records. A failed producer, or a crash between an acknowledgement
and the deletion from the spool, can send a record twice; both have the same event id. Records that
pass an unreadable spool overtake those in it.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Final

from pipeline.gateway.drain import SpoolDrain
from pipeline.gateway.producer import (
    BackpressureError,
    DeliveryFuture,
    DeliveryInterruptedError,
    DeliveryMetrics,
    DurableIn,
    Producer,
    is_acknowledged,
)
from pipeline.gateway.reconnecting import ReconnectingProducer
from pipeline.gateway.records import Record
from pipeline.gateway.spool import Spool, Spooled, SpoolError, SpoolFullError
from pipeline.gateway.spool_thread import SpoolThread
from pipeline.gateway.wakeup import Wakeup
from runtime.logs import Log
from runtime.retry import BROKER, Backoff, RetryPolicy
from schemas import logkeys as key

_MAX_APPEND_RECORDS: Final = 500
# Longest pause of the intake while the last records of the spool are sent.
_DRAIN_TIMEOUT_S: Final = 0.25
# A spool with less room counts as full.
_MIN_FREE_BYTES: Final = 256 * 1024
# Delay before the spool is tried again for records that it refuses and that wait in memory.
_PAST_SPOOL_WAIT_S: Final = 0.1
_STOPPING: Final = "the gateway is stopping: try again"
_RESTARTING: Final = "delivery restarts: try again"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLimits:
    """Times in seconds, numbers of records, and the delays after failures."""

    max_in_flight: int = 2000  # records sent and not yet acknowledged, in each phase
    max_queued: int = 20_000  # records that wait to be sent; `put` refuses more
    retry: RetryPolicy = BROKER  # of a connection, of the disk, and after a bug
    # Records that arrive within it go to a broker in one request. A request for each record costs a
    # broker three times as much. The producer's own linger is by partition: it has little effect.
    linger_s: float = 0.01
    # After a timeout, time in the spooled phase, unless a record is acknowledged sooner. After it
    # without an acknowledgement, Kafka counts as away.
    probe_timeout_s: float = 5.0
    wake_interval_s: float = 0.5  # longest wait for a change
    disk_retry_s: float = 1.0  # between writes to a disk that refused the last one
    reread_s: float = 30.0  # between attempts to read an unreadable spool


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
        log: Log,
        *,
        max_waiting: int,
        ack_wait_s: float,
        limits: DeliveryLimits = _LIMITS,
    ) -> None:
        self.spooling = True
        self._spool = spool
        self._metrics = metrics
        self._log = log
        self._max_waiting = max_waiting
        self._ack_wait_s = ack_wait_s
        self._limits = limits
        self._wakeup = Wakeup()
        self._disk = SpoolThread(spool)
        self._producer = ReconnectingProducer(
            connect, log, self._wakeup, accept_timeout_s=ack_wait_s, retry=limits.retry
        )
        self._drain = SpoolDrain(
            self._producer,
            self._disk,
            self._wakeup,
            log,
            max_in_flight=limits.max_in_flight,
            wake_interval_s=limits.wake_interval_s,
        )
        self._backoff = Backoff(limits.retry)
        self._queue: deque[_PendingRecord] = deque()
        self._in_flight: deque[_PendingRecord] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._intake_lock = asyncio.Lock()

    @property
    def refusal(self) -> str | None:
        """The reason for which new records are refused; None if they are accepted.

        They are accepted while Kafka acknowledges directly, or the spool has room and its disk did
        not refuse the last write.
        """
        if self._wakeup.is_stopping:
            return _STOPPING
        if not self.spooling and self._producer.acknowledged_at >= self._producer.refused_at:
            return None
        room = min(_MIN_FREE_BYTES, self._spool.max_bytes // 10)
        return self._spool.failure or self._spool.shortage(room)

    @property
    def _is_kafka_away(self) -> bool:
        silence_s = self._limits.probe_timeout_s
        return self._producer.is_away(silence_s) or self._drain.silence_s() >= silence_s

    async def put(self, records: Sequence[Record]) -> None:
        """Return once all of these are durable, in this order.

        Raises BackpressureError (too many records wait), DeliveryInterruptedError (delivery stops
        or restarts), SpoolFullError (Kafka is away and the spool is full), or SpoolError (the disk
        fails). Some records may be durable, so a retry must use the same event ids.
        """
        if not records:
            return
        if self._wakeup.is_stopping:
            raise DeliveryInterruptedError(_STOPPING)
        if self._waiting >= self._max_waiting or len(self._queue) >= self._limits.max_queued:
            raise BackpressureError("too many records are waiting")
        if self.spooling and self._is_kafka_away:
            shortage = self._spool.shortage(sum(record.size for record in records))
            if shortage is not None:
                raise SpoolFullError(f"Kafka is unreachable and {shortage}")
        loop, now = asyncio.get_running_loop(), time.monotonic()
        batch = [_PendingRecord(record, loop.create_future(), now) for record in records]
        for pending in batch:
            pending.ack.add_done_callback(_retrieve_exception)
        self._queue.extend(batch)
        self._arrived.set()
        self._wakeup.notify()
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
        retry_disk = asyncio.create_task(self._retry_disk())
        while not self._wakeup.is_stopping:
            try:
                await self._deliver_through_spool()
                await self._deliver_directly()
            except Exception as error:  # noqa: BLE001 - the task's top: begin again from disk
                self._log.error(
                    "unhandled exception",
                    exc_info=error,
                    **{key.DETAIL: "delivery restarts from the spool"},
                )
                self._reset(error)
                await self._wakeup.sleep(self._backoff.next_delay_s())
        retry_disk.cancel()
        await self._shut_down()

    def stop(self) -> None:
        """End `run` soon, after it made all records that wait durable.

        From now on `put` raises DeliveryInterruptedError, unless it gets no records.
        """
        self._wakeup.stop()

    # --- directly to Kafka ---

    async def _deliver_directly(self) -> None:
        """Send queued records to Kafka, until one fails or a stop.

        A record also fails if the producer does not accept it, or Kafka does not acknowledge it,
        within `ack_wait_s`. If the spool was left because it cannot be read, returns after
        `reread_s` too, once no record is in flight.
        """
        if self._wakeup.is_stopping:
            return
        self._set_phase(spooling=False)
        until = time.monotonic() + self._limits.reread_s if self._spool.depth else math.inf
        while not self._wakeup.is_stopping:
            while self._in_flight and self._in_flight[0].is_acknowledged:
                self._in_flight.popleft()
            ack_time_left_s = self._ack_time_left_s()
            if self._producer.failure is not None:
                return
            if ack_time_left_s <= 0:
                self._producer.refused_at = time.monotonic()
                return
            ends = time.monotonic() >= until
            if ends and not self._in_flight:
                return
            if ends or not self._queue or len(self._in_flight) >= self._limits.max_in_flight:
                left_s = ack_time_left_s if ends else until - time.monotonic()
                await self._wakeup.wait(min(ack_time_left_s, left_s))
                if self._queue:
                    await asyncio.sleep(self._limits.linger_s)
                continue
            pending = self._queue[0]
            pending.delivery = await self._producer.send(
                pending.record, partial(self._acknowledge, pending, DurableIn.KAFKA)
            )
            if pending.delivery is None:
                return
            pending.sent_at = time.monotonic()
            self._in_flight.append(self._queue.popleft())

    def _ack_time_left_s(self) -> float:
        """Return the seconds until the oldest record in flight is overdue; negative after that.

        `ack_wait_s` if no record is in flight.
        """
        if not self._in_flight:
            return self._ack_wait_s
        return self._in_flight[0].sent_at + self._ack_wait_s - time.monotonic()

    # --- through the spool ---

    async def _deliver_through_spool(self) -> None:
        """Spool records and send the spool to Kafka in order, until it is empty or a stop.

        First the records in flight without an acknowledgement are spooled, then all records that
        arrive.
        """
        self._set_phase(spooling=True)
        self._drain.restart()
        unacknowledged = [pending for pending in self._in_flight if not pending.is_acknowledged]
        self._in_flight.clear()
        try:
            spooled = await self._append_to_spool(unacknowledged)
        except SpoolError as error:
            self._requeue(unacknowledged, error)
        else:
            for one, pending in zip(spooled, unacknowledged, strict=True):
                assert pending.delivery is not None
                self._drain.add_sent(one, pending.delivery)
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
                is_spooled = await self._spool_next()
            self._wakeup.notify()
            if not is_spooled:
                await asyncio.sleep(_PAST_SPOOL_WAIT_S)

    async def _spool_next(self) -> bool:
        """Move the next queued records to the spool.

        Return False, and leave them in the queue, if the spool refuses them while Kafka responds:
        they are sent directly, after the whole spool.
        """
        batch = list(islice(self._queue, _MAX_APPEND_RECORDS))
        if not self._is_kafka_away and (
            self._spool.failure or self._spool.shortage(sum(one.record.size for one in batch))
        ):
            return False
        for _ in batch:
            self._queue.popleft()
        try:
            await self._append_to_spool(batch)
        except SpoolError as error:
            return self._requeue(batch, error)
        if not self._queue:
            self._arrived.clear()
        return True

    def _requeue(self, batch: Sequence[_PendingRecord], error: SpoolError) -> bool:
        """Put records that the spool refused back into the queue if Kafka responds.

        Return True, and fail them, if it does not.
        """
        if self._is_kafka_away:
            self._refuse(batch, error)
            return True
        self._queue.extendleft(reversed(batch))
        self._arrived.set()
        return False

    def _refuse(self, batch: Sequence[_PendingRecord], error: SpoolError) -> None:
        """Fail records that become durable nowhere; their senders get the error."""
        if batch:
            self._log.error(
                "records refused: cannot write the spool; check the disk of the data directory",
                **{key.DETAIL: str(error), key.COUNT: len(batch)},
            )
        _fail_pending(batch, error)

    async def _append_to_spool(self, batch: Sequence[_PendingRecord]) -> list[Spooled]:
        """Write records to the spool, acknowledge them, and return them with sequence numbers.

        Raises SpoolError; then none is written. On any other exception the senders get
        DeliveryInterruptedError, and it is raised.
        """
        if not batch:
            return []
        records = [pending.record for pending in batch]
        try:
            sequences = await self._disk.run(self._spool.append, records, datetime.now(UTC))
        except SpoolError:
            raise
        except BaseException:
            _fail_pending(batch, DeliveryInterruptedError(_RESTARTING))
            raise
        for one in batch:
            self._acknowledge(one, DurableIn.SPOOL)
        return [Spooled(*pair) for pair in zip(sequences, records, strict=True)]

    async def _send_spool(self, writer: "asyncio.Task[None]") -> None:
        """Send the spool to Kafka, until it is empty with the intake paused, or a stop.

        Also returns if `writer`, the task of `_spool_queue`, fails; the caller awaits it. Returns
        with a spool that is not empty if it cannot be read and Kafka responds.
        """
        while not self._wakeup.is_stopping and not writer.done():
            if self._producer.failure is not None:
                await self._drain.replace_producer()
            if not await self._producer.connect(self._spool.depth):
                continue
            try:
                is_all_sent = await self._drain.send()
                if is_all_sent and self._can_drain and await self._drain_with_intake_paused(writer):
                    return
            except SpoolError as error:
                self._log.error(
                    "cannot read the spool; retrying; check the disk of the data directory",
                    **{key.DETAIL: str(error)},
                )
                await self._drain.delete_delivered()
                await self._wakeup.sleep(self._backoff.next_delay_s())
                if self._can_drain and not self._drain.has_in_flight:
                    return
            await self._wakeup.wait(self._limits.wake_interval_s)

    @property
    def _can_drain(self) -> bool:
        """True if pausing the intake to drain the spool can succeed.

        After a timeout, a record must be acknowledged first: otherwise the phases alternate, and
        waiting records never become durable.
        """
        if self._producer.is_away(self._limits.probe_timeout_s):
            return False
        acknowledged_s = time.monotonic() - self._producer.acknowledged_at
        return acknowledged_s < self._limits.wake_interval_s or not self._drain.has_in_flight

    async def _drain_with_intake_paused(self, writer: "asyncio.Task[None]") -> bool:
        """Pause the intake and send the rest of the spool; return True if it is empty in time.

        Then `writer` is cancelled. False if a record fails or the spool is not empty within 0.25 s.
        """
        async with self._intake_lock:
            until = time.monotonic() + _DRAIN_TIMEOUT_S
            while True:
                # Send again: records arrived before the intake was paused.
                await self._drain.send()
                if not self._spool.depth:
                    # Under the lock: the writer waits for it, so it holds no records.
                    writer.cancel()
                    return True
                left_s = until - time.monotonic()
                if self._producer.failure or left_s <= 0:
                    return False
                await self._wakeup.wait(left_s)

    # --- both phases ---

    async def _retry_disk(self) -> None:
        """Write to the spool again while its disk refuses, until cancelled.

        Logs when the disk begins to refuse, and when it accepts again.
        """
        refused = False
        while True:
            await asyncio.sleep(self._limits.disk_retry_s)
            if self._spool.failure is None and not self._spool.undeleted and not refused:
                continue
            failure = self._spool.failure
            if failure is not None and not refused:
                self._log.error(
                    "spool not writable; retrying; check the disk of the data directory",
                    **{key.DETAIL: failure, key.COUNT: self._spool.undeleted},
                )
            elif failure is None and refused:
                self._log.info("spool writable again", **{key.COUNT: self._spool.depth})
            refused = failure is not None
            try:
                await self._disk.run(self._spool.retry)
            except Exception as error:  # noqa: BLE001 - the task's top: continues
                self._log.error("unhandled exception", exc_info=error)

    def _set_phase(self, *, spooling: bool) -> None:
        if spooling is not self.spooling:
            phase = "spooled" if spooling else "direct"
            self._log.info("delivery mode changed", **{key.OUTCOME: phase})
        self.spooling = spooling
        self._metrics.set_spooling(spooling=spooling)

    def _acknowledge(self, pending: _PendingRecord, durable_in: DurableIn) -> None:
        """Report a record as durable to its sender and count it, unless that was done before."""
        if not pending.ack.done():
            pending.ack.set_result(durable_in)
            duration_s = time.monotonic() - pending.accepted_at
            self._metrics.observe_durable(pending.record.topic, durable_in, duration_s)

    def _reset(self, error: BaseException) -> None:
        """Fail all waiting calls of `put` after a bug; `run` sends the spool again.

        The calls raise DeliveryInterruptedError; `error` is kept as the producer's failure.
        """
        self._producer.failure = error
        self.spooling = True
        _fail_pending([*self._in_flight, *self._queue], DeliveryInterruptedError(_RESTARTING))
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
        batch = [*rest, *self._queue]
        self._queue.clear()
        try:
            await self._append_to_spool(batch)
        except SpoolError as error:
            self._refuse(batch, error)
        await self._drain.delete_delivered()
        await self._producer.close()
        await self._disk.close()


def _retrieve_exception(ack: "asyncio.Future[DurableIn]") -> None:
    """Retrieve the exception so asyncio does not warn when the request was cancelled."""
    if not ack.cancelled():
        ack.exception()


def _fail_pending(batch: Sequence[_PendingRecord], error: Exception) -> None:
    for pending in batch:
        if not pending.ack.done():
            pending.ack.set_exception(error)
