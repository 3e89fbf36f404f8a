"""A Kafka in memory, with the ways in which it fails."""

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
    """A broker, what reached it and in how many requests. `away` holds back every acknowledgement
    until it is back, as an idempotent producer does; `deaf` has a producer wait before it takes a
    record; `broken` fails connections and what is under way."""

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
            raise ProducerError("nobody answers")
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
    """A producer: keeps order, and holds back what Kafka cannot take."""

    kafka: FakeKafka
    held: "deque[tuple[Record, asyncio.Future[Any]]]" = field(default_factory=deque)
    dead: bool = False

    async def send(self, record: Record) -> "asyncio.Future[Any]":
        while self.kafka.deaf and not self.kafka.broken:
            await asyncio.sleep(0.001)
        if self.dead or self.kafka.broken:
            raise ProducerError("of no more use")
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


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():
            await asyncio.sleep(0.001)
