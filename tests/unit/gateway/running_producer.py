"""A Kafka producer in this process, whose broker can go away, and a runner of delivery tests."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from pipeline.gateway.delivery import DeliveryLimits, StoreAndForwardProducer
from pipeline.gateway.producer import DurableIn
from pipeline.gateway.records import Record
from pipeline.gateway.spool import Spool
from runtime.retry import RetryPolicy
from tests.unit.gateway.fakes import ACK_WAIT_S, TIMEOUT_S, FakeKafka

MIB = 1024 * 1024
RETRY = RetryPolicy(first_s=0.001, max_s=0.001)


class FakeMetrics:
    """The metrics that the producer reported."""

    def __init__(self) -> None:
        self.durable_counts: dict[DurableIn, int] = dict.fromkeys(DurableIn, 0)
        self.spooling: list[bool] = []

    def observe_durable(self, topic: str, durable_in: DurableIn, duration_s: float) -> None:
        assert (topic, duration_s >= 0) == ("drydock.checkins.v1", True)
        self.durable_counts[durable_in] += 1

    def set_spooling(self, *, spooling: bool) -> None:
        self.spooling.append(spooling)


@dataclass
class RunningProducer:
    producer: StoreAndForwardProducer
    spool: Spool
    counts: FakeMetrics


@asynccontextmanager
async def running(
    kafka: FakeKafka,
    folder: Path,
    hook: Callable[[str], None] | None = None,
    *,
    max_bytes: int = MIB,
    max_waiting: int = 1000,
    spool: Spool | None = None,
    **limits: Any,
) -> Any:
    spool = spool or Spool(folder, max_bytes=max_bytes, on_durable_write=hook)
    counts = FakeMetrics()
    log = structlog.wrap_logger(structlog.ReturnLogger())
    producer = StoreAndForwardProducer(
        kafka.connect,
        spool,
        counts,
        log,
        max_waiting=max_waiting,
        ack_wait_s=ACK_WAIT_S,
        limits=DeliveryLimits(**{"retry": RETRY, **limits}),
    )
    task = asyncio.create_task(producer.run())
    try:
        yield RunningProducer(producer, spool, counts)
    finally:
        producer.stop()
        await asyncio.wait_for(task, TIMEOUT_S)


def record(mac: str, number: int) -> Record:
    return Record("drydock.checkins.v1", mac.encode(), str(number).encode())


def first_seen(log: list[Record]) -> dict[bytes, list[int]]:
    """Return the numbers of each key, in the order of their first appearance."""
    seen: dict[bytes, list[int]] = defaultdict(list)
    for one in log:
        if int(one.value) not in seen[one.key]:
            seen[one.key].append(int(one.value))
    return seen


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())
