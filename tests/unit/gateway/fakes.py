"""A Kafka in memory that can fail in three ways."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.gateway.producer import ProducerError
from pipeline.gateway.records import Record

ACK_WAIT_S = 0.02
TIMEOUT_S = 30.0


@dataclass
class FakeKafka:
    """A broker; `log` has the records that reached it, `requests` their requests.

    - `away`: no record is acknowledged until the broker is back, as with an idempotent producer,
      and no connection succeeds;
    - `deaf`: `send` waits before it accepts a record;
    - `broken`: connections fail, and so do the records in flight.
    """

    log: list[Record] = field(default_factory=list)
    away: bool = False
    deaf: bool = False
    broken: bool = False
    connects: int = 0
    requests: int = 0
    producers: list["FakeProducer"] = field(default_factory=list)

    async def connect(self) -> "FakeProducer":
        self.connects += 1
        if self.away or self.broken:
            raise ProducerError("no connection")
        self.producers.append(FakeProducer(self))
        return self.producers[-1]

    def append(self, record: Record, delivery: "asyncio.Future[Any]") -> None:
        if not delivery.done():
            self.log.append(record)
            delivery.set_result(None)

    def go_away(self) -> None:
        self.away = True

    def turn_deaf(self) -> None:
        self.deaf = True

    def come_back(self) -> None:
        self.away = self.deaf = self.broken = False
        for producer in self.producers:
            producer.flush()

    def break_down(self) -> None:
        self.broken = True
        for producer in self.producers:
            producer.fail()


@dataclass
class FakeProducer:
    """A producer that keeps the order, and holds records back while Kafka is unreachable."""

    kafka: FakeKafka
    held: "deque[tuple[Record, asyncio.Future[Any]]]" = field(default_factory=deque)
    dead: bool = False

    async def send(self, record: Record) -> "asyncio.Future[Any]":
        while self.kafka.deaf and not self.kafka.broken:
            await asyncio.sleep(0.001)
        if self.dead or self.kafka.broken:
            raise ProducerError("the producer is closed")
        delivery: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.held.append((record, delivery))
        if not self.kafka.away:
            asyncio.get_running_loop().call_soon(self.flush)
        return delivery

    def flush(self) -> None:
        if self.held and not self.kafka.away and not self.dead:
            self.kafka.requests += 1
            while self.held:
                self.kafka.append(*self.held.popleft())

    def fail(self) -> None:
        self.dead = True
        while self.held:
            _, delivery = self.held.popleft()
            if not delivery.done():
                delivery.set_exception(ProducerError("out of order"))

    async def close(self) -> None:
        self.dead = True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.001)
