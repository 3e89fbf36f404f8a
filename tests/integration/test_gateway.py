"""`drydock gateway` on a real broker: what it answered 200 is in the topic, in each Mac's order,
whoever stops or dies. DRYDOCK_OUTAGE_S lengthens Kafka's outages (60 for the full run)."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.broker_fixtures import started
from tests.integration.brokers import KafkaCluster, wait_until
from tests.integration.gateways import (
    PATIENCE_S,
    Fleet,
    Server,
    command_webhook,
    commands_in,
    gateway,
    make_topics,
    wrong,
)

OUTAGE_S = float(os.environ.get("DRYDOCK_OUTAGE_S", "8"))
RATE = float(os.environ.get("DRYDOCK_OUTAGE_RATE", "150"))


@pytest.fixture
def broker(leaky_clients: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One broker, to be stopped at will."""
    cluster = started(1, tmp_path_factory)
    make_topics(cluster)
    yield cluster
    cluster.kill()


def pid(kafka: KafkaCluster) -> int:
    return kafka._pids[1]


def spooled(running: Server) -> float:
    return running.value("drydock_gateway_spool_records")


def through(fleet: Fleet, url: Callable[[], str], happening: Callable[[], Awaitable[None]]) -> None:
    """Post while something happens."""

    async def both() -> None:
        until = asyncio.Event()
        posting = asyncio.create_task(fleet.post(url, until))
        await asyncio.sleep(1)
        try:
            await happening()
            await asyncio.sleep(1)
        finally:
            until.set()
            await posting

    asyncio.run(both())


def settled(running: Server) -> bool:
    return spooled(running) == 0 and running.value("drydock_gateway_spooling") == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["hangs", "is killed"])
def test_webhooks_answered_200_while_kafka_is_away_are_in_the_topic_in_order(
    broker: KafkaCluster, tmp_path: Path, how: str
) -> None:
    fleet = Fleet(macs=40, rate=RATE)
    with gateway(broker, tmp_path) as running:

        async def outage() -> None:
            if how == "hangs":
                os.kill(pid(broker), signal.SIGSTOP)
                await asyncio.sleep(OUTAGE_S)
                os.kill(pid(broker), signal.SIGCONT)
            else:
                await asyncio.to_thread(broker.kill, 1)
                await asyncio.sleep(OUTAGE_S)
                await asyncio.to_thread(broker.restart, 1)

        wait_until(lambda: settled(running), PATIENCE_S, "never delivers directly")
        through(fleet, lambda: running.url, outage)
        wait_until(lambda: settled(running), PATIENCE_S, "spool is not sent")
        assert running.value("drydock_gateway_records_total", "spool", "drydock.checkins.v1") > 0
        assert running.end() == 0
    assert set(fleet.statuses) == {200}
    assert fleet.answered > RATE * OUTAGE_S / 2
    assert wrong(fleet, commands_in(broker)) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gateway_killed_with_a_spool_loses_nothing(broker: KafkaCluster, tmp_path: Path) -> None:
    fleet = Fleet(macs=20, rate=RATE)
    broker.kill(1)
    for _ in range(3):
        with gateway(broker, tmp_path) as running:
            before = spooled(running)

            async def killed(running: Server = running) -> None:
                await asyncio.sleep(1)
                running.process.kill()

            through(fleet, lambda running=running: running.url, killed)  # type: ignore[misc]
            running.process.wait(PATIENCE_S)
    assert fleet.statuses[None] > 0
    assert before > 0
    broker.restart(1)
    with gateway(broker, tmp_path) as running:
        wait_until(lambda: settled(running), PATIENCE_S, "spool is not sent")
        assert running.end() == 0
    found = commands_in(broker)
    assert wrong(fleet, found) == []
    assert fleet.answered > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gateway_killed_while_its_spool_is_sent_loses_nothing(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    fleet = Fleet(macs=20, rate=RATE)
    os.kill(pid(broker), signal.SIGSTOP)
    with gateway(broker, tmp_path) as running:

        async def fills() -> None:
            await asyncio.sleep(2)

        through(fleet, lambda: running.url, fills)
        os.kill(pid(broker), signal.SIGCONT)
        before = spooled(running)
        running.process.kill()
        running.process.wait(PATIENCE_S)
    assert before > 0
    with gateway(broker, tmp_path) as running:
        wait_until(lambda: settled(running), PATIENCE_S, "spool is not sent")
        assert running.end() == 0
    assert wrong(fleet, commands_in(broker)) == []


def test_stops_at_once_and_in_good_order(broker: KafkaCluster, tmp_path: Path) -> None:
    with gateway(broker, tmp_path) as running:
        wait_until(lambda: settled(running), PATIENCE_S, "never delivers directly")
        answer = httpx.post(
            f"{running.url}/webhooks/nanomdm",
            content=command_webhook("MAC-1", 1),
            trust_env=False,
            timeout=30,
        )
        assert answer.status_code == 200
        assert commands_in(broker) == {"MAC-1": [1]}
        assert running.end() == 0
    assert [line for line in running.log() if line["level"] == "error"] == []


def test_missing_topics_are_said_and_everything_waits_for_them(
    empty_kafka: KafkaCluster, tmp_path: Path
) -> None:
    with gateway(empty_kafka, tmp_path) as running:
        fleet = Fleet(macs=1, rate=20)

        async def nothing() -> None:
            await asyncio.sleep(0)

        through(fleet, lambda: running.url, nothing)

        def said() -> bool:
            return any("drydock.inventory.v1" in str(line.get("detail")) for line in running.log())

        wait_until(said, PATIENCE_S, "the missing topic is not named")
        make_topics(empty_kafka)
        wait_until(lambda: settled(running), PATIENCE_S, "spool is not sent")
        assert running.end() == 0
    assert wrong(fleet, commands_in(empty_kafka)) == []
    assert fleet.answered > 0
