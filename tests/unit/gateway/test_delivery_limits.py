"""Limits of the delivery to Kafka: calls that wait, records in flight, room in the spool."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.gateway.producer import BackpressureError, DeliveryInterruptedError
from pipeline.gateway.spool import SpoolFullError
from tests.unit.gateway.fakes import ACK_WAIT_S, FakeKafka, until
from tests.unit.gateway.running_producer import (
    record,
    run,
    running,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_full_spool_refuses_records_until_it_has_room_again(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        async with running(kafka, tmp_path, max_bytes=500) as it:
            accepted = 0
            with suppress(SpoolFullError):
                while True:
                    await it.producer.put([record("A", accepted)])
                    accepted += 1
            assert accepted == it.spool.depth > 0
            assert it.producer.refusal is not None
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            await it.producer.put([record("A", accepted)])
            assert [int(one.value) for one in kafka.log] == list(range(accepted + 1))

    run(test)


def test_put_is_refused_when_too_many_calls_wait(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path, max_waiting=1) as it:
            await until(lambda: not it.producer.spooling)
            kafka.go_away()
            first = asyncio.create_task(it.producer.put([record("A", 1), record("A", 2)]))
            await asyncio.sleep(0)
            with pytest.raises(BackpressureError):
                await it.producer.put([record("A", 3)])
            await first

    run(test)


def test_records_in_flight_are_limited(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path, max_in_flight=3) as it:
            await until(lambda: not it.producer.spooling)
            kafka.go_away()
            puts = [asyncio.create_task(it.producer.put([record("A", n)])) for n in range(10)]
            most = 0
            while not all(put.done() for put in puts):
                most = max(most, len(kafka.producers[0].held))
                await asyncio.sleep(0.001)
            assert (most, it.spool.depth) == (3, 10)
            await asyncio.sleep(5 * ACK_WAIT_S)
            assert len(kafka.producers[0].held) == 3
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert [int(one.value) for one in kafka.log] == list(range(10))

    run(test)


def test_put_is_refused_when_the_queue_is_full(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path, max_queued=2) as it:
            await until(lambda: not it.producer.spooling)
            first = asyncio.create_task(it.producer.put([record("A", 1), record("A", 2)]))
            await asyncio.sleep(0)
            with pytest.raises(BackpressureError):
                await it.producer.put([record("A", 3)])
            await first
            await it.producer.put([])
            await it.producer.put([record("A", 3)])

    run(test)


def test_finished_and_cancelled_calls_do_not_count_as_waiting(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path, max_waiting=1) as it:
            for number in range(5):
                await it.producer.put([record("A", number)])
            kafka.go_away()
            given_up = asyncio.create_task(it.producer.put([record("A", 5)]))
            await asyncio.sleep(0)
            given_up.cancel()
            with suppress(asyncio.CancelledError):
                await given_up
            await it.producer.put([record("A", 6)])

    run(test)


def test_put_is_refused_after_a_stop(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
            assert it.producer.refusal is None
            it.producer.stop()
            assert it.producer.refusal is not None
            with pytest.raises(DeliveryInterruptedError):
                await it.producer.put([record("A", 1)])
        assert all(link.dead for link in kafka.producers)

    run(test)


def test_records_are_accepted_while_a_tenth_of_the_spool_is_free(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        size = record("A", 1).size + 64
        async with running(kafka, tmp_path, max_bytes=20 * size) as it:
            accepted = 0
            while it.producer.refusal is None:
                await it.producer.put([record("A", 1)])
                accepted += 1
            # A tenth is the size of two records, and the overhead of one row must be free too.
            assert accepted == 18
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert it.producer.refusal is None

    run(test)
