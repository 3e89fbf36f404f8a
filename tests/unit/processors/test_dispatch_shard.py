"""Dispatch: order of waiting jobs, capacity of a site, repeated events, restarts, dead letters."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

import msgspec
import pytest

from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.queued_job import Stage
from pipeline.processors.rows import EPOCH_KEY, EpochRow, InvalidRow
from pipeline.processors.shard_config import ShardConfig
from pipeline.state.device import to_us
from schemas.dead_letters import DeadLetter
from schemas.envelope import CloudEvent, JobIssuedEvent, JobSupersededEvent, decode, encode
from schemas.ids import event_id
from schemas.jobs import Action, Job, Method
from schemas.results import Outcome
from schemas.topics import (
    CONTROL,
    DEAD_LETTERS,
    DISPATCH,
    INVENTORY,
    JOB_PARTITIONS,
    jobs_topic,
    partition_of,
)
from tests import factories
from tests.factories import DAY, HOUR, NOW
from tests.factories.sites import JOBS_KEY, KEYS, STRANGER_KEY, signed_job, signed_withdrawal

POLICY = """\
version: 1
blast_radius: {jobs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 1}
default_site: london
"""
TOPICS = {jobs_topic("london"): JOB_PARTITIONS}


class InputRecord(NamedTuple):
    offset: int
    value: bytes | None
    key: bytes | None = b"london"


def a_shard(
    policy: str | None = POLICY,
    *,
    topics: Mapping[str, int] = TOPICS,
    config: ShardConfig | None = None,
    is_begun: bool = True,
) -> DispatchShard:
    """Return a shard that owns its partition; its site may have one open job."""
    broadcast = BroadcastState(KEYS.approvals)
    if policy is not None:
        broadcast.fold_record(CONTROL.name, 0, encode(factories.policy_changed(policy)))
    shard = DispatchShard(0, broadcast, config or a_config(), topics)
    if is_begun:
        shard.begin(NOW)
        shard.finish_catch_up()
    return shard


def a_config() -> ShardConfig:
    counts = {INVENTORY.name: 4, DISPATCH.name: 1, DEAD_LETTERS.name: 1}
    return ShardConfig(JOBS_KEY, KEYS.jobs, counts)


def issued(job: Job) -> JobIssuedEvent:
    return JobIssuedEvent(
        id=event_id("issued", job.job_id),
        source="/test",
        subject=job.udid,
        time=job.issued_at,
        data=signed_job(job),
    )


FIRST = factories.job(udid="MAC-1")
SECOND = factories.job(udid="MAC-2", issued_at=NOW - HOUR)


def result(outcome: Outcome, *, attempt: int = 1) -> CloudEvent:
    return factories.resulted(FIRST, outcome, NOW, attempt=attempt)


def dispatched(shard: DispatchShard, events: Iterable[CloudEvent]) -> list[CloudEvent]:
    """Return the events that are published to the site's executors after these."""
    records = [InputRecord(0, as_record(event)) for event in events]
    shard.process_records(DISPATCH.name, records, NOW)
    shard.tick(NOW)
    return [decode(post.value) for post in shard.collect().records]


def as_record(event: CloudEvent) -> bytes:
    """Return the event as its worker writes it: a withdrawal is signed."""
    return signed_withdrawal(event) if isinstance(event, JobSupersededEvent) else encode(event)


WITHDRAWN = factories.superseded(FIRST)
STARTED, DONE = result(Outcome.STARTED), result(Outcome.SUCCEEDED, attempt=0)
INFERRED = result(Outcome.EXPIRED, attempt=0)
ACCEPTED, WITHHELD = result(Outcome.ACCEPTED), result(Outcome.WITHHELD)
REFUSED = result(Outcome.REFUSED)
REHEARSED = result(Outcome.REHEARSED, attempt=0)


@pytest.mark.parametrize(
    "events",
    [
        (DONE,),
        (ACCEPTED, REFUSED),
        (WITHDRAWN,),
        (INFERRED,),
        (REHEARSED,),
        (ACCEPTED, WITHHELD, REHEARSED),
        (ACCEPTED, WITHHELD, WITHDRAWN),
        (WITHDRAWN, ACCEPTED, WITHHELD),
        (WITHDRAWN, STARTED, DONE),
        (INFERRED, STARTED, DONE),
        (WITHDRAWN, STARTED, DONE, STARTED),
        (WITHDRAWN, STARTED, DONE, WITHDRAWN, STARTED),
    ],
    ids=[
        *("done", "refused", "withdrawn", "expired", "rehearsed", "withheld and rehearsed"),
        *("withheld and withdrawn", "withdrawn and withheld"),
        *("withdrawn too late", "expired too soon"),
        *("start repeated after the end", "all repeated after the end"),
    ],
)
def test_capacity_is_free_after_the_end(events: tuple[CloudEvent, ...]) -> None:
    shard = a_shard()
    assert dispatched(shard, [issued(FIRST), issued(SECOND)]) == [issued(FIRST)]
    assert issued(SECOND) in dispatched(shard, events)


@pytest.mark.parametrize(
    "events",
    [
        (),
        (WITHDRAWN, STARTED),
        (INFERRED, STARTED),
        (WITHDRAWN, STARTED, WITHDRAWN),
        (ACCEPTED, WITHHELD),
    ],
    ids=["dispatched", "withdrawn too late", "expired too soon", "withdrawal repeated", "withheld"],
)
def test_capacity_is_used_while_an_executor_works(events: tuple[CloudEvent, ...]) -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST), *events])
    assert dispatched(shard, [issued(SECOND)]) == []


def test_job_withdrawn_while_it_waits_is_never_published() -> None:
    shard = a_shard()
    assert dispatched(shard, [issued(SECOND), issued(FIRST), WITHDRAWN]) == [issued(SECOND)]
    assert dispatched(shard, [factories.resulted(SECOND, Outcome.FAILED, NOW)]) == []


def test_withdrawal_follows_a_published_job() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST)])
    [withdrawal] = dispatched(shard, [WITHDRAWN])
    assert isinstance(withdrawal, JobSupersededEvent)


MINUTE = timedelta(minutes=1)
FRESH = factories.job(udid="MAC-1", issued_at=NOW)


def repeated(shard: DispatchShard, minutes: float, *, raw: bytes | None = None) -> list[bytes]:
    """Return the events that are published after a repeat, this long after the job's issue."""
    now = NOW + minutes * MINUTE
    shard.process_records(DISPATCH.name, [InputRecord(9, raw or encode(issued(FRESH)))], now)
    shard.tick(now)
    output = shard.collect()
    assert output.counters.offered_again.total() == len(output.records)
    assert output.rows == {}
    return [post.value for post in output.records]


def test_dispatched_job_that_its_owner_repeats_after_minutes_is_published_again() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FRESH)])
    assert repeated(shard, 0.1) == repeated(shard, 2.4) == []
    assert repeated(shard, 5) == repeated(shard, 15) == [encode(issued(FRESH))]
    assert repeated(shard, 10 * 60) == [], "it has expired"


def test_withdrawn_job_is_not_published_again() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FRESH), factories.superseded(FRESH)])
    assert repeated(shard, 5) == []


@pytest.mark.parametrize("known", [Outcome.STARTED, Outcome.FAILED])
def test_job_whose_owner_lost_its_result_is_published_again(known: Outcome) -> None:
    """The executor has it, and reports its newest result again."""
    shard = a_shard()
    dispatched(shard, [issued(FRESH), factories.resulted(FRESH, known, NOW)])
    assert repeated(shard, 1) == []
    assert repeated(shard, 5) == [encode(issued(FRESH))]


def test_repeat_of_a_waiting_job_changes_nothing() -> None:
    shard = a_shard()
    dispatched(shard, [issued(SECOND), issued(FRESH)])
    assert repeated(shard, 5) == []
    assert dispatched(shard, [factories.resulted(SECOND, Outcome.FAILED, NOW)]) == [issued(FRESH)]


def test_forged_repeat_is_not_published() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FRESH)])
    assert letters(shard, encode(forged(FRESH))) == [
        ("bad_value", "$.data", f"{DISPATCH.name}/0/5")
    ]


def test_job_is_published_again_by_a_later_owner() -> None:
    shard = restarted(saved_rows(a_shard(), issued(FRESH)))
    assert repeated(shard, 5) == [encode(issued(FRESH))]


def test_job_of_a_site_that_lost_its_topic_waits_for_it() -> None:
    topics: dict[str, int] = {}
    shard = restarted(saved_rows(a_shard(), issued(FRESH)), topics=topics)
    now = NOW + 5 * MINUTE
    shard.process_records(DISPATCH.name, [InputRecord(9, encode(issued(FRESH)))], now)
    shard.tick(now)
    assert shard.collect().records == []
    assert list(shard.sites_without_topic()) == ["london"]
    topics |= TOPICS
    assert dispatched(shard, []) == [issued(FRESH)]


def test_withdrawal_of_a_started_job_reaches_its_executor_and_the_job_uses_capacity() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST), STARTED])
    assert dispatched(shard, [WITHDRAWN]) == [WITHDRAWN]
    assert shard.jobs[FIRST.job_id].stage is Stage.STARTED
    dispatched(shard, [result(Outcome.SUPERSEDED)])
    assert dispatched(shard, [WITHDRAWN]) == []
    assert shard.jobs[FIRST.job_id].stage is Stage.FINISHED


def test_withdrawal_for_a_site_that_lost_its_topic_is_not_published() -> None:
    shard = restarted(saved_rows(a_shard(), issued(FRESH)), topics={})
    assert dispatched(shard, [factories.superseded(FRESH)]) == []
    assert shard.jobs[FRESH.job_id].stage is Stage.WITHDRAWN


def test_ended_job_is_forgotten_after_its_last_time() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST), DONE])
    shard.tick(NOW + timedelta(days=30))
    assert shard.collect().rows == {FIRST.job_id.encode(): None}


# --- after a restart or a rebalance ---


def saved_rows(shard: DispatchShard, *events: CloudEvent) -> dict[bytes, bytes]:
    """Return the rows of the changelog after these events."""
    records = [InputRecord(0, as_record(event)) for event in events]
    shard.process_records(DISPATCH.name, records, NOW)
    shard.tick(NOW)
    return {key: row for key, row in shard.collect().rows.items() if row is not None}


def restarted(
    rows: dict[bytes, bytes],
    *,
    is_caught_up: bool = True,
    topics: Mapping[str, int] = TOPICS,
    policy: str = POLICY,
) -> DispatchShard:
    """Return the shard of a later owner that has loaded these rows."""
    shard = a_shard(policy, is_begun=False, topics=topics)
    shard.load(EPOCH_KEY, EpochRow(epoch=7).to_row())
    for key, row in rows.items():
        shard.load(key, row)
    shard.begin(NOW)
    if is_caught_up:
        shard.finish_catch_up()
    return shard


def test_capacity_stays_used_after_a_restart() -> None:
    shard = restarted(saved_rows(a_shard(), issued(FIRST)))
    assert dispatched(shard, [issued(SECOND)]) == []
    assert dispatched(shard, [DONE]) == [issued(SECOND)]


def test_capacity_of_a_started_job_stays_used_after_a_restart() -> None:
    shard = restarted(saved_rows(a_shard(), issued(FIRST), STARTED))
    assert dispatched(shard, [issued(SECOND)]) == []


def test_a_waiting_job_is_published_after_a_restart() -> None:
    rows = saved_rows(a_shard(), issued(FIRST), issued(SECOND))
    assert dispatched(restarted(rows), [DONE]) == [issued(SECOND)]


def test_nothing_is_published_before_the_backlog_is_read() -> None:
    shard = restarted({}, is_caught_up=False)
    assert dispatched(shard, [issued(FIRST)]) == []
    shard.finish_catch_up()
    assert dispatched(shard, []) == [issued(FIRST)]


def test_rows_have_the_epoch_of_their_owner() -> None:
    rows = saved_rows(restarted({}), issued(FIRST))
    assert msgspec.json.decode(rows[FIRST.job_id.encode()])["e"] == 7


def test_a_loaded_row_restores_the_job() -> None:
    shard = a_shard()
    rows = saved_rows(shard, issued(FIRST), issued(SECOND))
    assert restarted(rows).jobs == shard.jobs
    queued = shard.jobs[SECOND.job_id]
    assert queued.report_by_us == to_us(NOW - HOUR + 3 * DAY)
    assert queued.expires_us == to_us(SECOND.expires_at)
    assert queued.issued_event == encode(issued(SECOND))


@pytest.mark.parametrize("row", [b'{"e": 1}', b'{"e": 1, "job_id": "a", "order": 1}', b"no JSON"])
def test_an_unreadable_row_is_refused(row: bytes) -> None:
    with pytest.raises(InvalidRow):
        a_shard(is_begun=False).load(b"job-1", row)


def test_each_job_is_forgotten_at_its_own_time_after_a_restart() -> None:
    late = factories.job(udid="MAC-1", issued_at=NOW + 5 * DAY)
    early = factories.job(udid="MAC-2", issued_at=NOW)
    shard = restarted(saved_rows(a_shard(), issued(late), issued(early)))
    end = NOW + 3 * DAY + DAY  # `report_by` and one day
    shard.tick(end - timedelta(microseconds=1))
    assert set(shard.jobs) == {late.job_id, early.job_id}
    shard.tick(end)
    assert set(shard.jobs) == {late.job_id}
    assert shard.collect().rows[early.job_id.encode()] is None


def test_capacity_of_a_forgotten_job_is_free() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST)])
    later = NOW + 30 * DAY
    shard.tick(later)
    third = factories.job(udid="MAC-3", issued_at=later)
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(issued(third)))], later)
    shard.tick(later)
    assert [decode(post.value) for post in shard.collect().records] == [issued(third)]


# --- order of waiting jobs ---


def dispatch_order(*jobs: Job) -> list[str]:
    """Return the UDIDs of waiting jobs in the order in which they are dispatched, one at a time."""
    shard = a_shard()
    busy = factories.job(udid="MAC-0", issued_at=NOW - 5 * HOUR)
    dispatched(shard, [issued(busy)])
    dispatched(shard, map(issued, jobs))
    udids = []
    ended = busy
    for _ in jobs:
        [event] = dispatched(shard, [factories.resulted(ended, Outcome.FAILED, NOW)])
        assert isinstance(event, JobIssuedEvent)
        ended = event.data.job
        udids.append(ended.udid)
    return udids


def test_the_first_deadline_is_dispatched_first_then_the_first_issued() -> None:
    jobs = [
        factories.job(udid="NONE", issued_at=NOW - 4 * HOUR),
        factories.job(udid="LATE", issued_at=NOW - 3 * HOUR, deadline_at=NOW + 2 * DAY),
        factories.job(udid="SOON-2", issued_at=NOW - HOUR, deadline_at=NOW + DAY),
        factories.job(udid="SOON-1", issued_at=NOW - 2 * HOUR, deadline_at=NOW + DAY),
    ]
    assert dispatch_order(*jobs) == ["SOON-1", "SOON-2", "LATE", "NONE"]


def a_reenrollment(udid: str = "MAC-3") -> Job:
    return factories.job(
        "checked_out@1",
        udid=udid,
        action=Action.REENROLL,
        method=Method.PROFILES_RENEW,
        version=None,
    )


def test_reenrollment_uses_no_capacity_and_waits_for_none() -> None:
    shard = a_shard()
    reenrollment = issued(a_reenrollment())
    assert dispatched(shard, [issued(FIRST), issued(SECOND), reenrollment]) == [
        reenrollment,
        issued(FIRST),
    ]
    assert dispatched(shard, [DONE]) == [issued(SECOND)]


def test_a_job_that_expired_while_it_waited_is_not_published() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST), issued(SECOND)])
    shard.tick(SECOND.expires_at)
    assert shard.collect().records == []
    assert shard.jobs[SECOND.job_id].stage is Stage.FINISHED
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(DONE))], SECOND.expires_at)
    shard.tick(SECOND.expires_at)
    assert shard.collect().records == []


def test_a_job_is_published_until_it_expires() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST), issued(SECOND)])
    last = SECOND.expires_at - timedelta(microseconds=1)
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(DONE))], last)
    shard.tick(last)
    assert [decode(post.value) for post in shard.collect().records] == [issued(SECOND)]


def test_a_shard_is_behind_while_a_job_can_be_dispatched() -> None:
    shard = a_shard()
    assert not shard.is_behind(NOW)
    shard.process_records(
        DISPATCH.name, [InputRecord(0, encode(issued(job))) for job in (FIRST, SECOND)], NOW
    )
    assert shard.is_behind(NOW)
    shard.tick(NOW)
    assert not shard.is_behind(NOW)
    assert shard.is_behind(SECOND.expires_at)


def test_a_job_is_published_with_its_udid_as_key_to_that_keys_partition() -> None:
    shard = a_shard()
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(issued(FIRST)))], NOW)
    shard.tick(NOW)
    [post] = shard.collect().records
    assert (post.topic, post.key) == (jobs_topic("london"), b"MAC-1")
    assert post.partition == partition_of("MAC-1", JOB_PARTITIONS)


# --- sites ---


def test_jobs_of_a_site_without_a_topic_wait_for_it() -> None:
    tokyo = factories.job(udid="MAC-9", site="tokyo")
    policy = POLICY.replace("default", "  tokyo: {time_zone: Asia/Tokyo, max_jobs: 1}\ndefault")
    shard = a_shard(policy)
    assert dispatched(shard, [issued(tokyo), issued(FIRST)]) == [issued(FIRST)]
    assert list(shard.sites_without_topic()) == ["tokyo"]
    assert not shard.is_behind(NOW)
    shard.tick(tokyo.expires_at)
    assert list(shard.sites_without_topic()) == []
    assert shard.jobs[tokyo.job_id].stage is Stage.FINISHED


@pytest.mark.parametrize("policy", [None, POLICY.replace("london", "paris")])
def test_a_site_without_a_policy_has_no_capacity(policy: str | None) -> None:
    shard = a_shard(policy)
    reenrollment = issued(a_reenrollment())
    assert dispatched(shard, [issued(FIRST), reenrollment]) == [reenrollment]


# --- dead letters ---


def letters(shard: DispatchShard, *raws: bytes | None) -> list[tuple[str, str, str]]:
    """Return code, `where` and origin of the dead letters that these records become."""
    refused = shard.process_records(
        DISPATCH.name, [InputRecord(n, raw) for n, raw in enumerate(raws, 5)], NOW
    )
    output = shard.collect()
    found = [
        DeadLetter.model_validate_json(p.value) for p in output.records if p.topic != DISPATCH.name
    ]
    assert refused == len(found) == output.counters.dead_letters.total()
    assert {post.topic for post in output.records} <= {DEAD_LETTERS.name}
    assert [post.key.decode() for post in output.records] == [one.raw_sha256 for one in found]
    return [(one.code.value, one.where, one.origin) for one in found]


def forged(job: Job) -> JobIssuedEvent:
    return issued(job).model_copy(update={"data": signed_job(job, STRANGER_KEY)})


def test_records_that_are_no_valid_job_events_become_dead_letters() -> None:
    origin = f"{DISPATCH.name}/0"
    report = encode(factories.reported())
    assert letters(a_shard(), None, b"{", report, encode(forged(FIRST))) == [
        ("not_json", "$", f"{origin}/5"),
        ("not_json", "$", f"{origin}/6"),
        ("unknown_type", "$.type", f"{origin}/7"),
        ("bad_value", "$.data", f"{origin}/8"),
    ]


def test_a_forged_job_is_not_queued() -> None:
    shard = a_shard()
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(forged(FIRST)))], NOW)
    assert shard.jobs == {}


def test_a_job_of_this_worker_is_not_verified_again() -> None:
    own, config = encode(forged(FIRST)), a_config()
    config.verified.add(own)
    shard = a_shard(config=config)
    shard.process_records(DISPATCH.name, [InputRecord(0, own)], NOW)
    shard.tick(NOW)
    output = shard.collect()
    assert [post.value for post in output.records] == [own]
    assert output.counters.folded == {DISPATCH.name: 1}
    queued = shard.jobs[FIRST.job_id]
    assert queued == restarted(saved_rows(a_shard(), issued(FIRST))).jobs[FIRST.job_id]


def test_a_withdrawal_of_this_worker_is_published() -> None:
    config = a_config()
    shard = a_shard(config=config)
    dispatched(shard, [issued(FIRST)])
    config.verified.add(encode(WITHDRAWN))
    assert dispatched(shard, [WITHDRAWN, issued(SECOND)]) == [WITHDRAWN, issued(SECOND)]


def test_each_folded_event_is_counted() -> None:
    shard = a_shard()
    events = [encode(event) for event in (issued(FIRST), STARTED, DONE)]
    assert (
        shard.process_records(DISPATCH.name, [InputRecord(0, raw) for raw in (*events, b"{")], NOW)
        == 1
    )
    assert shard.collect().counters.folded == {DISPATCH.name: 3}


def test_a_record_that_raises_in_dispatch_becomes_a_dead_letter() -> None:
    shard = restarted(saved_rows(a_shard(), issued(FIRST)), topics={jobs_topic("london"): 0})
    [letter] = letters(shard, as_record(WITHDRAWN))
    assert letter == ("bug", "", f"{DISPATCH.name}/0/5")
    assert shard.collect().counters.folded == {}


# --- the end of a job ---


def test_an_executors_expiry_ends_a_job_for_good() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST), result(Outcome.EXPIRED, attempt=1)])
    assert shard.jobs[FIRST.job_id].stage is Stage.FINISHED
    dispatched(shard, [STARTED])
    assert shard.jobs[FIRST.job_id].stage is Stage.FINISHED


def test_a_started_job_stays_started_when_it_is_withdrawn_again() -> None:
    shard = a_shard()
    dispatched(shard, [issued(FIRST), WITHDRAWN])
    assert shard.jobs[FIRST.job_id].stage is Stage.WITHDRAWN
    dispatched(shard, [STARTED, INFERRED])
    assert dispatched(shard, [WITHDRAWN]) == [WITHDRAWN]
    assert shard.jobs[FIRST.job_id].stage is Stage.STARTED


def test_results_of_unknown_jobs_change_nothing() -> None:
    shard = a_shard()
    assert dispatched(shard, [DONE, WITHDRAWN]) == []
    assert shard.jobs == {}
