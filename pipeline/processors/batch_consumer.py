"""Faust's consumer with a pump that hands over batches, for faust-streaming 0.15.3.

Faust hands records to its streams one by one, which costs about 100 microseconds each and bounds
a worker at a few thousand reports a second; and it commits what its agents acknowledge, which
includes what failed (docs/decisions/0006). This keeps Faust's membership, assignment and
rebalancing and replaces the pump and the commit:

- `_drain_messages` fetches as Faust does, and gives all records of a fetch to a `BatchHandler`;
- an offset is committed only once `take` has returned it;
- a rebalance, a stop or a lost assignment waits in `wait_empty` for the batch under way, commits
  it, and only then lets the partitions go;
- records of a partition that is not ready yet are sought back to, never dropped.

Overridden, and called, are private names of Faust. `tests/unit/processors/test_faust_names.py`
fails when they change.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol

from aiokafka.errors import IllegalStateError  # type: ignore[import-untyped]
from aiokafka.structs import ConsumerRecord  # type: ignore[import-untyped]
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import TP
from mode import Service

_COMMIT_INTERVAL_S: Final = 1.0
# Faust asks a broker to hold back an empty answer for 1.5 s, and a partition that is not in that
# request waits for it: nothing would be heard of within less.
_FETCH_WAIT_MS: Final = 100
_POSITION_TIMEOUT_S: Final = 1.0
Batches = Mapping[TP, Sequence[ConsumerRecord]]


class Group(Protocol):
    """What a Taker may ask of the group while it takes."""

    async def is_member(self) -> bool:
        """Whether the group still counts this worker in."""

    async def position(self, tp: TP) -> int:
        """The offset of the next record of a partition of which none is under way."""


class BatchHandler(Protocol):
    """Who does the work. `take` is never called twice at a time."""

    def is_ready(self, tp: TP) -> bool:
        """Whether records of this partition may be handed over."""

    def poll_timeout_s(self) -> float:
        """How long to wait for records before `take` is called with none."""

    async def process_batches(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        """Make records durable with all that follows from them, and give the offsets to go on
        from. Also called with nothing, so that what is due gets done. An exception stops the
        worker with nothing of the batch committed."""

    def abandon_batch(self) -> None:
        """The partitions are lost: the `take` under way should end soon, however it ends."""


class _Thread(AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        return consumer


class BatchConsumer(Consumer):
    """A Faust consumer, all of whose topics go to one Taker."""

    def __init__(self, *args: Any, handler: BatchHandler, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batch_handler = handler
        self._batch_task: asyncio.Task[Mapping[TP, int]] | None = None
        # Of each partition, the offset before which all is taken, and the one that was committed.
        self._done: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}
        self._assignments = 0
        self._needs_seek = False
        self._commit_lock = asyncio.Lock()
        self._commit_at = 0.0
        self._membership_confirmed_at = monotonic()
        # A member that was silent for longer than the session is none; half of it is cautious.
        self.membership_valid_s = self.app.conf.broker_session_timeout / 2
        self.settle_within_s = self.app.conf.broker_rebalance_timeout / 2

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    # --- the pump ---

    async def _drain_messages(self, fetcher: Service) -> None:  # type: ignore[override]
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self.sleep(0)
                records = await self._next_batch()
                if self.should_stop:
                    continue
                if not self.flow_active:
                    # As Faust's own pump: what came while a rebalance began is read again.
                    self._needs_seek = True
                    continue
                await self._start_batch(records)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _next_batch(self) -> Mapping[TP, Sequence[ConsumerRecord]]:
        poll_timeout_s = self._batch_handler.poll_timeout_s()
        if self.flow_active and (
            not self._get_active_partitions()
            or (self._needs_seek and not await self._seek_to_last_commit())
        ):
            # Faust would sleep for a second, however soon a partition is ready.
            await self.sleep(poll_timeout_s)
            return {}
        records, _ = await self._wait_next_records(poll_timeout_s)
        return records or {}

    async def _seek_to_last_commit(self) -> bool:
        """Go back to what is committed, for records were fetched that nobody took; False to try
        again later."""
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - partitions come and go while it is asked
            self.log.warning("cannot go back to the committed offsets: %r", error)
            return False
        self._needs_seek = False
        return True

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to the committed offsets, and to the beginning where there is none.

        The client stays where it is in a partition that was never committed, although what was
        fetched of it may never have been taken.
        """
        committed = await super().seek_to_committed()
        start = {TP(*tp): offset for tp, offset in committed.items() if offset}
        unknown = [tp for tp, offset in committed.items() if not offset]
        if unknown:
            earliest = await self.earliest_offsets(*unknown)
            await self.seek_wait(earliest)
            start |= {TP(*tp): offset for tp, offset in earliest.items()}
        self._done = start
        self._committed = dict(start)
        return committed

    async def _start_batch(self, records: Mapping[TP, Sequence[ConsumerRecord]]) -> None:
        batches = {
            tp: some for tp, some in records.items() if some and self._batch_handler.is_ready(tp)
        }
        early = {tp: some for tp, some in records.items() if some and tp not in batches}
        # Nothing is waited for between the look at `flow_active` and this: a rebalance that began
        # in between would not know of the batch.
        self._batch_task = asyncio.create_task(self._process_batch(batches, self._assignments))
        if early:
            self.pause_partitions(early)
            await self._put_back(early)
        # Whoever cancels the pump does not cancel what it began: `wait_empty` waits for it.
        done = await asyncio.shield(self._batch_task)
        await self._put_back({tp: some for tp, some in batches.items() if tp not in done})
        if monotonic() >= self._commit_at:
            await self.commit_done()

    async def _put_back(self, batches: Batches) -> None:
        """Have these records read again."""
        assigned = self.assignment()
        offsets = {tp: some[0].offset for tp, some in batches.items() if tp in assigned}
        if offsets:
            try:
                await self.seek_wait(offsets)
            except Exception as error:  # noqa: BLE001 - as in `_seek_to_last_commit`
                self.log.warning("cannot seek back: %r", error)
                self._needs_seek = True

    async def _process_batch(self, batches: Batches, assignment: int) -> Mapping[TP, int]:
        done = await self._batch_handler.process_batches(batches, self)
        if assignment == self._assignments:
            self._done |= done
        return done

    # --- offsets ---

    async def commit_done(self) -> None:
        """Commit all that was taken and is not committed yet."""
        async with self._commit_lock:
            assigned = self.assignment()
            offsets = {
                tp: offset
                for tp, offset in self._done.items()
                if tp in assigned and self._committed.get(tp) != offset
            }
            if offsets and await self._commit_as_member(offsets):
                self._committed |= offsets
            self._commit_at = monotonic() + _COMMIT_INTERVAL_S

    async def _commit_as_member(self, offsets: Mapping[TP, int]) -> bool:
        asked_at = monotonic()
        committed: bool = await self._commit(offsets)
        if committed:
            self._membership_confirmed_at = asked_at
        return committed

    async def is_member(self) -> bool:
        """Whether the group still counts this worker in: brokers take no offset of another.

        Asked before anything is written, where the last answer is not a fresh one. A process that
        was stopped for longer than its session finds out here that its partitions are another's.
        """
        if monotonic() - self._membership_confirmed_at < self.membership_valid_s:
            return True
        async with self._commit_lock:
            assigned = self.assignment()
            offsets = {tp: offset for tp, offset in self._done.items() if tp in assigned}
            return await self._commit_as_member(offsets)

    async def position(self, tp: TP) -> int:
        """The offset of the next record of a partition of which none is under way; behind all that
        is no record, as the ends of transactions are. 0 where it cannot be told yet."""
        try:
            return await asyncio.wait_for(super().position(tp), _POSITION_TIMEOUT_S) or 0
        except (IllegalStateError, TimeoutError):  # it is being let go
            return 0

    def position_of(self, tp: TP) -> int | None:
        """Up to where records are taken, None before that is known."""
        return self._done.get(tp)

    async def wait_empty(self) -> None:
        """Wait for the batch under way and commit it; called before partitions are let go."""
        await self._wait_for_batch()
        await self.commit_done()
        await super().wait_empty()

    async def _wait_for_batch(self) -> None:
        task = self._batch_task
        if task is None or task.done():
            return
        _, pending = await asyncio.wait({task}, timeout=self.settle_within_s)
        if pending:
            self._batch_handler.abandon_batch()
            await asyncio.wait({task}, timeout=self.settle_within_s)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let partitions go: what was taken of them is committed by then."""
        await super().on_partitions_revoked(revoked)
        self._assignments += 1
        for tp in revoked:
            self._done.pop(tp, None)
            self._committed.pop(tp, None)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Take partitions: to be given any is to be a member."""
        self._membership_confirmed_at = monotonic()
        await super().on_partitions_assigned(assigned, generation_id)

    # --- which partitions are read ---

    def assigned(self) -> set[TP]:
        """The input partitions of this worker; none before it has joined."""
        try:
            return self.assignment()
        except ConsumerNotStarted:
            return set()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Read on, where the Taker is ready: Faust resumes all at the end of a rebalance."""
        super().resume_partitions({tp for tp in tps if self._batch_handler.is_ready(tp)})

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust looks for acknowledged messages here, and there are none: see `health`."""
