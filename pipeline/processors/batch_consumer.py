"""Faust's consumer with a pump that hands over batches, for faust-streaming 0.15.3.

Faust hands records to its streams one by one, which costs about 100 microseconds each and bounds
a worker at a few thousand reports a second; and it commits what its agents acknowledge, which
includes what failed (docs/decisions/0006). This keeps Faust's membership, assignment and
rebalancing and replaces the pump and the commit:

- `_drain_messages` fetches as Faust does, and gives all records of a fetch to a `Taker`;
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

from aiokafka.structs import ConsumerRecord  # type: ignore[import-untyped]
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP
from mode import Service

_COMMIT_EVERY_S: Final = 1.0
Batches = Mapping[TP, Sequence[ConsumerRecord]]


class Taker(Protocol):
    """Who does the work. `take` is never called twice at a time."""

    def is_ready(self, tp: TP) -> bool:
        """Whether records of this partition may be handed over."""

    def patience_s(self) -> float:
        """How long to wait for records before `take` is called with none."""

    async def take(self, batches: Batches) -> Mapping[TP, int]:
        """Make records durable with all that follows from them, and give the offsets to go on
        from. Also called with nothing, so that what is due gets done. An exception stops the
        worker with nothing of the batch committed."""

    def give_up(self) -> None:
        """The partitions are lost: the `take` under way should end soon, however it ends."""


class BatchConsumer(Consumer):
    """A Faust consumer, all of whose topics go to one Taker."""

    def __init__(self, *args: Any, taker: Taker, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taker = taker
        self._under_way: asyncio.Task[Mapping[TP, int]] | None = None
        self._done: dict[TP, int] = {}
        self._told: dict[TP, int] = {}
        self._committing = asyncio.Lock()
        self._commit_at = 0.0
        self.settle_within_s = self.app.conf.broker_rebalance_timeout / 2

    # --- the pump ---

    async def _drain_messages(self, fetcher: Service) -> None:  # type: ignore[override]
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self.sleep(0)
                records, _ = await self._wait_next_records(self._taker.patience_s())
                if records is None or self.should_stop:
                    continue
                if not self.flow_active:
                    # As Faust's own pump: what came while a rebalance began is read again.
                    await self.perform_seek()
                    continue
                await self._hand_over(records)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _hand_over(self, records: Mapping[TP, Sequence[ConsumerRecord]]) -> None:
        batches: dict[TP, Sequence[ConsumerRecord]] = {}
        for tp, some in records.items():
            if self._taker.is_ready(tp):
                batches[tp] = some
            elif some and tp in self.assignment():
                self.pause_partitions({tp})
                await self.seek(tp, some[0].offset)
        self._under_way = asyncio.create_task(self._take(batches))
        # Whoever cancels the pump does not cancel what it began: `wait_empty` waits for it.
        await asyncio.shield(self._under_way)
        if monotonic() >= self._commit_at:
            await self.commit_done()

    async def _take(self, batches: Batches) -> Mapping[TP, int]:
        done = await self._taker.take(batches)
        self._done |= done
        return done

    # --- offsets ---

    async def commit_done(self) -> None:
        """Commit all that was taken and is not committed yet."""
        async with self._committing:
            assigned = self.assignment()
            offsets = {
                tp: offset
                for tp, offset in self._done.items()
                if tp in assigned and self._told.get(tp) != offset
            }
            if offsets and await self._commit(offsets):
                self._told |= offsets
            self._commit_at = monotonic() + _COMMIT_EVERY_S

    def position_of(self, tp: TP) -> int | None:
        """The offset to go on from, None before anything was taken."""
        return self._done.get(tp)

    async def wait_empty(self) -> None:
        """Wait for the batch under way and commit it; called before partitions are let go."""
        await self._settle()
        await self.commit_done()
        await super().wait_empty()

    async def _settle(self) -> None:
        task = self._under_way
        if task is None or task.done():
            return
        _, pending = await asyncio.wait({task}, timeout=self.settle_within_s)
        if pending:
            self._taker.give_up()
            await asyncio.wait({task}, timeout=self.settle_within_s)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let partitions go: what was taken of them is committed by then."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._done.pop(tp, None)
            self._told.pop(tp, None)

    # --- which partitions are read ---

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Read on, where the Taker is ready: Faust resumes all at the end of a rebalance."""
        super().resume_partitions({tp for tp in tps if self._taker.is_ready(tp)})

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust looks for acknowledged messages here, and there are none: see `health`."""
