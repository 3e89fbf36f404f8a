"""A worker folds only records that a gateway or a feed stamped."""

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import pytest

from pipeline.gateway.records import event_records
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.shard_config import ShardConfig
from pipeline.trust.stamps import Stamps
from schemas.envelope import Event, encode
from schemas.topics import ADVISORIES, CHECKINS, INTERNAL_TOPICS, INVENTORY, TOPICS, Topic
from tests import factories as make
from tests.factories.sites import JOBS_KEY, KEYS, START, critical_release, osquery_report

STAMPS = Stamps([b"the-key-of-the-gateways", b"the-key-before-it"])
STRANGER = Stamps([b"the-key-of-a-stranger"])
REPORT = encode(osquery_report("MAC-1", os_version="26.1"))
CHECK_IN = encode(make.polled("MAC-1", START))
RELEASE = encode(critical_release("26.2", "25C56"))
FORGED: dict[str, Callable[[bytes], bytes]] = {
    "without a stamp": lambda raw: raw,
    "stamped by a stranger": STRANGER.stamp,
    "changed after the stamp": lambda raw: STAMPS.stamp(raw).replace(b"MAC-1", b"MAC-2"),
    "with bytes after the stamp": lambda raw: STAMPS.stamp(raw) + b" ",
    "empty": lambda _: b"",
}


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


def a_shard(*, fast_paths: bool = True) -> DeviceShard:
    partitions = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
    config = ShardConfig(
        *(JOBS_KEY, KEYS.jobs, partitions),
        refresh=timedelta(0),
        fast_paths=fast_paths,
        stamps=STAMPS,
    )
    shard = DeviceShard(0, BroadcastState(KEYS.approvals, STAMPS), config)
    shard.begin(START)
    shard.finish_catch_up()
    return shard


def process(shard: DeviceShard, topic: Topic, raw: bytes) -> int:
    return shard.process_records(topic.name, [Record(0, None, raw)], START)


@pytest.mark.parametrize("fast_paths", [True, False])
@pytest.mark.parametrize(("topic", "raw"), [(INVENTORY, REPORT), (CHECKINS, CHECK_IN)])
@pytest.mark.parametrize("case", FORGED)
def test_record_without_a_valid_stamp_is_a_dead_letter(
    topic: Topic, raw: bytes, case: str, fast_paths: bool
) -> None:
    shard = a_shard(fast_paths=fast_paths)
    assert process(shard, topic, FORGED[case](raw)) == 1
    output = shard.collect()
    assert output.counters.dead_letters == {(topic.name, "unstamped"): 1}
    assert (shard.reconciler.fleet.devices, [*output.rows]) == ({}, [])


@pytest.mark.parametrize("fast_paths", [True, False])
def test_stamped_records_are_folded_also_with_the_older_key(fast_paths: bool) -> None:
    shard = a_shard(fast_paths=fast_paths)
    older = Stamps(STAMPS.keys[1:])
    again = encode(osquery_report("MAC-1", START + make.HOUR, os_version="26.1"))
    for stamps, raw in ((STAMPS, REPORT), (older, again)):
        assert process(shard, INVENTORY, stamps.stamp(raw)) == 0
    assert [*shard.reconciler.fleet.devices] == ["MAC-1"]
    assert not shard.collect().counters.dead_letters


def test_records_of_a_gateway_are_folded() -> None:
    shard, state = a_shard(), BroadcastState(KEYS.approvals, STAMPS)
    events: list[Event] = [
        osquery_report("MAC-1"),
        make.polled("MAC-1", START),
        critical_release("26.2", "25C56"),
    ]
    for record in event_records(events, STAMPS):
        if record.topic == ADVISORIES.name:
            folded = state.fold_record(record.topic, 0, record.value)
            assert folded is not None
            assert folded.rejection is None
        else:
            found = Record(0, record.key, record.value)
            assert shard.process_records(record.topic, [found], START) == 0


def test_duplicate_of_a_report_needs_a_stamp_too() -> None:
    """The fast path recognises it by its values, which anybody can copy."""
    shard = a_shard()
    assert process(shard, INVENTORY, STAMPS.stamp(REPORT)) == 0
    later = encode(osquery_report("MAC-1", START + make.HOUR, os_version="26.1"))
    assert process(shard, INVENTORY, later) == 1


@pytest.mark.parametrize("case", ["without a stamp", "stamped by a stranger", "empty"])
def test_advisory_without_a_valid_stamp_is_rejected(case: str) -> None:
    state = BroadcastState(KEYS.approvals, STAMPS)
    record = state.fold_record(ADVISORIES.name, 0, FORGED[case](RELEASE))
    assert record is not None
    assert record.rejection is not None
    assert record.rejection.code == "unstamped"
    assert state.fleet.advisories.to_wire() == {}


def test_stamped_advisory_is_folded() -> None:
    state = BroadcastState(KEYS.approvals, STAMPS)
    record = state.fold_record(ADVISORIES.name, 0, STAMPS.stamp(RELEASE))
    assert record is not None
    assert record.rejection is None


def test_records_without_a_stamp_never_count_for_the_limit_of_dead_letters() -> None:
    shard = a_shard()
    for number in range(150):
        process(shard, INVENTORY, REPORT.replace(b"MAC-1", b"MAC-%d" % number))
    assert shard.pop_unusable() == {}
    process(shard, INVENTORY, STAMPS.stamp(b'{"sender": "mdm"}'))
    assert shard.pop_unusable() == {"mdm": 1}
    assert shard.pop_unusable() == {}
