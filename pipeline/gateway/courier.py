"""Makes records durable: acknowledged by Kafka, or on disk behind all that waits there.

One task sends, so records of one key keep the order they were given in. There are two modes:

- direct: each record goes to Kafka as it comes;
- through the spool, as soon as Kafka is away, refuses, or lets one record wait too long: all that
  is not acknowledged goes into the spool first, then whatever comes, while the spool's records
  are sent in their order. Direct again once the spool is empty: the last of it is sent while what
  comes waits at the door for a moment; a steady stream would never let it empty otherwise.

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

from pipeline.gateway.link import (
    BusyError,
    Link,
    LinkError,
    Observer,
    Told,
    Where,
    is_acknowledged,
)
from pipeline.gateway.records import Record
from pipeline.gateway.spool import Spool, Spooled, SpoolError, SpoolFullError
from schemas import logkeys as key

_APPEND_AT_ONCE: Final = 500
_READ_AT_ONCE: Final = 200
_READ_BYTES: Final = 16 * 1024 * 1024
_UNDER_WAY: Final = 2000
_MOST_QUEUED: Final = 20_000
_AGAIN_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
# What comes within it goes to a broker in one request. A request for each record costs a broker
# three times as much; the producer's own linger is by partition, and as good as none.
_TOGETHER_S: Final = 0.01
# How long what comes may wait for the last of the spool.
_DOOR_S: Final = 0.25
# How long a link that took nothing has to prove itself, unless it acknowledges something sooner.
_DISTRUST_S: Final = 5.0
# A producer whose records are not decided by then is given up; it may still double some.
_DECIDED_S: Final = 120.0
_LOOK_S: Final = 0.5
# A spool with less is as good as full.
_ROOM_BYTES: Final = 256 * 1024

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Parcel:
    """A record on its way, and what its sender waits for."""

    record: Record
    promise: "asyncio.Future[Where]"
    given_at: float
    sent_at: float = 0.0
    told: Told | None = None

    @property
    def is_acknowledged(self) -> bool:
        return self.told is not None and is_acknowledged(self.told)


@dataclass(slots=True)
class _Drain:
    """How far the spool is sent on the link: up to `upto`, of which `under_way` is undecided."""

    upto: int = 0
    under_way: dict[int, tuple[Spooled, Told]] = field(default_factory=dict)


class Courier:
    """`connect` makes a link, or raises LinkError. `ack_wait_s` is how long a record may be under
    way before it is spooled, `max_waiting` how many calls of `put` may wait, `retry_delays_s` the
    pause after each failure in a row (the last one repeats), `linger_s` the time in which records
    are collected for one request."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Link]],
        spool: Spool,
        observer: Observer,
        log: structlog.typing.FilteringBoundLogger,
        *,
        max_waiting: int,
        ack_wait_s: float,
        retry_delays_s: Sequence[float] = _AGAIN_S,
        linger_s: float = _TOGETHER_S,
    ) -> None:
        self.spooling = True
        self._connect = connect
        self._spool = spool
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="drydock-spool")
        self._observer = observer
        self._log = log
        self._max_waiting = max_waiting
        self._ack_wait_s = ack_wait_s
        self._retry_delays_s = retry_delays_s
        self._linger_s = linger_s
        self._link: Link | None = None
        self._failures = 0
        self._broken: BaseException | None = None
        self._queue: deque[_Parcel] = deque()
        self._flight: deque[_Parcel] = deque()
        self._drain = _Drain()
        self._acknowledged_at = 0.0
        self._refused_at = -_DISTRUST_S
        self._waiting = 0
        self._stopping = False
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._door = asyncio.Lock()

    @property
    def accepts(self) -> bool:
        """Whether records are taken: to Kafka, or with room in the spool."""
        room = min(_ROOM_BYTES, self._spool.max_bytes // 10)
        return not self._stopping and (not self.spooling or self._spool.has_room(room))

    async def put(self, records: Sequence[Record]) -> None:
        """Return once all of these are durable, in this order. Raises BusyError, SpoolError; some
        may be durable nevertheless: what is given again is the same."""
        if not records:
            return
        if self._stopping or self._waiting >= self._max_waiting or len(self._queue) >= _MOST_QUEUED:
            raise BusyError("too much waits")
        if self.spooling and not self._spool.has_room(sum(record.size for record in records)):
            raise SpoolFullError("Kafka is away and the spool is full")
        loop, now = asyncio.get_running_loop(), time.monotonic()
        parcels = [_Parcel(record, loop.create_future(), now) for record in records]
        for parcel in parcels:
            parcel.promise.add_done_callback(_looked_at)
        self._queue.extend(parcels)
        self._arrived.set()
        self._changed.set()
        self._waiting += 1
        try:
            await asyncio.gather(*(parcel.promise for parcel in parcels))
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Serve until `stop`. What a crash left in the spool is sent first."""
        while not self._stopping:
            try:
                if self._link is None or self._broken or self._spool.depth:
                    await self._through_spool()
                else:
                    await self._directly()
                    if not self._stopping:
                        await self._through_spool()
            except Exception as error:  # noqa: BLE001 - the task's top: begin again from disk
                self._log.error("courier failed; begins again from disk", exc_info=error)
                self._give_up(error)
                await asyncio.sleep(self._retry_delays_s[-1])
        await self._leave()

    def stop(self) -> None:
        """Have `run` return soon, with everything that was given durable."""
        self._stopping = True
        self._changed.set()

    # --- straight to Kafka ---

    async def _directly(self) -> None:
        """Send what comes until something is not acknowledged in time, or a stop."""
        self._switch(spooling=False)
        while not self._stopping:
            while self._flight and self._flight[0].is_acknowledged:
                self._flight.popleft()
            patience = self._patience()
            if self._broken or patience <= 0:
                return
            if not self._queue or len(self._flight) >= _UNDER_WAY:
                await self._change(patience)
                if self._queue:
                    await asyncio.sleep(self._linger_s)
            elif await self._hand_over(self._queue[0]):
                self._flight.append(self._queue.popleft())
            else:
                return

    def _patience(self) -> float:
        """How long the oldest record under way may still be."""
        if not self._flight:
            return self._ack_wait_s
        return self._flight[0].sent_at + self._ack_wait_s - time.monotonic()

    async def _hand_over(self, parcel: _Parcel) -> bool:
        told = await self._sent(parcel.record)
        if told is None:
            return False
        parcel.told, parcel.sent_at = told, time.monotonic()
        told.add_done_callback(partial(self._decided, parcel))
        return True

    async def _sent(self, record: Record) -> Told | None:
        """The future of a record the link took; None if it did not in time."""
        assert self._link is not None
        try:
            async with asyncio.timeout(self._ack_wait_s):
                return await self._link.send(record)
        except TimeoutError:
            self._refused_at = time.monotonic()
            return None
        except LinkError as error:
            self._broken = error
            return None

    def _decided(self, parcel: _Parcel | None, told: Told) -> None:
        error = asyncio.CancelledError() if told.cancelled() else told.exception()
        if error is not None:
            self._broken = error
        else:
            self._acknowledged_at = time.monotonic()
            if parcel is not None:
                self._keep_promise(parcel, Where.KAFKA)
        self._changed.set()

    # --- through the spool ---

    async def _through_spool(self) -> None:
        """Spool what is not acknowledged and what comes, send it in order; return when the spool
        is empty, or on a stop."""
        self._switch(spooling=True)
        self._drain = _Drain()
        stranded = [parcel for parcel in self._flight if not parcel.is_acknowledged]
        self._flight.clear()
        for one, parcel in zip(await self._keep(stranded), stranded, strict=False):
            assert parcel.told is not None
            self._drain.upto = one.seq
            self._drain.under_way[one.seq] = (one, parcel.told)
        writer = asyncio.create_task(self._write())
        try:
            await self._send_spool(writer)
        finally:
            async with self._door:
                writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer

    async def _write(self) -> None:
        """Spool what comes, one transaction for all that waits."""
        while True:
            await self._arrived.wait()
            async with self._door:
                count = min(len(self._queue), _APPEND_AT_ONCE)
                parcels = [self._queue.popleft() for _ in range(count)]
                if not self._queue:
                    self._arrived.clear()
                await self._keep(parcels)
            self._changed.set()

    async def _keep(self, parcels: Sequence[_Parcel]) -> list[Spooled]:
        """Have these on disk and tell their senders; their places, none if the disk refused."""
        if not parcels:
            return []
        records = [parcel.record for parcel in parcels]
        try:
            places = await self._on_disk(self._spool.append, records, datetime.now(UTC))
        except SpoolError as error:
            self._log.error("cannot spool", **{key.DETAIL: str(error), key.COUNT: len(records)})
            _break_promises(parcels, error)
            return []
        except BaseException:
            _break_promises(parcels, BusyError("begins again"))
            raise
        for parcel in parcels:
            self._keep_promise(parcel, Where.SPOOL)
        return [Spooled(*pair) for pair in zip(places, records, strict=True)]

    async def _send_spool(self, writer: "asyncio.Task[None]") -> None:
        while not self._stopping:
            if writer.done():
                return  # it failed, and says so to who waits for it
            try:
                if not await self._linked():
                    continue
                rest = await self._send_some()
                await self._forget()
                if not rest and self._flows and await self._empty_behind_door(writer):
                    return
            except SpoolError as error:
                self._log.error("spool", **{key.DETAIL: str(error)})
                self._broken = error
                await asyncio.sleep(self._retry_delays_s[-1])
            await self._change(_LOOK_S)

    @property
    def _flows(self) -> bool:
        """Whether closing the door can be worth it. A link that lately took nothing has to
        acknowledge something first: what waits would go from door to door, and never be durable."""
        now = time.monotonic()
        if self._acknowledged_at <= self._refused_at > now - _DISTRUST_S:
            return False
        return now - self._acknowledged_at < _LOOK_S or not self._drain.under_way

    async def _empty_behind_door(self, writer: "asyncio.Task[None]") -> bool:
        """Let nothing in for a moment; whether all that was in is delivered by then."""
        async with self._door:
            until = time.monotonic() + _DOOR_S
            while self._spool.depth:
                # Again: some came while the door was still open.
                await self._send_some()
                await self._forget()
                left = until - time.monotonic()
                if self._broken or left <= 0:
                    return False
                if self._drain.under_way:
                    await self._change(left)
                    await self._forget()
            # Inside the door: the writer waits in front of it, and takes nothing more.
            writer.cancel()
            return True

    async def _linked(self) -> bool:
        """Whether there is a link that works; tries once to have one."""
        if self._broken is not None:
            await self._drop_link(self._broken)
        if self._link is None:
            try:
                self._link = await self._connect()
            except LinkError as error:
                if self._failures == 0:
                    self._log.warning("Kafka is away", **{key.DETAIL: str(error)})
                wait_s = self._retry_delays_s[min(self._failures, len(self._retry_delays_s) - 1)]
                self._failures += 1
                await self._change_or_stop(wait_s)
                return False
            self._log.info("connected to Kafka", **{key.COUNT: self._spool.depth})
            self._failures = 0
        return True

    async def _drop_link(self, why: BaseException) -> None:
        """Wait until all that was under way is decided, then begin again after what is known."""
        self._log.warning("producer given up", **{key.DETAIL: f"{type(why).__name__}: {why}"})
        until = time.monotonic() + _DECIDED_S
        while not self._stopping and time.monotonic() < until:
            await self._forget()
            if all(told.done() for _, told in self._drain.under_way.values()):
                break
            await self._change(_LOOK_S)
        link, self._link, self._broken = self._link, None, None
        self._drain = _Drain()
        if link is not None:
            await link.close()
        await self._change_or_stop(self._retry_delays_s[0])

    async def _send_some(self) -> bool:
        """Hand over the next of the spool, in order; whether some is left that was not."""
        drain = self._drain
        # The last of before the reading: what is spooled meanwhile is not passed over.
        while drain.upto < (last := self._spool.last) and len(drain.under_way) < _UNDER_WAY:
            read = partial(self._spool.after, most=_READ_AT_ONCE, most_bytes=_READ_BYTES)
            found = await self._on_disk(read, drain.upto)
            if not found:
                drain.upto = last
            for one in found:
                told = await self._sent(one.record)
                if told is None:
                    return True
                drain.upto = one.seq
                drain.under_way[one.seq] = (one, told)
                told.add_done_callback(partial(self._decided, None))
        return drain.upto < self._spool.last

    async def _forget(self) -> None:
        """Take what Kafka has off the disk."""
        under_way = self._drain.under_way
        gone = [one for one, told in under_way.values() if is_acknowledged(told)]
        if gone:
            await self._on_disk(self._spool.forget, gone)
            for one in gone:
                del under_way[one.seq]

    # --- both ---

    def _switch(self, *, spooling: bool) -> None:
        if spooling is not self.spooling:
            self._log.info("spooling" if spooling else "delivering directly")
        self.spooling = spooling
        self._observer.set_spooling(spooling=spooling)

    def _keep_promise(self, parcel: _Parcel, where: Where) -> None:
        if not parcel.promise.done():
            parcel.promise.set_result(where)
            seconds = time.monotonic() - parcel.given_at
            self._observer.durable(parcel.record.topic, where, seconds)

    async def _on_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Where SQLite may wait for the disk."""
        job = partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._disk, job)

    async def _change(self, timeout_s: float) -> None:
        """Wait until something came, was decided or is to end; or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._changed.wait()
        self._changed.clear()

    async def _change_or_stop(self, timeout_s: float) -> None:
        """Wait for so long, or until it is to end."""
        until = time.monotonic() + timeout_s
        while not self._stopping and (left := until - time.monotonic()) > 0:
            await self._change(left)

    def _give_up(self, error: BaseException) -> None:
        """After a bug of ours: nobody is left waiting, what is on disk is sent again."""
        self._broken = error
        self.spooling = True
        _break_promises([*self._flight, *self._queue], BusyError("begins again"))
        self._flight.clear()
        self._queue.clear()

    async def _leave(self) -> None:
        """Have everything durable that was given, then let go."""
        under_way = [one.told for one in self._flight if one.told and not one.told.done()]
        if under_way:
            await asyncio.wait(under_way, timeout=self._ack_wait_s)
        rest = [parcel for parcel in self._flight if not parcel.is_acknowledged]
        await self._keep([*rest, *self._queue])
        self._queue.clear()
        with suppress(SpoolError):
            await self._forget()
        if self._link is not None:
            await self._link.close()
        await self._on_disk(self._spool.close)
        self._disk.shutdown()


def _looked_at(promise: "asyncio.Future[Where]") -> None:
    """Also where its sender is gone."""
    if not promise.cancelled():
        promise.exception()


def _break_promises(parcels: Sequence[_Parcel], error: Exception) -> None:
    for parcel in parcels:
        if not parcel.promise.done():
            parcel.promise.set_exception(error)
