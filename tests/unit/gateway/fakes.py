"""A Kafka in memory, with the ways in which it fails."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.gateway.link import LinkError
from pipeline.gateway.records import Record

ACK_WAIT_S = 0.02
PATIENCE_S = 30.0


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
    links: list["FakeLink"] = field(default_factory=list)

    async def connect(self) -> "FakeLink":
        self.connects += 1
        if self.away or self.broken:
            raise LinkError("nobody answers")
        self.links.append(FakeLink(self))
        return self.links[-1]

    def take(self, record: Record, told: "asyncio.Future[Any]") -> None:
        if not told.done():
            self.log.append(record)
            told.set_result(None)

    def go_away(self) -> None:
        self.away = True

    def turn_deaf(self) -> None:
        self.deaf = True

    def come_back(self) -> None:
        self.away = self.deaf = self.broken = False
        for link in self.links:
            link.flush()

    def break_down(self) -> None:
        self.broken = True
        for link in self.links:
            link.fail()


@dataclass
class FakeLink:
    """A producer: keeps order, and holds back what Kafka cannot take."""

    kafka: FakeKafka
    held: "deque[tuple[Record, asyncio.Future[Any]]]" = field(default_factory=deque)
    dead: bool = False

    async def send(self, record: Record) -> "asyncio.Future[Any]":
        while self.kafka.deaf and not self.kafka.broken:
            await asyncio.sleep(0.001)
        if self.dead or self.kafka.broken:
            raise LinkError("of no more use")
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.held.append((record, told))
        if not self.kafka.away:
            asyncio.get_running_loop().call_soon(self.flush)
        return told

    def flush(self) -> None:
        if self.held and not self.kafka.away and not self.dead:
            self.kafka.requests += 1
            while self.held:
                self.kafka.take(*self.held.popleft())

    def fail(self) -> None:
        self.dead = True
        while self.held:
            _, told = self.held.popleft()
            if not told.done():
                told.set_exception(LinkError("out of order"))

    async def close(self) -> None:
        self.dead = True


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.001)
