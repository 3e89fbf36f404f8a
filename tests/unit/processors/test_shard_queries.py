"""Queries of the Macs of a partition: to the topic of their site, each once in its interval."""

from collections import Counter
from datetime import datetime, timedelta
from typing import NamedTuple

import pytest

from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.shard_config import ShardConfig
from schemas.envelope import CloudEvent, encode
from schemas.queries import MacQuery, QueryKind
from schemas.signed_payloads import verify_query
from schemas.signing import Signed
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    INTERNAL_TOPICS,
    INVENTORY,
    TOPICS,
    queries_topic,
)
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    checked_out,
    enrolled,
    full_report,
    policy_changed,
    release,
)
from tests.factories.control import POLICY_TEXT
from tests.factories.sites import JOBS_KEY, KEYS

LONDON, TOKYO = queries_topic("london"), queries_topic("tokyo")
ALL = [QueryKind.DEVICE_INFORMATION, QueryKind.SECURITY_INFO, QueryKind.CERTIFICATE_LIST]
ENDS_AT = NOW + 365 * DAY


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


class Partition:
    """One partition with these topics for queries, over several owners."""

    def __init__(self, topics: dict[str, int], slice_size: int = 200) -> None:
        self.topics, self.slice_size = topics, slice_size
        self.rows: dict[bytes, bytes | None] = {}
        self.counted: Counter[QueryKind] = Counter()
        self.broadcast = BroadcastState(KEYS.approvals)
        self.put_in_force(POLICY_TEXT)
        self.own(NOW)

    def put_in_force(self, text: str, when: datetime = NOW - DAY) -> None:
        at = self.broadcast.next_offsets[CONTROL.name]
        self.broadcast.fold_record(CONTROL.name, at, encode(policy_changed(text, when)))

    def own(self, now: datetime) -> None:
        """Begin as a new owner, with the rows of the former one."""
        counts = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
        config = ShardConfig(
            *(JOBS_KEY, KEYS.jobs, counts), refresh=timedelta(0), slice_size=self.slice_size
        )
        self.shard = DeviceShard(0, self.broadcast, config, self.topics)
        for key, row in self.rows.items():
            assert row is not None
            self.shard.load(key, row)
        self.shard.begin(now)
        self.shard.finish_catch_up()

    def fold(self, topic: str, *events: CloudEvent, now: datetime = NOW) -> None:
        self.shard.process_records(
            topic, [Record(number, None, encode(event)) for number, event in enumerate(events)], now
        )

    def asked(self, now: datetime = NOW) -> list[MacQuery]:
        """Do all due work at `now`; return the queries that were published, in order."""
        found = []
        has_more = True
        while has_more:
            has_more = self.shard.tick(now)
            output = self.shard.collect()
            self.rows |= output.rows
            self.counted += output.counters.due_queries
            for record in output.records:
                if record.topic in {LONDON, TOKYO}:
                    query = verify_query(Signed.model_validate_json(record.value), KEYS.jobs)
                    assert (record.topic, record.key) == (
                        queries_topic(query.site),
                        query.udid.encode(),
                    )
                    found.append(query)
        return found

    def enroll(self, when: datetime, udid: str = UDID) -> None:
        self.fold(CHECKINS.name, *enrolled(udid, when), now=when)


@pytest.fixture
def partition() -> Partition:
    found = Partition({LONDON: 1})
    found.enroll(NOW)
    return found


def test_enrolled_mac_is_queried_at_once_and_again_after_a_day(partition: Partition) -> None:
    first = partition.asked()
    assert [query.kind for query in first] == ALL
    assert {query.expires_at for query in first} == {NOW + DAY}
    assert partition.asked(NOW + DAY - HOUR) == []
    assert [query.kind for query in partition.asked(NOW + DAY)] == ALL
    assert partition.counted == Counter(ALL * 2)


def test_report_postpones_the_query(partition: Partition) -> None:
    partition.asked()
    later = NOW + DAY - HOUR
    partition.fold(INVENTORY.name, full_report(when=later, identity_expires_at=ENDS_AT), now=later)
    assert partition.asked(NOW + DAY) == []
    assert len(partition.asked(later + DAY)) == len(ALL)


def test_open_job_makes_the_query_of_the_version_due_after_an_hour(partition: Partition) -> None:
    partition.broadcast.fold_record(ADVISORIES.name, 0, encode(release("26.2")))
    partition.fold(INVENTORY.name, full_report("26.1", when=NOW, identity_expires_at=ENDS_AT))
    assert partition.asked() == []
    assert partition.shard.reconciler.open_jobs
    asked = partition.asked(NOW + HOUR)
    assert [(query.kind, query.is_urgent) for query in asked] == [(ALL[0], True)]
    assert asked[0].expires_at == NOW + 2 * HOUR


def test_mac_whose_enrollment_ended_is_not_queried(partition: Partition) -> None:
    partition.fold(CHECKINS.name, checked_out(when=NOW + HOUR), now=NOW + HOUR)
    assert partition.asked(NOW + HOUR) == []


def test_new_enrollment_is_queried_at_once(partition: Partition) -> None:
    partition.asked()
    partition.fold(
        INVENTORY.name, full_report(when=NOW + HOUR, identity_expires_at=ENDS_AT), now=NOW + HOUR
    )
    partition.enroll(NOW + 2 * HOUR)
    assert QueryKind.SECURITY_INFO in {query.kind for query in partition.asked(NOW + 2 * HOUR)}


def test_new_owner_asks_again_for_what_has_no_answer(partition: Partition) -> None:
    first = partition.asked()
    partition.own(NOW + HOUR)
    again = partition.asked(NOW + HOUR)
    assert [query.known_us for query in again] == [query.known_us for query in first]
    partition.fold(
        INVENTORY.name, full_report(when=NOW + HOUR, identity_expires_at=ENDS_AT), now=NOW + HOUR
    )
    partition.asked(NOW + HOUR)
    partition.own(NOW + 2 * HOUR)
    assert partition.asked(NOW + 2 * HOUR) == []


def test_site_is_queried_once_it_has_a_topic() -> None:
    partition = Partition({})
    partition.enroll(NOW)
    assert partition.asked() == []
    partition.topics[LONDON] = 1
    assert [query.kind for query in partition.asked(NOW + HOUR)] == ALL


def test_new_policy_moves_the_queries_to_the_new_site(partition: Partition) -> None:
    partition.asked()
    moved = POLICY_TEXT.replace("default_site: london", "default_site: tokyo")
    partition.put_in_force(moved, NOW)
    assert partition.asked(NOW + DAY) == []
    partition.topics[TOKYO] = 1
    assert {query.site for query in partition.asked(NOW + DAY + HOUR)} == {"tokyo"}


def test_each_round_publishes_a_limited_number() -> None:
    partition = Partition({LONDON: 1}, slice_size=3)
    for number in range(10):
        partition.enroll(NOW, f"M{number}")
    while not (records := partition.shard.collect().records):
        assert partition.shard.tick(NOW)
    assert len([one for one in records if one.topic == LONDON]) <= 3
    assert len(partition.asked()) >= 10 * len(ALL) - 3
