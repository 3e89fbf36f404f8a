"""What a rebalance sees of a batch, whenever it begins."""

import asyncio
from collections.abc import Mapping
from typing import Any

from faust.types import TP

from pipeline.processors.batch_consumer import BatchConsumer, Batches

READY, EARLY = TP("drydock.inventory.v1", 0), TP("drydock.inventory.v1", 1)


class SlowHandler:
    """Takes what is ready, and takes its time."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.taken: list[set[TP]] = []

    def is_ready(self, tp: TP) -> bool:
        return tp == READY

    def poll_timeout_s(self) -> float:
        return 0.0

    async def process_batches(self, batches: Batches, _: object) -> Mapping[TP, int]:
        self.taken.append(set(batches))
        await self.may_end.wait()
        return dict.fromkeys(batches, 1)

    def abandon_batch(self) -> None:
        raise AssertionError("it is waited for")


class Pump(BatchConsumer):
    """The pump alone, without a group: partitions cannot be sought in while they change hands."""

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


def test_a_rebalance_waits_for_a_batch_that_came_with_early_records() -> None:
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
        assert handler.taken == [{READY}]
        pump.may_seek.set()
        await pumping
        assert pump._done == {READY: 1}

    asyncio.run(work())
