"""The answers of Macs, from the topics of a real broker to the store of an agent."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]

from agents.mdm.answers import AnswerStore
from agents.mdm.reader import AnswerReader
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from schemas.envelope import Event, encode
from schemas.topics import CHECKINS
from tests.fake_mdm import FakeMdm
from tests.kafka.brokers import KafkaCluster, wait_until
from tests.kafka.topics import PARTITIONS, make_topics

LIMIT_S = 30.0


class Agent:
    """A store and the reader that fills it."""

    def __init__(self, bootstrap: str, path: Path) -> None:
        self.store = AnswerStore(path)
        self.woken: set[str] = set()
        self.added: list[str] = []
        self.reader = AnswerReader(
            KafkaConnection(bootstrap=bootstrap),
            self,
            self.woken.update,
            lambda: datetime.now(UTC),
            make_log(),
        )

    def position(self, feed: str) -> int | None:
        return self.store.position(feed)

    def add_events(
        self, events: Iterable[Event], now: datetime, positions: Mapping[str, int]
    ) -> Collection[str]:
        given = [*events]
        self.added += [event.id for event in given]
        return self.store.add_events(given, now, positions).udids


@pytest.fixture
def broker(kafka: KafkaCluster) -> str:
    make_topics(kafka.bootstrap, "london")
    return kafka.bootstrap


@contextmanager
def running(bootstrap: str, path: Path) -> Iterator[Agent]:
    agent = Agent(bootstrap, path)
    agent.reader.start()
    try:
        wait_until(agent.reader.is_current, LIMIT_S, "the topics are not read to their ends")
        yield agent
    finally:
        agent.reader.stop()
        agent.reader.join(LIMIT_S)
        agent.store.close()


def publish(bootstrap: str, events: list[Event], *raw: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for event in events:
        topic = "inventory" if "inventory" in event.type else "checkins"
        producer.send(f"drydock.{topic}.v1", key=event.subject.encode(), value=encode(event))
    for each in raw:
        producer.send(CHECKINS.name, key=b"x", value=each)
    producer.close()


def enrolled(udid: str) -> list[Event]:
    mdm = FakeMdm(datetime.now(UTC))
    mdm.enroll(udid, OSVersion="26.1", BuildVersion="25B78")
    return mdm.take_events()


def test_answers_of_the_past_and_of_now_reach_the_store(broker: str, tmp_path: Path) -> None:
    before = enrolled("MAC-1")
    publish(broker, before, b"{no event")
    with running(broker, tmp_path / "answers") as agent:
        assert {event.id for event in before} <= {*agent.added}
        assert agent.store.facts("MAC-1").is_enrolled
        publish(broker, enrolled("MAC-2"))
        wait_until(
            lambda: bool(agent.store.facts("MAC-2").is_enrolled), LIMIT_S, "not read while running"
        )


def test_restarted_reader_continues_at_its_positions(broker: str, tmp_path: Path) -> None:
    publish(broker, enrolled("MAC-3"))
    with running(broker, tmp_path / "answers"):
        pass
    after = enrolled("MAC-4")
    publish(broker, after)
    with running(broker, tmp_path / "answers") as agent:
        assert {*agent.added} == {event.id for event in after}


def test_positions_of_another_cluster_are_not_used(broker: str, tmp_path: Path) -> None:
    events = enrolled("MAC-5")
    publish(broker, events)
    with AnswerStore(tmp_path / "answers") as store:
        names = [f"{CHECKINS.name}/{number}" for number in range(PARTITIONS)]
        store.add_events((), datetime.now(UTC), dict.fromkeys(names, 10**9))
    with running(broker, tmp_path / "answers") as agent:
        assert {event.id for event in events} <= {*agent.added}
