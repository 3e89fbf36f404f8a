"""Faust's consumer with a pump that passes on whole batches, for faust-streaming 0.15.3.

Faust passes records to its streams one by one. That costs about 100 microseconds a record and
limits a worker to a few thousand reports a second. Faust also commits records on
which its agents failed (docs/decisions/0006). This class keeps Faust's membership, assignment
and rebalancing, and replaces the pump and the commit.

Two offsets describe each assigned partition:

| offset | set by | meaning |
| --- | --- | --- |
| done | `process_batches` returns it | every record before it is durable, with all that follows |
| committed | the brokers confirm a commit | a new owner reads from here |

| event | effect |
| --- | --- |
| records fetched, partition ready | all of one fetch go to one call of `process_batches` |
| records fetched, partition not ready | the partition is paused; seek back to the first of them |
| records fetched during a rebalance | dropped; seek to the committed offsets, then fetch |
| records deleted before they were fetched | reported to the handler |
| rebalance, stop | `wait_empty`: the current batch ends, `done` is committed; Faust continues |
| partitions revoked | both offsets are forgotten; a batch that ends later sets no `done` |

Invariant: committed <= done; a record from `done` on is in the current batch, or is fetched later.

The class overrides and calls private names of Faust. `tests/unit/processors/test_faust_names.py`
fails when they change.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol

from aiokafka.errors import (  # type: ignore[import-untyped]
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
)
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata  # type: ignore[import-untyped]
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers.aiokafka import (
    AIOKafkaConsumerThread,
    Consumer,
    ensure_aiokafka_TP,
)
from faust.types import TP
from mode import Service

from runtime.offset_gaps import COMMIT_METADATA
from runtime.retry import BROKER, Backoff
from schemas import logkeys as key

_COMMIT_INTERVAL_S: Final = 1.0
# Faust lets a broker delay an empty response for 1.5 s. A partition that is not part of that
# request waits for the response: its records would be up to 1.5 s late.
_FETCH_WAIT_MS: Final = 100
_POSITION_TIMEOUT_S: Final = 1.0
Batches = Mapping[TP, Sequence[ConsumerRecord]]


class Group(Protocol):
    """The consumer group, as a handler sees it while it processes a batch."""

    async def is_member(self) -> bool:
        """Return True if this worker is still a member of the group; may commit to find out.

        False if that commit fails.
        """

    async def position(self, tp: TP) -> int:
        """Return the next offset to fetch, past transaction markers; 0 if unknown.

        Call it only when no record of the partition is being processed.
        """


class BatchHandler(Protocol):
    """Processes the records. `process_batches` is never called again before it has returned."""

    def is_ready(self, tp: TP) -> bool:
        """Return True if records of this partition can be processed now."""

    def poll_timeout_s(self) -> float:
        """Return the seconds to wait for records before `process_batches` is called without any."""

    async def process_batches(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        """Make records durable with all that follows from them; return the next offsets to read.

        A partition that is missing in the result is read again from the batch's first record.
        Also called without records, so that due work is done. An exception stops the worker;
        nothing of the batch is committed.
        """

    def report_deleted(self, tp: TP, begin: int) -> None:
        """Report that all records before `begin` are deleted, and not all of them were read."""

    def abandon_batch(self) -> None:
        """Ask the running `process_batches` to end soon: its partitions get another owner.

        It may complete, return fewer offsets, or raise.
        """


class _Thread(AIOKafkaConsumerThread):
    async def on_start(self) -> None:
        """Start the consumer; wait while no broker can be reached, until the service stops.

        Other clients of this process have reached the brokers a moment before.
        """
        backoff = Backoff(BROKER)
        while not self.should_stop:
            try:
                await super().on_start()
            except KafkaConnectionError as error:
                self.log.warning("no Kafka, trying again", extra={key.DETAIL: repr(error)})
                await self._ensure_consumer().stop()
                await self.sleep(backoff.next_delay_s())
            else:
                return

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        return consumer

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit with COMMIT_METADATA; return False if that fails.

        Faust's method leaves the metadata empty, and ends the process after any failure but one.
        """
        commits = {
            ensure_aiokafka_TP(tp): OffsetAndMetadata(offset, COMMIT_METADATA)
            for tp, offset in offsets.items()
        }
        try:
            await self._ensure_consumer().commit(commits)
        except (KafkaError, IllegalStateError) as error:
            self.log.warning("offsets not committed", extra={key.DETAIL: repr(error)})
            return False
        return True


class BatchConsumer(Consumer):
    """A Faust consumer that passes the records of all topics to one handler."""

    def __init__(self, *args: Any, handler: BatchHandler, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batch_handler = handler
        self._batch_task: asyncio.Task[Mapping[TP, int]] | None = None
        self._done: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}
        self._assignments = 0
        self._needs_seek = False
        self._commit_lock = asyncio.Lock()
        self._commit_at = 0.0
        self._membership_confirmed_at = monotonic()
        # The group drops a member without heartbeats for one session; half of it leaves a margin.
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
                    # As in Faust's pump: records that arrive as a rebalance begins are read again.
                    self._needs_seek = True
                    continue
                await self._start_batch(records)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _next_batch(self) -> Mapping[TP, Sequence[ConsumerRecord]]:
        """Return the records of one fetch; empty if there are none, or none may be fetched now."""
        poll_timeout_s = self._batch_handler.poll_timeout_s()
        if self.flow_active and (
            not self._get_active_partitions()
            or (self._needs_seek and not await self._seek_to_last_commit())
        ):
            # Faust would sleep for a full second here, even if a partition is ready sooner.
            await self.sleep(poll_timeout_s)
            return {}
        records, _ = await self._wait_next_records(poll_timeout_s)
        return await self._find_deleted(records or {})

    async def _find_deleted(
        self, records: Mapping[TP, Sequence[ConsumerRecord]]
    ) -> Mapping[TP, Sequence[ConsumerRecord]]:
        """Return the records; report it if others before them were deleted.

        aiokafka continues at the begin of the log, without an error. Offsets are also missing where
        transactions ended. If the begin cannot be read, the records are put back.
        """
        gaps = {
            tp: some[0].offset
            for tp, some in records.items()
            if some
            and self._batch_handler.is_ready(tp)
            and some[0].offset > self._done.get(tp, some[0].offset)
        }
        if not gaps:
            return records
        try:
            begins = await self.earliest_offsets(*gaps)
        except Exception as error:  # noqa: BLE001 - as in `_seek_to_last_commit`
            self.log.warning("cannot read the begin of a log", extra={key.DETAIL: repr(error)})
            await self._put_back(records)
            return {}
        for tp, first in gaps.items():
            begin = min(begins[tp], first)
            if begin > self._done.get(tp, begin) and self._batch_handler.is_ready(tp):
                self._batch_handler.report_deleted(tp, begin)
        return records

    async def _seek_to_last_commit(self) -> bool:
        """Go back to the committed offsets, because fetched records were dropped.

        Returns True on success. After a failure, which is logged, returns False: the next call of
        `_next_batch` tries again.
        """
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - assignments change meanwhile
            self.log.warning(
                "cannot seek to the committed offsets, trying again",
                extra={key.DETAIL: repr(error)},
            )
            return False
        self._needs_seek = False
        return True

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets, and to the beginning of partitions without valid ones.

        Sets done and committed to these positions. Returns the committed offsets as Faust does: 0
        or None for a partition without one.

        aiokafka 0.14.0 does not move in a partition without a committed offset, although records
        fetched from it may not be processed: they would be lost.
        """
        committed = await super().seek_to_committed()
        earliest = await self.earliest_offsets(*committed) if committed else {}
        start = {TP(*tp): max(committed[tp] or 0, begin) for tp, begin in earliest.items()}
        moved = {
            tp: begin for tp, begin in start.items() if not committed[tp] or begin > committed[tp]
        }
        if moved:
            await self.seek_wait(moved)
        self._done = start
        self._committed = dict(start)
        return committed

    async def _start_batch(self, records: Mapping[TP, Sequence[ConsumerRecord]]) -> None:
        batches = {
            tp: some for tp, some in records.items() if some and self._batch_handler.is_ready(tp)
        }
        early = {tp: some for tp, some in records.items() if some and tp not in batches}
        # There must be no `await` between the check of `flow_active` and this line: a rebalance
        # that began in between would not wait for the batch.
        self._batch_task = asyncio.create_task(self._process_batch(batches, self._assignments))
        if early:
            self.pause_partitions(early)
            await self._put_back(early)
        # Cancelling the pump must not cancel the batch: `wait_empty` waits for it.
        done = await asyncio.shield(self._batch_task)
        await self._put_back({tp: some for tp, some in batches.items() if tp not in done})
        if monotonic() >= self._commit_at:
            await self.commit_done()

    async def _put_back(self, batches: Batches) -> None:
        """Seek back to the first record of each partition in `batches`: all are read again.

        Partitions that are no longer assigned are left out. If the seek fails, the pump seeks to
        the committed offsets instead.
        """
        assigned = self.assignment()
        offsets = {tp: some[0].offset for tp, some in batches.items() if some and tp in assigned}
        if offsets:
            try:
                await self.seek_wait(offsets)
            except Exception as error:  # noqa: BLE001 - as in `_seek_to_last_commit`
                self.log.warning("cannot seek back, trying again", extra={key.DETAIL: repr(error)})
                self._needs_seek = True

    async def _process_batch(self, batches: Batches, assignment: int) -> Mapping[TP, int]:
        """Return the next offsets from the handler; they become the done offsets.

        If partitions were revoked since the start, the done offsets stay. `assignment` is the
        number of revocations at the start. An exception of the handler is raised.
        """
        done = await self._batch_handler.process_batches(batches, self)
        if assignment == self._assignments:
            self._done |= done
        return done

    # --- offsets ---

    async def commit_done(self) -> None:
        """Commit the done offsets of assigned partitions that are not committed yet.

        If that fails, a later call tries again.
        """
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
        """Commit the offsets; return True if the brokers accept, which confirms the membership.

        False if the commit fails for any reason.
        """
        asked_at = monotonic()
        committed: bool = await self._commit(offsets)
        if committed:
            self._membership_confirmed_at = asked_at
        return committed

    async def is_member(self) -> bool:
        """Return True if this worker is still a member of the group.

        True without a request if the brokers confirmed it less than half a session ago.

        Call it before each write: a process that was stopped for longer than its session learns
        only here that its partitions have another owner.
        """
        if monotonic() - self._membership_confirmed_at < self.membership_valid_s:
            return True
        return await self.confirm_membership()

    async def confirm_membership(self) -> bool:
        """Return True if the brokers confirm now that this worker is a member of the group.

        The done offsets are committed, and the result is False if that fails: the brokers refuse
        the commit of a worker that is no member.
        """
        async with self._commit_lock:
            assigned = self.assignment()
            offsets = {tp: offset for tp, offset in self._done.items() if tp in assigned}
            return await self._commit_as_member(offsets)

    async def position(self, tp: TP) -> int:
        """Return the next offset to fetch, past transaction markers; 0 if unknown.

        It is unknown without a position after _POSITION_TIMEOUT_S, and while the partition is
        revoked. Call it only when no record of the partition is being processed.
        """
        try:
            return await asyncio.wait_for(super().position(tp), _POSITION_TIMEOUT_S) or 0
        except (IllegalStateError, TimeoutError):  # the partition is being revoked
            return 0

    def position_of(self, tp: TP) -> int | None:
        """Return the done offset of a partition: every record before it is durable.

        None if the partition is not assigned, or its start is not known yet.
        """
        return self._done.get(tp)

    async def wait_empty(self) -> None:
        """Return when the current batch has ended and the done offsets are committed.

        After `settle_within_s` the handler is asked to abandon the batch; after as long again, the
        batch is left running. Faust calls this before partitions change.
        """
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
        """Forget the offsets of revoked partitions; `wait_empty` has committed them before."""
        await super().on_partitions_revoked(revoked)
        self._assignments += 1
        for tp in revoked:
            self._done.pop(tp, None)
            self._committed.pop(tp, None)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Record that the worker is a member now: only a member gets an assignment."""
        self._membership_confirmed_at = monotonic()
        await super().on_partitions_assigned(assigned, generation_id)

    # --- assigned and paused partitions ---

    def assigned(self) -> set[TP]:
        """Return the input partitions of this worker; none before it has joined the group."""
        try:
            return self.assignment()
        except ConsumerNotStarted:
            return set()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume those of `tps` that are ready; Faust passes all at the end of a rebalance."""
        super().resume_partitions({tp for tp in tps if self._batch_handler.is_ready(tp)})

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust looks for acknowledged messages, and there are none. See `health`."""
