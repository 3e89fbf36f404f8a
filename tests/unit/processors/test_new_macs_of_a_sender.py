"""A flood of invented Macs on Kafka: dead letters, and a worker that goes on."""

from typing import NamedTuple

from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.shard_config import ShardConfig
from schemas.envelope import encode
from schemas.topics import CONTROL, INTERNAL_TOPICS, INVENTORY, TOPICS
from tests import factories as make
from tests.factories import NOW
from tests.factories.sites import JOBS_KEY, KEYS

PARTITIONS = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
POLICY = "sites: {london: {time_zone: Europe/London}}\nblast_radius: {new_macs_per_hour: 5}\n"


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


def test_invented_macs_are_dead_letters_that_do_not_stop_the_worker() -> None:
    broadcast = BroadcastState(KEYS.approvals)
    broadcast.fold_record(CONTROL.name, 0, encode(make.policy_changed(POLICY)))
    shard = DeviceShard(0, broadcast, ShardConfig(JOBS_KEY, KEYS.jobs, PARTITIONS))
    shard.begin(NOW)
    shard.finish_catch_up()
    records = []
    for number in range(200):
        report = make.full_report(udid=f"MAC-{number}", serial=f"C02{number:07}", source="osquery")
        received = report.model_copy(update={"sender": "osquery", "receivedat": NOW})
        records.append(Record(number, None, encode(received)))
    # Neither used nor unusable: they do not show whether this program works.
    assert shard.process_records(INVENTORY.name, records, NOW) == 195
    assert shard.pop_unusable() == {}
    assert shard.collect().counters.dead_letters == {(INVENTORY.name, "too_many_new"): 195}
    assert len(shard.reconciler.fleet.devices) == 5
