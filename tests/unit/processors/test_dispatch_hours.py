"""Dispatch: the jobs of each action that a site gets in an hour, over all its partitions."""

from datetime import datetime

import pytest

from pipeline.processors.dispatch_shard import DispatchShard
from schemas.envelope import JobIssuedEvent, decode
from schemas.jobs import Action, Job, Method
from schemas.results import Outcome
from schemas.topics import DISPATCH, INVENTORY, partition_of
from tests import factories
from tests.factories import HOUR, NOW
from tests.unit.processors.test_dispatch_shard import (
    InputRecord,
    a_config,
    a_shard,
    as_record,
    issued,
    restarted,
)

LIMITED = """\
version: 1
sites:
  london: {time_zone: Europe/London, max_jobs: 100}
default_site: london
"""
MINUTE = HOUR / 60
UDIDS = [f"MAC-{number}" for number in range(24)]


def an_update(udid: str, macs: int) -> Job:
    return factories.job(udid=udid, issued_at=NOW, site_macs=macs)


def published(shard: DispatchShard, now: datetime, *jobs: Job) -> list[str]:
    """Return the UDIDs of the Macs whose jobs are published after these."""
    records = [InputRecord(0, as_record(issued(job))) for job in jobs]
    shard.process_records(DISPATCH.name, records, now)
    shard.tick(now)
    found = [decode(post.value) for post in shard.collect().records]
    return [one.data.job.udid for one in found if isinstance(one, JobIssuedEvent)]


def of_partition(partition: int) -> list[str]:
    count = a_config().partitions[INVENTORY.name]
    return [udid for udid in UDIDS if partition_of(udid, count) == partition]


def test_a_small_site_gets_one_update_an_hour() -> None:
    shard = a_shard(LIMITED)
    assert len(published(shard, NOW, *(an_update(udid, 3) for udid in UDIDS))) == 1
    assert published(shard, NOW + MINUTE) == []
    assert len(published(shard, NOW.replace(minute=0) + HOUR)) == 1


def test_limit_is_a_share_of_the_macs_of_all_partitions() -> None:
    shard = a_shard(LIMITED)
    first = [an_update(udid, 100) for udid in of_partition(0)]
    assert len(published(shard, NOW, *first)) == 2
    second = [an_update(udid, 150) for udid in of_partition(1)]
    assert len(published(shard, NOW, *second)) == 3, "2 % of 250"


def test_newest_number_of_a_partition_counts() -> None:
    shard = a_shard(LIMITED)
    one, other = of_partition(2)[:2]
    later = factories.job(udid=one, issued_at=NOW + MINUTE, site_macs=100)
    before = factories.job(udid=other, issued_at=NOW, site_macs=1000)
    assert len(published(shard, NOW + MINUTE, later, before)) == 2
    rest = [an_update(udid, 1) for udid in of_partition(2)[2:]]
    assert published(shard, NOW + MINUTE, *rest) == []


def test_another_action_does_not_wait_for_the_hour() -> None:
    shard = a_shard(LIMITED)
    assert len(published(shard, NOW, *(an_update(udid, 3) for udid in UDIDS[:3]))) == 1
    reinstall = factories.job(
        "seal", udid="MAC-20", action=Action.REINSTALL, method=Method.STARTOSINSTALL, issued_at=NOW
    )
    assert published(shard, NOW, reinstall) == ["MAC-20"]


@pytest.mark.parametrize("outcome", [None, Outcome.FAILED])
def test_count_survives_a_change_of_the_owner(outcome: Outcome | None) -> None:
    shard = a_shard(LIMITED)
    jobs = [an_update(udid, 3) for udid in UDIDS]
    shard.process_records(DISPATCH.name, [InputRecord(0, as_record(issued(j))) for j in jobs], NOW)
    shard.tick(NOW)
    if outcome is not None:
        (sent,) = [job for job in jobs if shard.jobs[job.job_id].dispatched_us]
        ended = as_record(factories.resulted(sent, outcome, NOW))
        shard.process_records(DISPATCH.name, [InputRecord(1, ended)], NOW)
    rows = {key: row for key, row in shard.collect().rows.items() if row is not None}
    again = restarted(rows, policy=LIMITED)
    assert published(again, NOW + MINUTE) == []
    assert len(published(again, NOW.replace(minute=0) + HOUR)) == 1
