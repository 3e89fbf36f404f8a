"""What a rebalance sees of a batch, whenever it begins."""

import asyncio
from collections.abc import Mapping
from typing import Any

from faust.types import TP

from pipeline.processors.batch_consumer import BatchConsumer, Batches

READY, EARLY = TP("drydock.inventory.v1", 0), TP("drydock.inventory.v1", 1)


class Slow:
    """Takes what is ready, and takes its time."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.taken: list[set[TP]] = []

    def is_ready(self, tp: TP) -> bool:
        return tp == READY

    def patience_s(self) -> float:
        return 0.0

    async def take(self, batches: Batches, _: object) -> Mapping[TP, int]:
        self.taken.append(set(batches))
        await self.may_end.wait()
        return dict.fromkeys(batches, 1)

    def give_up(self) -> None:
        raise AssertionError("it is waited for")


class Pump(BatchConsumer):
    """The pump alone, without a group: partitions cannot be sought in while they change hands."""

    def __init__(self, taker: Slow) -> None:
        self._taker = taker
        self._under_way = None
        self._assignments = 0
        self._done, self._told = {}, {}
        self._commit_at = float("inf")
        self.settle_within_s = 60.0
        self.may_seek = asyncio.Event()

    def pause_partitions(self, _: object) -> None: ...

    async def _put_back(self, batches: Batches) -> None:
        if batches:
            await self.may_seek.wait()


def test_a_rebalance_waits_for_a_batch_that_came_with_early_records() -> None:
    async def work() -> None:
        taker = Slow()
        pump = Pump(taker)
        records: Any = {READY: ["record"], EARLY: ["record"]}
        pumping = asyncio.create_task(pump._hand_over(records))
        await asyncio.sleep(0)
        settled = asyncio.create_task(pump._settle())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not settled.done()
        taker.may_end.set()
        await settled
        assert taker.taken == [{READY}]
        pump.may_seek.set()
        await pumping
        assert pump._done == {READY: 1}

    asyncio.run(work())
