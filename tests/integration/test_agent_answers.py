"""The answers of Macs, from the topics of a real broker to the store of an agent."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka import KafkaProducer  # type: ignore[import-untyped]

from agents.mdm.answers import AnswerStore
from agents.mdm.reader import AnswerReader
from pipeline.gateway.records import Record, event_records
from pipeline.payload_signing import sign_record
from pipeline.trust.stamps import Stamps
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from runtime.trusted_keys import KeyRing
from schemas.envelope import Event
from schemas.signed_records import CONTROL_RECORD, REPORT_RECORD, STAMP_BYTES
from schemas.signing import key_id
from schemas.topics import CHECKINS
from tests import factories as make
from tests.fake_mdm import FakeMdm
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import PARTITIONS, make_topics
from tests.waiting import wait_until

LIMIT_S = 30.0


GATEWAY_KEY = Ed25519PrivateKey.generate()
NEW_KEY = Ed25519PrivateKey.generate()
STRANGER_KEY = Ed25519PrivateKey.generate()
STAMPS = Stamps([b"the-stamp-key-of-the-tests"])


def ring(*keys: Ed25519PrivateKey) -> KeyRing:
    return KeyRing(records={key_id(each.public_key()): each.public_key() for each in keys})


class Agent:
    """A store and the reader that fills it."""

    def __init__(self, bootstrap: str, path: Path, keys: KeyRing) -> None:
        self.keys = keys
        self.ignored = 0
        self.store = AnswerStore(path)
        self.woken: set[str] = set()
        self.events: list[Event] = []
        self.reader = AnswerReader(
            KafkaConnection(bootstrap=bootstrap),
            self,
            self.woken.update,
            lambda: datetime.now(UTC),
            lambda: self.keys,
            self._count_ignored,
            make_log(),
        )

    @property
    def added(self) -> list[str]:
        return [event.id for event in self.events]

    def _count_ignored(self) -> None:
        self.ignored += 1

    def position(self, feed: str) -> int | None:
        return self.store.position(feed)

    def add_events(
        self, events: Iterable[Event], now: datetime, positions: Mapping[str, int]
    ) -> Collection[str]:
        given = [*events]
        self.events += given
        return self.store.add_events(given, now, positions).udids


@pytest.fixture
def broker(kafka: KafkaCluster) -> str:
    make_topics(kafka.bootstrap, "london")
    return kafka.bootstrap


@contextmanager
def running(bootstrap: str, path: Path, keys: KeyRing | None = None) -> Iterator[Agent]:
    agent = Agent(bootstrap, path, keys or ring(GATEWAY_KEY))
    agent.reader.start()
    try:
        wait_until(agent.reader.is_current, LIMIT_S, "the topics are not read to their ends")
        yield agent
    finally:
        agent.reader.stop()
        agent.reader.join(LIMIT_S)
        agent.store.close()


def record(event: Event, key: Ed25519PrivateKey | None = GATEWAY_KEY) -> Record:
    """Return the record of a gateway with this key."""
    [one] = event_records([event], STAMPS, None if key is None else lambda: key)
    return one


def publish(bootstrap: str, *records: Record) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for each in records:
        producer.send(each.topic, key=each.key, value=each.value)
    producer.close()


def enrolled(udid: str) -> list[Event]:
    mdm = FakeMdm(datetime.now(UTC))
    mdm.enroll(udid, OSVersion="26.1", BuildVersion="25B78")
    return mdm.take_events()


def test_answers_of_the_past_and_of_now_reach_the_store(broker: str, tmp_path: Path) -> None:
    before = enrolled("MAC-1")
    signed = sign_record(b'{"no":"event"}', REPORT_RECORD, GATEWAY_KEY)
    publish(broker, *map(record, before), Record(CHECKINS.name, b"x", signed))
    with running(broker, tmp_path / "answers") as agent:
        assert {event.id for event in before} <= {*agent.added}
        assert agent.store.facts("MAC-1").is_enrolled
        publish(broker, *map(record, enrolled("MAC-2")))
        wait_until(
            lambda: bool(agent.store.facts("MAC-2").is_enrolled), LIMIT_S, "not read while running"
        )


def test_report_of_another_source_than_mdm_is_not_verified(broker: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    reports = [
        make.reported("MAC-5", now, source, os_version="26.1", serial="C02MAC5")
        for source in ("osquery", "mdm")
    ]
    with running(broker, tmp_path / "answers") as agent:
        ignored = agent.ignored
        publish(broker, *(record(each, None) for each in reports))
        wait_until(lambda: agent.ignored > ignored, LIMIT_S, "not read")
        publish(broker, *map(record, reports))
        wait_until(lambda: agent.store.facts("MAC-5").os_version is not None, LIMIT_S, "not read")
    assert agent.ignored == ignored + 1
    assert agent.added[-1] == reports[1].id
    assert reports[0].id not in agent.added


def test_restarted_reader_continues_at_its_positions(broker: str, tmp_path: Path) -> None:
    publish(broker, *map(record, enrolled("MAC-3")))
    with running(broker, tmp_path / "answers"):
        pass
    after = enrolled("MAC-4")
    publish(broker, *map(record, after))
    with running(broker, tmp_path / "answers") as agent:
        assert {*agent.added} == {event.id for event in after}


def test_positions_of_another_cluster_are_not_used(broker: str, tmp_path: Path) -> None:
    events = enrolled("MAC-5")
    publish(broker, *map(record, events))
    with AnswerStore(tmp_path / "answers") as store:
        names = [f"{CHECKINS.name}/{number}" for number in range(PARTITIONS)]
        store.add_events((), datetime.now(UTC), dict.fromkeys(names, 10**9))
    with running(broker, tmp_path / "answers") as agent:
        assert {event.id for event in events} <= {*agent.added}


def altered(one: Record) -> Record:
    """Return the record with the bytes of another Mac, and its signature and stamp."""
    assert b"MAC-6" in one.value
    return one._replace(value=one.value.replace(b"MAC-6", b"MAC-7"))


def with_later_time(one: Record) -> Record:
    """Return the genuine record with a time in 2099 in the place of the stamp."""
    members = b'A","time":"2099-01-01T00:00:00Z","x":"AAAAA'
    signed = one.value[:-STAMP_BYTES]
    return one._replace(value=signed + b',"stamp":"' + members + b'"}')


def of_other_type(one: Record) -> Record:
    """Return the record signed as an operator's."""
    return one._replace(value=sign_record(one.value, CONTROL_RECORD, GATEWAY_KEY))


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda event: record(event, None), id="stamped, not signed"),
        pytest.param(lambda event: record(event, STRANGER_KEY), id="signed by a stranger"),
        pytest.param(lambda event: altered(record(event)), id="altered after the signature"),
        pytest.param(lambda event: of_other_type(record(event, None)), id="signed as control"),
    ],
)
def test_forged_record_is_ignored_and_counted(
    broker: str, tmp_path: Path, forge: Callable[[Event], Record]
) -> None:
    forged, genuine = enrolled("MAC-6"), enrolled("MAC-8")
    with running(broker, tmp_path / "answers") as agent:
        publish(broker, *map(forge, forged))
        wait_until(lambda: agent.ignored >= len(forged), LIMIT_S, "not counted")
        publish(broker, *map(record, genuine))
        wait_until(
            lambda: bool(agent.store.facts("MAC-8").is_enrolled), LIMIT_S, "genuine one not read"
        )
        assert agent.store.facts("MAC-6").is_enrolled is None
        assert agent.store.facts("MAC-7").is_enrolled is None


def test_records_of_a_key_that_is_trusted_later_are_read_again(broker: str, tmp_path: Path) -> None:
    events = enrolled("MAC-9")
    with running(broker, tmp_path / "answers") as agent:
        publish(broker, *(record(event, NEW_KEY) for event in events))
        wait_until(lambda: agent.ignored >= len(events), LIMIT_S, "not counted")
        agent.keys = ring(GATEWAY_KEY, NEW_KEY)
        wait_until(
            lambda: bool(agent.store.facts("MAC-9").is_enrolled), LIMIT_S, "not read with its key"
        )


def test_records_ignored_before_a_restart_are_read_with_their_key(
    broker: str, tmp_path: Path
) -> None:
    ignored, after = enrolled("MAC-11"), enrolled("MAC-12")
    both = ring(GATEWAY_KEY, NEW_KEY)
    with running(broker, tmp_path / "answers") as agent:
        # The same key is the same partition: the position passes the ignored records.
        untrusted = [record(event, NEW_KEY) for event in ignored]
        trusted = [record(event)._replace(key=untrusted[0].key) for event in after]
        publish(broker, *untrusted, *trusted)
        wait_until(lambda: bool(agent.store.facts("MAC-12").is_enrolled), LIMIT_S, "not read")
    with running(broker, tmp_path / "answers") as agent:
        assert agent.added == []
    with running(broker, tmp_path / "answers", both) as agent:
        assert agent.store.facts("MAC-11").is_enrolled
    with running(broker, tmp_path / "answers", both) as agent:
        assert agent.added == []


def test_members_in_the_place_of_the_stamp_do_not_count(broker: str, tmp_path: Path) -> None:
    events = enrolled("MAC-10")
    with running(broker, tmp_path / "answers") as agent:
        publish(broker, *(with_later_time(record(event)) for event in events))
        wait_until(
            lambda: bool(agent.store.facts("MAC-10").is_enrolled), LIMIT_S, "genuine part not read"
        )
        found = {event.time for event in agent.events if event.subject == "MAC-10"}
        assert found == {event.time for event in events}
