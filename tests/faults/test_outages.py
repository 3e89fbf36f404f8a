"""Kafka is away during a recovery: workers wait for it and go on."""

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError  # type: ignore[import-untyped]

from pipeline.processors import recovery
from schemas.topics import STATE
from tests import factories
from tests.factories import NOW, topic_of
from tests.unit.processors.memory_kafka import Brokers, MemoryReader, MemoryWorker, state_of

UDIDS = [f"MAC-{number}" for number in range(40)]


class FailingReader(MemoryReader):
    """A reader whose n-th request of all readers fails."""

    def __init__(self, brokers: Brokers, request: Callable[[], None]) -> None:
        super().__init__(brokers)
        self._request = request

    async def start(self) -> None:
        self._request()

    async def end_offsets(self, changelogs: Any) -> Any:
        self._request()
        return await super().end_offsets(changelogs)

    async def beginning_offsets(self, changelogs: Any) -> Any:
        self._request()
        return await super().beginning_offsets(changelogs)

    async def getmany(self, **options: Any) -> Any:
        self._request()
        return await super().getmany(**options)


def live_with_failure(brokers: Brokers, folder: Path, failing: int) -> bool:
    """Run a worker whose n-th request to read fails; return True if it had as many requests."""
    worker = MemoryWorker(brokers, folder, lambda: NOW)
    requests = count()
    failed = False

    def request() -> None:
        nonlocal failed
        if next(requests) == failing:
            failed = True
            raise KafkaConnectionError

    async def fetch_committed(*_: object) -> Any:
        request()
        return await brokers.fetch_committed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "make_reader", lambda *_: FailingReader(brokers, request))
        patch.setattr(recovery, "fetch_committed", fetch_committed)
        asyncio.run(worker.live())
    assert len(worker.worker.partitions) == 4
    worker.end()
    return failed


def test_recovery_waits_after_each_failed_request(tmp_path: Path) -> None:
    brokers = Brokers()
    brokers.send([factories.policy_changed(), factories.release("26.2")], topic_of)
    for udid in UDIDS[:12]:
        brokers.send(factories.enrolled(udid), topic_of)
        brokers.send([factories.full_report("26.1", udid, serial=f"C02{udid}")], topic_of)
    assert not live_with_failure(brokers, tmp_path / "first", -1)
    jobs = len(brokers.published())
    state = state_of(brokers, tmp_path / "before").keys()
    for failing in count():
        # The changelog is also read for an earlier row of this key.
        brokers.append(STATE.name, 0, b"unknown", b"not JSON")
        if not live_with_failure(brokers, tmp_path / f"worker-{failing}", failing):
            break
    assert failing > 10
    assert len(brokers.published()) == jobs
    assert state_of(brokers, tmp_path / "after").keys() == state
