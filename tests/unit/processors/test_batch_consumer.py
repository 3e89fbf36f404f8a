"""A rebalance waits for the current batch, at whatever moment it begins."""

import asyncio
from collections.abc import Mapping
from typing import Any

from faust.types import TP

from pipeline.processors.batch_consumer import BatchConsumer, Batches

READY, EARLY = TP("drydock.inventory.v1", 0), TP("drydock.inventory.v1", 1)


class SlowHandler:
    """Processes ready partitions; a batch ends when the event is set."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.processed: list[set[TP]] = []

    def is_ready(self, tp: TP) -> bool:
        return tp == READY

    def poll_timeout_s(self) -> float:
        return 0.0

    async def process_batches(self, batches: Batches, _: object) -> Mapping[TP, int]:
        self.processed.append(set(batches))
        await self.may_end.wait()
        return dict.fromkeys(batches, 1)

    def abandon_batch(self) -> None:
        raise AssertionError("the batch is not abandoned")


class Pump(BatchConsumer):
    """The pump alone, without a group; a seek waits, as it does during a rebalance."""

    def __init__(self, handler: SlowHandler) -> None:
        self._batch_handler = handler
        self._batch_task = None
        self._assignments = 0
        self._done, self._committed = {}, {}
        self._commit_at = float("inf")
        self.settle_within_s = 60.0
        self.may_seek = asyncio.Event()

    def pause_partitions(self, _: object) -> None: ...

    async def _put_back(self, batches: Batches) -> None:
        if batches:
            await self.may_seek.wait()


def test_a_rebalance_waits_for_a_batch_fetched_with_records_of_an_unready_partition() -> None:
    async def work() -> None:
        handler = SlowHandler()
        pump = Pump(handler)
        records: Any = {READY: ["record"], EARLY: ["record"]}
        pumping = asyncio.create_task(pump._start_batch(records))
        await asyncio.sleep(0)
        settled = asyncio.create_task(pump._wait_for_batch())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not settled.done()
        handler.may_end.set()
        await settled
        assert handler.processed == [{READY}]
        pump.may_seek.set()
        await pumping
        assert pump._done == {READY: 1}

    asyncio.run(work())
