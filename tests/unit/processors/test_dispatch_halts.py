"""The halt of an action that dispatch sets, when too many Macs of a site got a job for it."""

from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

from pipeline.embedded.control_events import halt_cleared
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.shard_config import ShardConfig
from pipeline.reconcile.automatic_halt import action_scope
from schemas.envelope import HaltSetEvent, JobIssuedEvent, decode, encode
from schemas.jobs import Action, Method
from schemas.topics import (
    CONTROL,
    DEAD_LETTERS,
    DISPATCH,
    HALTS,
    INVENTORY,
    JOB_PARTITIONS,
    jobs_topic,
)
from tests import factories as make
from tests.factories import HOUR, NOW
from tests.factories.sites import JOBS_KEY, KEYS, signed_control, signed_job

POLICY = """\
version: 1
blast_radius: {jobs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 1000}
default_site: london
"""
SCOPE = action_scope("london", Action.REENROLL)
COUNTS = {INVENTORY.name: 4, DISPATCH.name: 1, DEAD_LETTERS.name: 1}


class InputRecord(NamedTuple):
    offset: int
    value: bytes | None
    key: bytes | None = b"london"


class Site:
    """A dispatch shard, and the broadcast topics that it reads."""

    def __init__(self) -> None:
        self.broadcast = BroadcastState(KEYS.approvals, None, KEYS.control, KEYS.jobs)
        self.control: list[bytes] = [signed_control(make.policy_changed(POLICY))]
        self.halts: list[bytes] = []
        self.rows: dict[bytes, bytes] = {}
        self.shard = self.start()

    def start(self) -> DispatchShard:
        """Return a new owner with the stored rows."""
        config = ShardConfig(JOBS_KEY, KEYS.jobs, COUNTS)
        topics = {jobs_topic("london"): JOB_PARTITIONS}
        self.shard = DispatchShard(0, self.broadcast, config, topics)
        for key, row in self.rows.items():
            self.shard.load(key, row)
        self.read_broadcasts()
        self.shard.begin(NOW)
        self.shard.finish_catch_up()
        return self.shard

    def read_broadcasts(self) -> None:
        for topic, written in ((CONTROL, self.control), (HALTS, self.halts)):
            for offset, raw in enumerate(written):
                record = self.broadcast.fold_record(topic.name, offset, raw)
                assert record is None or record.rejection is None, record

    def issue(
        self,
        numbers: Iterable[int],
        *,
        action: Action = Action.REENROLL,
        after: timedelta = timedelta(0),
        lasts: timedelta = timedelta(days=3),
    ) -> None:
        records = []
        for number in numbers:
            method = Method.PROFILES_RENEW if action is Action.REENROLL else Method.DDM
            job = make.job(
                udid=f"MAC-{number}",
                action=action,
                method=method,
                issued_at=NOW + after,
                lasts=lasts,
                site_macs=10,
                generation=int(after > timedelta(0)),
            ).model_copy(update={"report_by": NOW + after + lasts})
            issued = JobIssuedEvent(
                id=job.job_id, source="/test", subject=job.udid, time=NOW, data=signed_job(job)
            )
            records.append(InputRecord(number, encode(issued)))
        self.shard.process_records(DISPATCH.name, records, NOW + after)

    def tick(self, after: timedelta = timedelta(0)) -> tuple[list[str], int]:
        """Return the Macs whose jobs are published, and the number of halts."""
        self.shard.tick(NOW + after)
        output = self.shard.collect()
        for key, row in output.rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        macs, halts = [], 0
        for post in output.records:
            event = decode(post.value)
            if isinstance(event, HaltSetEvent):
                assert (post.topic, post.partition) == (HALTS.name, 0)
                self.halts.append(post.value)
                halts += 1
            else:
                macs.append(event.subject)
        return macs, halts

    def resume(self, after: timedelta) -> None:
        self.control.append(signed_control(halt_cleared(SCOPE, "ada", NOW + after)))
        self.read_broadcasts()


def test_sixth_mac_of_a_small_site_halts_the_action() -> None:
    site = Site()
    site.issue(range(8))
    published, halts = site.tick()
    assert (len(published), halts) == (5, 1)
    assert site.tick(HOUR) == ([], 0), "before the halt is read"
    site.read_broadcasts()
    (halt,) = site.broadcast.fleet.halts()
    assert halt.is_automatic
    assert halt.scope == SCOPE
    assert site.tick(2 * HOUR) == ([], 0)


def test_other_action_of_the_site_goes_on() -> None:
    site = Site()
    site.issue(range(8))
    site.tick()
    site.issue(range(20, 30), action=Action.UPDATE)
    published, halts = site.tick()
    assert (len(published), halts) == (10, 0)


def test_resumed_action_is_halted_again_only_after_other_macs() -> None:
    site = Site()
    site.issue(range(8))
    first, _ = site.tick()
    site.read_broadcasts()
    site.resume(HOUR)
    published, halts = site.tick(HOUR)
    assert (len({*first, *published}), halts) == (8, 0)
    site.issue(range(10, 14))
    published, halts = site.tick(2 * HOUR)
    assert (len(published), halts) == (2, 1)


def test_new_owner_counts_the_jobs_of_its_predecessor() -> None:
    site = Site()
    site.issue(range(5))
    assert len(site.tick()[0]) == 5
    site.start()
    site.issue(range(6, 7))
    assert site.tick() == ([], 1)


def test_new_owner_knows_the_macs_of_short_jobs_before_the_resume() -> None:
    site = Site()
    site.issue(range(6), lasts=HOUR)
    first, _ = site.tick()
    assert len(first) == 5
    site.read_broadcasts()
    site.resume(20 * HOUR)
    site.tick(26 * HOUR)
    site.start()
    site.issue(range(6), after=27 * HOUR)
    published, halts = site.tick(27 * HOUR)
    assert (len(published), halts) == (6, 0), "second jobs of the five, and one other Mac"
    assert len(site.rows) == 11
    site.tick(48 * HOUR)
    assert len(site.rows) == 6, "the first jobs are forgotten"


def test_jobs_of_more_than_a_day_ago_do_not_count() -> None:
    site = Site()
    site.issue(range(5))
    site.tick()
    site.issue(range(6, 8))
    published, halts = site.tick(timedelta(days=1, seconds=1))
    assert (len(published), halts) == (2, 0)
