"""The gateway's disk is full, or refuses reads or writes: with Kafka, everything continues.

Each test checks the same: every event with response 200 reaches Kafka, once, and `/readyz` is 503
while events are refused.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from pipeline.gateway.kafka_sink import KafkaSink
from pipeline.gateway.spool import Spool, SpoolError
from schemas.envelope import encode
from tests.factories.sites import osquery_report
from tests.faults.volumes import KIB, MIB, Volume, ext4_volume, file_size_limit, small_volume
from tests.unit.gateway.apps import KafkaApp, kafka_app
from tests.unit.gateway.fakes import FakeKafka, until

RECOVERY_S = 5.0


class Sender:
    """Posts batches of events; `accepted` has the UDIDs of those with response 200."""

    def __init__(self, app: KafkaApp) -> None:
        self._app = app
        self._numbers = count()
        self.accepted: list[str] = []

    async def post(self, events: int = 20) -> int:
        """Post a batch, and return the status of the response."""
        udids = [f"MAC-{next(self._numbers):06}" for _ in range(events)]
        body = b"\n".join(encode(osquery_report(udid)) for udid in udids)
        response = await self._app.post("/v1/events", body)
        if response.status_code == 200:
            self.accepted.extend(udids)
        else:
            assert (response.status_code, "retry-after" in response.headers) == (503, True)
        return response.status_code

    async def post_until_refused(self) -> None:
        """Post batches until one gets no 200."""
        while await self.post() == 200:
            pass

    def check_all_sent_once(self) -> None:
        sent = Counter(one.key.decode() for one in self._app.kafka.log)
        assert [udid for udid in self.accepted if sent[udid] != 1] == []


async def readiness(app: KafkaApp) -> tuple[int, bool]:
    """Return the status of /readyz, and whether its body has a reason."""
    response = await app.client.get("/readyz")
    return response.status_code, bool(response.json().get("reason"))


async def is_ready_again(app: KafkaApp) -> None:
    async with asyncio.timeout(RECOVERY_S):
        while (await readiness(app))[0] != 200:
            await asyncio.sleep(0.05)


def run(
    folder: Path, test: Callable[[KafkaApp, Sender], Awaitable[None]], *, away: bool = True
) -> None:
    async def main() -> None:
        async with kafka_app(folder, kafka=FakeKafka(away=away)) as app:
            await test(app, Sender(app))

    asyncio.run(main())


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    with small_volume(tmp_path / "volume", 2 * MIB) as made:
        yield made


async def check_that_kafka_gets_all(it: KafkaApp, sender: Sender) -> None:
    """Let Kafka come back: the spool is sent, new events pass, the gateway is ready."""
    it.kafka.come_back()
    await is_ready_again(it)
    assert await sender.post() == 200
    await until(lambda: it.spool.depth == 0)
    sender.check_all_sent_once()


def test_spool_larger_than_its_volume_stops_the_intake_and_is_sent(volume: Volume) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        assert it.spool.max_bytes > 2 * MIB
        await sender.post_until_refused()
        assert await readiness(it) == (503, True)
        await check_that_kafka_gets_all(it, sender)

    run(volume.path, test)


def test_spool_is_sent_while_another_file_fills_the_disk(volume: Volume) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        for _ in range(20):
            assert await sender.post() == 200
        volume.fill()
        assert await sender.post() == 503
        assert await readiness(it) == (503, True)
        await check_that_kafka_gets_all(it, sender)

    run(volume.path, test)


def test_delivered_events_are_not_sent_again_if_kafka_goes_away_again(volume: Volume) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        for _ in range(20):
            assert await sender.post() == 200
        volume.fill()
        it.kafka.come_back()
        await until(lambda: len(it.kafka.log) > 0)
        it.kafka.break_down()
        await asyncio.sleep(0.1)
        await check_that_kafka_gets_all(it, sender)

    run(volume.path, test)


def test_gateway_is_ready_within_seconds_of_room_while_kafka_is_away(volume: Volume) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        await sender.post()
        volume.fill()
        await sender.post_until_refused()
        for _ in range(3):
            assert await readiness(it) == (503, True)
            volume.free()
            await is_ready_again(it)
            assert await sender.post() == 200
            volume.fill()
            assert await sender.post() == 503
        await check_that_kafka_gets_all(it, sender)

    run(volume.path, test)


def test_events_pass_a_full_disk_while_kafka_acknowledges(volume: Volume) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        volume.fill()
        for _ in range(10):
            assert await sender.post() == 200
        assert await readiness(it) == (200, False)
        sender.check_all_sent_once()

    run(volume.path, test, away=False)


def test_gateway_is_not_ready_when_kafka_goes_away_on_a_full_disk(volume: Volume) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        volume.fill()
        it.kafka.go_away()
        assert await sender.post() == 503
        for _ in range(10):
            assert await readiness(it) == (503, True)
            await asyncio.sleep(0.05)
        it.kafka.come_back()
        await is_ready_again(it)
        assert await sender.post() == 200

    run(volume.path, test, away=False)


def test_writes_refused_by_a_limit_that_the_volume_does_not_show(tmp_path: Path) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        with file_size_limit(500 * KIB):
            await sender.post_until_refused()
            assert await readiness(it) == (503, True)
            await check_that_kafka_gets_all(it, sender)
        assert it.spool.failure is None

    run(tmp_path, test)


def test_file_with_the_largest_size_that_sqlite_may_write(tmp_path: Path) -> None:
    async def test(it: KafkaApp, sender: Sender) -> None:
        for _ in range(20):
            assert await sender.post() == 200
        pages = it.spool._db.execute("PRAGMA page_count").fetchone()[0]
        it.spool._db.execute(f"PRAGMA max_page_count = {pages:d}")
        await sender.post_until_refused()
        assert await readiness(it) == (503, True)
        await check_that_kafka_gets_all(it, sender)

    run(tmp_path, test)


def test_spool_is_sent_from_a_volume_that_became_read_only(tmp_path: Path) -> None:
    with ext4_volume(tmp_path / "volume", 8 * MIB) as volume:

        async def test(it: KafkaApp, sender: Sender) -> None:
            for _ in range(20):
                assert await sender.post() == 200
            volume.abort()
            await sender.post_until_refused()
            assert await readiness(it) == (503, True)
            await check_that_kafka_gets_all(it, sender)

        run(volume.path, test)


def test_spool_is_sent_while_the_volume_has_no_free_inode(tmp_path: Path) -> None:
    with small_volume(tmp_path / "volume", 4 * MIB, ",nr_inodes=40") as volume:

        async def test(it: KafkaApp, sender: Sender) -> None:
            volume.take_inodes()
            for _ in range(20):
                assert await sender.post() == 200
            volume.fill()
            await sender.post_until_refused()
            assert await readiness(it) == (503, True)
            await check_that_kafka_gets_all(it, sender)

        run(volume.path, test)


def test_restart_after_the_disk_was_full_sends_nothing_again(volume: Volume) -> None:
    log = []

    async def fill(it: KafkaApp, sender: Sender) -> None:
        for _ in range(20):
            assert await sender.post() == 200
        volume.fill()
        await check_that_kafka_gets_all(it, sender)

    async def count_again(it: KafkaApp, _: Sender) -> None:
        await until(lambda: not it.app.sink.refusal)
        log.extend(it.kafka.log)

    run(volume.path, fill)
    volume.free()
    run(volume.path, count_again, away=False)
    assert log == []


def test_events_pass_a_spool_that_cannot_be_read_and_it_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable = True
    read_after = Spool.read_after

    def fail(spool: Spool, *args: int, **limits: int) -> object:
        if unreadable:
            raise SpoolError("cannot read the spool: disk I/O error")
        return read_after(spool, *args, **limits)

    async def test(it: KafkaApp, sender: Sender) -> None:
        nonlocal unreadable
        assert isinstance(it.app.sink, KafkaSink)
        producer = it.app.sink.producer
        # Longer than the test sends: records in flight are spooled when the spool is read again.
        producer._limits = replace(producer._limits, reread_s=2.0)
        assert await sender.post() == 200
        monkeypatch.setattr(Spool, "read_after", fail)
        it.kafka.come_back()
        await until(lambda: not producer.spooling)
        assert await sender.post() == 200
        assert len(it.kafka.log) == 20
        unreadable = False
        await until(lambda: it.spool.depth == 0)
        sender.check_all_sent_once()

    run(tmp_path, test)
