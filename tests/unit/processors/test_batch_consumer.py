"""A rebalance waits for the current batch, at any time at which it begins."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import KafkaConnectionError  # type: ignore[import-untyped]
from faust.types import TP
from mode.utils.logging import CompositeLogger

from pipeline.processors.batch_consumer import BatchConsumer, Batches

READY, EARLY = TP("drydock.inventory.v1", 0), TP("drydock.inventory.v1", 1)


class SlowHandler:
    """Processes ready partitions; a batch ends when the event is set."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.processed: list[set[TP]] = []
        self.deleted: list[tuple[TP, int]] = []

    def is_ready(self, tp: TP) -> bool:
        return tp == READY

    def poll_timeout_s(self) -> float:
        return 0.0

    async def process_batches(self, batches: Batches, _: object) -> Mapping[TP, int]:
        self.processed.append(set(batches))
        await self.may_end.wait()
        return dict.fromkeys(batches, 1)

    def report_deleted(self, tp: TP, begin: int) -> None:
        self.deleted.append((tp, begin))

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
        self.begin: int | None = 0
        self.put_back: list[Batches] = []

    def pause_partitions(self, _: object) -> None: ...

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        if self.begin is None:
            raise KafkaConnectionError
        return dict.fromkeys(partitions, self.begin)

    async def _put_back(self, batches: Batches) -> None:
        if batches:
            self.put_back.append(batches)
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


class Fetched(NamedTuple):
    """A record of which only the offset matters."""

    offset: int


@pytest.mark.parametrize(
    ("tp", "first", "begin", "deleted"),
    [
        pytest.param(READY, 5, 0, [], id="next"),
        pytest.param(READY, 6, 0, [], id="end of a transaction"),
        pytest.param(READY, 6, 4, [], id="old records deleted"),
        pytest.param(READY, 9, 9, [(READY, 9)], id="deleted"),
        pytest.param(READY, 9, 12, [(READY, 9)], id="deleted after the fetch too"),
        pytest.param(READY, 9, 7, [(READY, 7)], id="deleted, then the end of a transaction"),
        pytest.param(EARLY, 9, 9, [], id="not ready"),
    ],
)
def test_records_deleted_before_they_were_fetched_are_reported(
    tp: TP, first: int, begin: int, deleted: list[tuple[TP, int]]
) -> None:
    handler = SlowHandler()
    pump = Pump(handler)
    pump._done, pump.begin = {READY: 5, EARLY: 5}, begin
    records: Any = {tp: [Fetched(first)]}
    assert asyncio.run(pump._find_deleted(records)) == records
    assert handler.deleted == deleted


def test_records_are_put_back_while_the_begin_of_the_log_cannot_be_read() -> None:
    handler = SlowHandler()
    pump = Pump(handler)
    pump._done, pump.begin = {READY: 5}, None
    pump.log = CompositeLogger(logging.getLogger("pump"))
    pump.may_seek.set()
    records: Any = {READY: [Fetched(9)]}
    assert asyncio.run(pump._find_deleted(records)) == {}
    assert pump.put_back == [records]
    assert not handler.deleted
