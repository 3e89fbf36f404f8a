"""The rows of a round of one shard of Macs."""

from datetime import timedelta
from typing import NamedTuple

from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.shard_config import ShardConfig
from schemas.envelope import encode
from schemas.topics import INTERNAL_TOPICS, INVENTORY, TOPICS
from tests.factories import HOUR, NOW, UDID, reported
from tests.factories.sites import JOBS_KEY, KEYS


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


def test_row_of_a_duplicate_report_is_written_in_its_round_without_a_refresh() -> None:
    """The offset of the report is committed after this round, so a later row could be lost."""
    partitions = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
    config = ShardConfig(JOBS_KEY, KEYS.jobs, partitions, refresh=timedelta(0))
    shard = DeviceShard(0, BroadcastState(KEYS.approvals), config)
    shard.begin(NOW)
    shard.finish_catch_up()
    for number in range(3):
        raw = encode(reported(UDID, NOW + number * HOUR, serial="C02TEST0001"))
        shard.process_records(INVENTORY.name, [Record(number, None, raw)], NOW + number * HOUR)
        shard.tick(NOW + number * HOUR)
        assert UDID.encode() in shard.collect().rows
