"""Delivery: every accepted record reaches Kafka, in the order of its key, after any failure."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from tenacity import RetryCallState

from pipeline.gateway.delivery import DeliveryLimits, StoreAndForwardProducer
from pipeline.gateway.producer import BackpressureError, DeliveryInterruptedError, DurableIn
from pipeline.gateway.spool import Spool, Spooled, SpoolError
from runtime.retry import RetryPolicy
from tests.unit.gateway.fakes import ACK_WAIT_S, TIMEOUT_S, FakeKafka, until
from tests.unit.gateway.running_producer import (
    MIB,
    RETRY,
    FakeMetrics,
    first_seen,
    record,
    run,
    running,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class CrashError(Exception):
    """The process died here."""


def test_record_is_not_spooled_while_kafka_acknowledges(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
            await it.producer.put([record("A", 1), record("A", 2)])
            assert [one.value for one in kafka.log] == [b"1", b"2"]
            assert (
                it.counts.durable_counts[DurableIn.KAFKA],
                it.counts.durable_counts[DurableIn.SPOOL],
            ) == (2, 0)
            assert it.spool.last_seq == 0

    run(test)


def test_records_within_the_linger_time_are_one_request(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path, linger_s=0.5) as it:
            await until(lambda: not it.producer.spooling)
            puts = []
            for number in range(10):
                puts.append(asyncio.create_task(it.producer.put([record("A", number)])))
                await asyncio.sleep(0.001)
            await asyncio.gather(*puts)
            assert [int(one.value) for one in kafka.log] == list(range(10))
            assert kafka.requests == 1

    run(test)


def test_record_is_durable_on_disk_while_kafka_is_away_and_sent_in_order_later(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        async with running(kafka, tmp_path) as it:
            for number in range(20):
                await it.producer.put([record("A", number)])
            assert (it.spool.depth, it.counts.durable_counts[DurableIn.SPOOL], kafka.log) == (
                20,
                20,
                [],
            )
            assert it.producer.refusal is None
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert [int(one.value) for one in kafka.log] == list(range(20))
            await it.producer.put([record("A", 20)])
            assert it.counts.durable_counts[DurableIn.KAFKA] == 1

    run(test)


def test_records_in_flight_when_kafka_goes_away_are_spooled_and_not_sent_twice(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
            kafka.go_away()
            await asyncio.gather(*(it.producer.put([record("A", n)]) for n in range(50)))
            assert it.producer.spooling
            assert it.spool.depth == 50
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert [int(one.value) for one in kafka.log] == list(range(50))
            assert kafka.connects == 1

    run(test)


def test_records_are_spooled_while_the_producer_does_not_accept_them(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
            kafka.turn_deaf()
            for number in range(3):
                await asyncio.wait_for(it.producer.put([record("A", number)]), TIMEOUT_S)
            assert (it.counts.durable_counts[DurableIn.SPOOL], it.spool.depth) == (3, 3)
            assert it.counts.spooling == [True, False, True]
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert [int(one.value) for one in kafka.log] == [0, 1, 2]
            assert kafka.connects == 1

    run(test)


def test_record_spooled_during_an_empty_read_is_not_skipped(tmp_path: Path) -> None:
    class Overtaken(Spool):
        """Spools a record right after the first read that finds nothing."""

        overtaken = False

        def read_after(self, seq: int, *, max_records: int, max_bytes: int) -> list[Spooled]:
            found = super().read_after(seq, max_records=max_records, max_bytes=max_bytes)
            if not found and not self.overtaken:
                self.overtaken = True
                self.append([record("A", 0)], NOW)
            return found

    async def test() -> None:
        kafka = FakeKafka()
        spool = Overtaken(tmp_path, max_bytes=MIB)
        spool.append([record("B", 0)], NOW)
        spool.delete(spool.read_after(0, max_records=1, max_bytes=MIB))
        async with running(kafka, tmp_path, spool=spool) as it:
            await until(lambda: not it.producer.spooling)
        assert first_seen(kafka.log) == {b"A": [0]}

    run(test)


def test_failed_producer_is_replaced_and_no_record_is_lost(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
            kafka.go_away()
            puts = [asyncio.create_task(it.producer.put([record("A", n)])) for n in range(10)]
            await asyncio.sleep(0)
            kafka.break_down()
            await asyncio.gather(*puts)
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert first_seen(kafka.log) == {b"A": list(range(10))}
            assert len(kafka.producers) > 1

    run(test)


def test_direct_mode_returns_during_a_steady_stream(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        async with running(kafka, tmp_path) as it:
            numbers = iter(range(1_000_000))
            stop = False

            async def stream() -> None:
                while not stop:
                    await it.producer.put([record("A", next(numbers))])

            sender = asyncio.create_task(stream())
            await until(lambda: it.spool.depth > 10)
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            stop = True
            await sender
            count = next(numbers)
            assert [int(one.value) for one in kafka.log] == list(range(count))

    run(test)


def test_stop_makes_records_in_flight_durable(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
            kafka.go_away()
            put = asyncio.create_task(it.producer.put([record("A", 1)]))
            await asyncio.sleep(0)
        await put
        kafka.come_back()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
        assert first_seen(kafka.log) == {b"A": [1]}

    run(test)


def test_unhandled_exception_fails_the_call_and_delivery_continues(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        failing = True

        def hook(moment: str) -> None:
            if failing and moment == "append:before":
                raise LookupError("our bug")

        async with running(kafka, tmp_path, hook) as it:
            with pytest.raises(DeliveryInterruptedError):
                await it.producer.put([record("A", 1)])
            failing = False
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    with suppress(DeliveryInterruptedError):
                        await it.producer.put([record("A", 2)])
                        break
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
        assert first_seen(kafka.log) == {b"A": [2]}

    run(test)


class KilledGateway:
    """One process on the spool, until it is killed at a random durable write or after 150 steps."""

    def __init__(self, kafka: FakeKafka, folder: Path, chance: random.Random) -> None:
        self.kafka = kafka
        self.chance = chance
        self.died = False
        self.left = chance.randrange(5, 40)
        self.spool = Spool(folder, max_bytes=MIB, on_durable_write=self._write)
        log = structlog.wrap_logger(structlog.ReturnLogger())
        self.producer = StoreAndForwardProducer(
            kafka.connect,
            self.spool,
            FakeMetrics(),
            log,
            max_waiting=50,
            ack_wait_s=ACK_WAIT_S,
            limits=DeliveryLimits(retry=RETRY),
        )

    def _write(self, _: str) -> None:
        self.left -= 1
        if self.left <= 0:
            self.died = True
            raise CrashError

    async def live(
        self, give: Callable[[StoreAndForwardProducer, str], Coroutine[Any, Any, None]]
    ) -> None:
        task = asyncio.create_task(self.producer.run())
        giving: dict[str, asyncio.Task[None]] = {}
        for _ in range(150):
            if self.died:
                break
            mac = self.chance.choice("ABC")
            if mac not in giving or giving[mac].done():
                giving[mac] = asyncio.create_task(give(self.producer, mac))
            self.happen()
            await asyncio.sleep(self.chance.choice([0, 0, 0, 0, 0.003]))
        tasks = {task, *giving.values()}
        while tasks:
            for one in tasks:
                one.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
        self.producer._disk._executor.shutdown()
        self.spool.close()
        for link in self.kafka.producers:
            link.dead = True

    def happen(self) -> None:
        events = [lambda: None, self.kafka.go_away, self.kafka.come_back, self.kafka.break_down]
        self.chance.choices([*events, self.kafka.turn_deaf], [20, 2, 3, 1, 1])[0]()


@pytest.mark.parametrize(
    "seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))]
)
def test_no_accepted_record_is_lost_and_the_order_of_each_mac_is_kept(
    tmp_path: Path, seed: int
) -> None:
    """Kafka comes and goes, producers fail, and the process is killed at a durable write."""

    async def test() -> None:
        chance = random.Random(seed)
        kafka = FakeKafka(away=chance.random() < 0.5)
        accepted: dict[str, list[int]] = defaultdict(list)
        asked: dict[str, int] = defaultdict(int)

        async def give(producer: StoreAndForwardProducer, mac: str) -> None:
            number = asked[mac]
            asked[mac] += 1
            with suppress(BackpressureError, SpoolError):
                await producer.put([record(mac, number)])
                accepted[mac].append(number)

        for _ in range(3):
            await KilledGateway(kafka, tmp_path, chance).live(give)
        kafka.come_back()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
        seen = first_seen(kafka.log)
        for mac, numbers in accepted.items():
            assert [n for n in seen[mac.encode()] if n in set(numbers)] == numbers

    run(test)


# --- limits ---


# --- changes of the mode ---


def test_records_of_a_failed_producer_are_spooled_once_and_deleted_when_delivered(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await until(lambda: not it.producer.spooling)
            kafka.go_away()
            puts = [asyncio.create_task(it.producer.put([record("A", n)])) for n in range(3)]
            await until(lambda: len(kafka.producers[0].held) == 3)
            kafka.break_down()
            await asyncio.gather(*puts)
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            await it.producer.put([record("A", 3)])
            await asyncio.sleep(5 * ACK_WAIT_S)
            assert not it.producer.spooling
            assert (it.spool.last_seq, it.spool.depth) == (3, 0)
            assert it.counts.durable_counts == {DurableIn.KAFKA: 1, DurableIn.SPOOL: 3}
            assert [int(one.value) for one in kafka.log] == [0, 1, 2, 3]

    run(test)


def test_records_left_by_a_crash_are_sent_before_new_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    spool.append([record("A", number) for number in range(450)], NOW)
    spool.close()

    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path) as it:
            await it.producer.put([record("A", 450)])
            await until(lambda: not it.producer.spooling)
            assert [int(one.value) for one in kafka.log] == list(range(451))
            assert it.spool.depth == 0
            assert it.producer.spooling is it.counts.spooling[-1] is False

    run(test)


def test_record_that_arrives_while_spooling_is_sent_without_a_wake_interval(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path, wake_interval_s=3600.0) as it:
            await until(lambda: not it.producer.spooling)
            kafka.go_away()
            await it.producer.put([record("A", 0)])
            assert it.producer.spooling
            await asyncio.sleep(2 * ACK_WAIT_S)
            await it.producer.put([record("A", 1)])
            await until(lambda: len(kafka.producers[0].held) == 2)
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert [int(one.value) for one in kafka.log] == [0, 1]

    run(test)


def test_error_of_the_disk_fails_only_the_call(tmp_path: Path) -> None:
    class Refusing(Spool):
        refusing = True

        def append(self, records: Any, now: datetime) -> range:
            if self.refusing:
                raise SpoolError("the disk refuses")
            return super().append(records, now)

    async def test() -> None:
        kafka = FakeKafka(away=True)
        spool = Refusing(tmp_path, max_bytes=MIB)
        async with running(kafka, tmp_path, spool=spool) as it:
            with pytest.raises(SpoolError, match="the disk refuses"):
                await it.producer.put([record("A", 0)])
            spool.refusing = False
            await it.producer.put([record("A", 1)])
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            assert [int(one.value) for one in kafka.log] == [1]

    run(test)


def test_connecting_is_retried_until_kafka_is_back(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        async with running(kafka, tmp_path) as it:
            await until(lambda: kafka.connects >= 5)
            assert it.counts.spooling == [True]
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            connects = kafka.connects
            await it.producer.put([record("A", 1)])
            assert kafka.connects == connects

    run(test)


def test_immediate_stop_releases_the_spool(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(FakeKafka(), tmp_path):
            pass
        Spool(tmp_path, max_bytes=MIB).close()

    run(test)


def test_direct_mode_returns_after_a_send_timeout_once_the_producer_acknowledges(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        kafka = FakeKafka()
        async with running(kafka, tmp_path, probe_timeout_s=3600.0) as it:
            await until(lambda: not it.producer.spooling)
            kafka.turn_deaf()
            await it.producer.put([record("A", 1)])
            assert it.producer.spooling
            await asyncio.sleep(3 * ACK_WAIT_S)
            kafka.come_back()
            async with asyncio.timeout(TIMEOUT_S / 3):
                await until(lambda: not it.producer.spooling)

    run(test)


def test_first_failure_after_a_reconnect_has_the_shortest_delay(tmp_path: Path) -> None:
    attempts: list[int] = []

    class Recorded(RetryPolicy):
        def wait(self) -> Any:
            def wait(state: RetryCallState) -> float:
                attempts.append(state.attempt_number)
                return 0.001

            return wait

    async def test() -> None:
        kafka = FakeKafka(away=True)
        async with running(kafka, tmp_path, retry=Recorded(0.001, 3600.0)) as it:
            await until(lambda: len(attempts) >= 3)
            kafka.come_back()
            await until(lambda: not it.producer.spooling)
            kafka.break_down()
            await it.producer.put([record("A", 1)])
            await until(lambda: attempts.count(1) == 2)
            kafka.come_back()
            await until(lambda: not it.producer.spooling)

    run(test)
    connected = attempts.index(1, 1)
    assert attempts[:connected] == list(range(1, connected + 1))
