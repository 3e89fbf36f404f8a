"""Slots of a site: who gets one, and that each comes back however often a word is repeated."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

import msgspec
import pytest

from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.dispatch_shard import DispatchShard, Stage
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
from tests.factories.sites import JOBS_KEY, KEYS, STRANGER_KEY, signed_job

POLICY = """\
version: 1
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
    """A shard that owns its partition, at a site with one slot."""
    broadcast = BroadcastState(KEYS.approvals)
    if policy is not None:
        broadcast.fold_record(CONTROL.name, 0, encode(factories.policy_changed(policy)))
    shard = DispatchShard(0, broadcast, config or some_terms(), topics)
    if is_begun:
        shard.begin(NOW)
        shard.finish_catch_up()
    return shard


def some_terms() -> ShardConfig:
    counts = {INVENTORY.name: 4, DISPATCH.name: 1, DEAD_LETTERS.name: 1}
    return ShardConfig(JOBS_KEY, KEYS.jobs, counts)


def ordered(job: Job) -> JobIssuedEvent:
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
    """What reaches the site's executors when these come in."""
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(event)) for event in events], NOW)
    shard.tick(NOW)
    return [decode(post.value) for post in shard.collect().records]


WITHDRAWN = factories.superseded(FIRST)
STARTED, DONE = result(Outcome.STARTED), result(Outcome.SUCCEEDED, attempt=0)
INFERRED = result(Outcome.EXPIRED, attempt=0)


@pytest.mark.parametrize(
    "words",
    [
        (DONE,),
        (WITHDRAWN,),
        (INFERRED,),
        (WITHDRAWN, STARTED, DONE),
        (INFERRED, STARTED, DONE),
        (WITHDRAWN, STARTED, DONE, STARTED),
        (WITHDRAWN, STARTED, DONE, WITHDRAWN, STARTED),
    ],
    ids=[
        *("done", "withdrawn", "expired", "withdrawn too late", "expired too soon"),
        *("start told again after the end", "all told again after the end"),
    ],
)
def test_slot_is_free_after_the_end(words: tuple[CloudEvent, ...]) -> None:
    shard = a_shard()
    assert dispatched(shard, [ordered(FIRST), ordered(SECOND)]) == [ordered(FIRST)]
    assert ordered(SECOND) in dispatched(shard, words)


@pytest.mark.parametrize(
    "words",
    [(), (WITHDRAWN, STARTED), (INFERRED, STARTED), (WITHDRAWN, STARTED, WITHDRAWN)],
    ids=["out", "withdrawn too late", "expired too soon", "withdrawal told again"],
)
def test_slot_is_taken_while_an_executor_works(words: tuple[CloudEvent, ...]) -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST), *words])
    assert dispatched(shard, [ordered(SECOND)]) == []


def test_job_withdrawn_while_it_waits_is_never_published() -> None:
    shard = a_shard()
    assert dispatched(shard, [ordered(SECOND), ordered(FIRST), WITHDRAWN]) == [ordered(SECOND)]
    assert dispatched(shard, [factories.resulted(SECOND, Outcome.FAILED, NOW)]) == []


def test_withdrawal_follows_a_published_job() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST)])
    [withdrawal] = dispatched(shard, [WITHDRAWN])
    assert isinstance(withdrawal, JobSupersededEvent)


def test_order_repeated_after_its_end_is_not_published_again() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST), DONE])
    assert dispatched(shard, [ordered(FIRST)]) == []


def test_ended_job_is_forgotten_once_it_can_only_be_history() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST), DONE])
    shard.tick(NOW + timedelta(days=30))
    assert shard.collect().rows == {FIRST.job_id.encode(): None}


# --- after a restart or a rebalance ---


def kept_rows(shard: DispatchShard, *events: CloudEvent) -> dict[bytes, bytes]:
    """The rows that are kept once these came in."""
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(event)) for event in events], NOW)
    shard.tick(NOW)
    return {key: row for key, row in shard.collect().rows.items() if row is not None}


def restarted(rows: dict[bytes, bytes], *, at_once: bool = True) -> DispatchShard:
    """A shard of a later owner that has loaded these rows."""
    shard = a_shard(is_begun=False)
    shard.load(EPOCH_KEY, EpochRow(epoch=7).to_row())
    for key, row in rows.items():
        shard.load(key, row)
    shard.begin(NOW)
    if at_once:
        shard.finish_catch_up()
    return shard


def test_slots_stay_taken_after_a_restart() -> None:
    shard = restarted(kept_rows(a_shard(), ordered(FIRST)))
    assert dispatched(shard, [ordered(SECOND)]) == []
    assert dispatched(shard, [DONE]) == [ordered(SECOND)]


def test_slot_of_a_begun_job_stays_taken_after_a_restart() -> None:
    shard = restarted(kept_rows(a_shard(), ordered(FIRST), STARTED))
    assert dispatched(shard, [ordered(SECOND)]) == []


def test_a_waiting_order_is_published_after_a_restart() -> None:
    rows = kept_rows(a_shard(), ordered(FIRST), ordered(SECOND))
    assert dispatched(restarted(rows), [DONE]) == [ordered(SECOND)]


def test_nothing_is_published_before_the_topic_is_read_to_its_end() -> None:
    shard = restarted({}, at_once=False)
    assert dispatched(shard, [ordered(FIRST)]) == []
    shard.finish_catch_up()
    assert dispatched(shard, []) == [ordered(FIRST)]


def test_rows_name_their_owners_epoch() -> None:
    rows = kept_rows(restarted({}), ordered(FIRST))
    assert msgspec.json.decode(rows[FIRST.job_id.encode()])["e"] == 7


def test_a_row_is_read_as_it_was_written() -> None:
    shard = a_shard()
    rows = kept_rows(shard, ordered(FIRST), ordered(SECOND))
    assert restarted(rows).jobs == shard.jobs
    ticket = shard.jobs[SECOND.job_id]
    assert ticket.report_by_us == to_us(NOW - HOUR + 3 * DAY)
    assert ticket.expires_us == to_us(SECOND.expires_at)
    assert ticket.issued_event == encode(ordered(SECOND))


@pytest.mark.parametrize("row", [b'{"e": 1}', b'{"e": 1, "job_id": "a", "order": 1}', b"no JSON"])
def test_an_unreadable_row_is_refused(row: bytes) -> None:
    with pytest.raises(InvalidRow):
        a_shard(is_begun=False).load(b"job-1", row)


def test_each_job_is_forgotten_at_its_own_time_after_a_restart() -> None:
    late = factories.job(udid="MAC-1", issued_at=NOW + 5 * DAY)
    early = factories.job(udid="MAC-2", issued_at=NOW)
    shard = restarted(kept_rows(a_shard(), ordered(late), ordered(early)))
    end = NOW + 3 * DAY + DAY  # reported by, and a day more
    shard.tick(end - timedelta(microseconds=1))
    assert set(shard.jobs) == {late.job_id, early.job_id}
    shard.tick(end)
    assert set(shard.jobs) == {late.job_id}
    assert shard.collect().rows[early.job_id.encode()] is None


def test_the_slot_of_a_forgotten_job_is_free() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST)])
    later = NOW + 30 * DAY
    shard.tick(later)
    third = factories.job(udid="MAC-3", issued_at=later)
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(ordered(third)))], later)
    shard.tick(later)
    assert [decode(post.value) for post in shard.collect().records] == [ordered(third)]


# --- who is next ---


def waiting_order(*jobs: Job) -> list[str]:
    """The order in which waiting jobs get the site's one slot."""
    shard = a_shard()
    busy = factories.job(udid="MAC-0", issued_at=NOW - 5 * HOUR)
    dispatched(shard, [ordered(busy)])
    dispatched(shard, map(ordered, jobs))
    got = []
    ended = busy
    for _ in jobs:
        [event] = dispatched(shard, [factories.resulted(ended, Outcome.FAILED, NOW)])
        assert isinstance(event, JobIssuedEvent)
        ended = event.data.job
        got.append(ended.udid)
    return got


def test_the_first_deadline_has_the_first_slot_then_the_first_order() -> None:
    jobs = [
        factories.job(udid="NONE", issued_at=NOW - 4 * HOUR),
        factories.job(udid="LATE", issued_at=NOW - 3 * HOUR, deadline_at=NOW + 2 * DAY),
        factories.job(udid="SOON-2", issued_at=NOW - HOUR, deadline_at=NOW + DAY),
        factories.job(udid="SOON-1", issued_at=NOW - 2 * HOUR, deadline_at=NOW + DAY),
    ]
    assert waiting_order(*jobs) == ["SOON-1", "SOON-2", "LATE", "NONE"]


def an_enrolment(udid: str = "MAC-3") -> Job:
    return factories.job(
        "checked_out@1",
        udid=udid,
        action=Action.REENROLL,
        method=Method.PROFILES_RENEW,
        version=None,
    )


def test_enrolment_takes_no_slot_and_waits_for_none() -> None:
    shard = a_shard()
    enrolment = ordered(an_enrolment())
    assert dispatched(shard, [ordered(FIRST), ordered(SECOND), enrolment]) == [
        enrolment,
        ordered(FIRST),
    ]
    assert dispatched(shard, [DONE]) == [ordered(SECOND)]


def test_an_order_that_expired_while_it_waited_is_not_published() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST), ordered(SECOND)])
    shard.tick(SECOND.expires_at)
    assert shard.collect().records == []
    assert shard.jobs[SECOND.job_id].stage is Stage.FINISHED
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(DONE))], SECOND.expires_at)
    shard.tick(SECOND.expires_at)
    assert shard.collect().records == []


def test_an_order_is_published_until_it_expires() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST), ordered(SECOND)])
    last = SECOND.expires_at - timedelta(microseconds=1)
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(DONE))], last)
    shard.tick(last)
    assert [decode(post.value) for post in shard.collect().records] == [ordered(SECOND)]


def test_a_shard_is_behind_while_a_job_could_have_a_slot() -> None:
    shard = a_shard()
    assert not shard.is_behind(NOW)
    shard.process_records(
        DISPATCH.name, [InputRecord(0, encode(ordered(job))) for job in (FIRST, SECOND)], NOW
    )
    assert shard.is_behind(NOW)
    shard.tick(NOW)
    assert not shard.is_behind(NOW)
    assert shard.is_behind(SECOND.expires_at)


def test_an_order_is_published_under_its_mac_to_the_macs_partition() -> None:
    shard = a_shard()
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(ordered(FIRST)))], NOW)
    shard.tick(NOW)
    [post] = shard.collect().records
    assert (post.topic, post.key) == (jobs_topic("london"), b"MAC-1")
    assert post.partition == partition_of("MAC-1", JOB_PARTITIONS)


# --- sites ---


def test_jobs_of_a_site_without_a_topic_wait_for_it() -> None:
    tokyo = factories.job(udid="MAC-9", site="tokyo")
    policy = POLICY.replace("default", "  tokyo: {time_zone: Asia/Tokyo, max_jobs: 1}\ndefault")
    shard = a_shard(policy)
    assert dispatched(shard, [ordered(tokyo), ordered(FIRST)]) == [ordered(FIRST)]
    assert list(shard.sites_without_topic()) == ["tokyo"]
    assert not shard.is_behind(NOW)
    shard.tick(tokyo.expires_at)
    assert list(shard.sites_without_topic()) == []
    assert shard.jobs[tokyo.job_id].stage is Stage.FINISHED


@pytest.mark.parametrize("policy", [None, POLICY.replace("london", "paris")])
def test_a_site_that_no_policy_knows_has_no_slots(policy: str | None) -> None:
    shard = a_shard(policy)
    enrolment = ordered(an_enrolment())
    assert dispatched(shard, [ordered(FIRST), enrolment]) == [enrolment]


# --- what is refused ---


def letters(shard: DispatchShard, *raws: bytes | None) -> list[tuple[str, str, str]]:
    """Code, place and origin of the dead letters that these records become."""
    refused = shard.process_records(
        DISPATCH.name, [InputRecord(n, raw) for n, raw in enumerate(raws, 5)], NOW
    )
    work = shard.collect()
    found = [
        DeadLetter.model_validate_json(p.value) for p in work.records if p.topic != DISPATCH.name
    ]
    assert refused == len(found) == work.counters.dead_letters.total()
    assert {post.topic for post in work.records} <= {DEAD_LETTERS.name}
    assert [post.key.decode() for post in work.records] == [one.raw_sha256 for one in found]
    return [(one.code.value, one.where, one.origin) for one in found]


def forged(job: Job) -> JobIssuedEvent:
    return ordered(job).model_copy(update={"data": signed_job(job, STRANGER_KEY)})


def test_records_that_are_no_events_of_jobs_become_dead_letters() -> None:
    origin = f"{DISPATCH.name}/0"
    report = encode(factories.reported())
    assert letters(a_shard(), None, b"{", report, encode(forged(FIRST))) == [
        ("not_json", "$", f"{origin}/5"),
        ("not_json", "$", f"{origin}/6"),
        ("unknown_type", "$.type", f"{origin}/7"),
        ("bad_value", "$.data", f"{origin}/8"),
    ]


def test_a_forged_order_has_no_slot() -> None:
    shard = a_shard()
    shard.process_records(DISPATCH.name, [InputRecord(0, encode(forged(FIRST)))], NOW)
    assert shard.jobs == {}


def test_an_order_of_this_worker_is_not_checked_again() -> None:
    own, terms = encode(forged(FIRST)), some_terms()
    terms.verified.add(own)
    shard = a_shard(config=terms)
    shard.process_records(DISPATCH.name, [InputRecord(0, own)], NOW)
    shard.tick(NOW)
    work = shard.collect()
    assert [post.value for post in work.records] == [own]
    assert work.counters.folded == {DISPATCH.name: 1}
    ticket = shard.jobs[FIRST.job_id]
    assert ticket == restarted(kept_rows(a_shard(), ordered(FIRST))).jobs[FIRST.job_id]


def test_a_withdrawal_of_this_worker_is_followed() -> None:
    terms = some_terms()
    shard = a_shard(config=terms)
    dispatched(shard, [ordered(FIRST)])
    terms.verified.add(encode(WITHDRAWN))
    assert dispatched(shard, [WITHDRAWN, ordered(SECOND)]) == [WITHDRAWN, ordered(SECOND)]


def test_each_event_that_is_followed_is_counted() -> None:
    shard = a_shard()
    events = [encode(event) for event in (ordered(FIRST), STARTED, DONE)]
    assert (
        shard.process_records(DISPATCH.name, [InputRecord(0, raw) for raw in (*events, b"{")], NOW)
        == 1
    )
    assert shard.collect().counters.folded == {DISPATCH.name: 3}


def test_what_dispatch_fails_at_becomes_a_dead_letter() -> None:
    rows = kept_rows(a_shard(), ordered(FIRST))
    shard = a_shard(topics={})
    for key, row in rows.items():
        shard.load(key, row)
    [letter] = letters(shard, encode(WITHDRAWN))
    assert letter == ("bug", "", f"{DISPATCH.name}/0/5")
    assert shard.collect().counters.folded == {}


# --- the end of a job ---


def test_an_executors_expiry_ends_a_job_for_good() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST), result(Outcome.EXPIRED, attempt=1)])
    assert shard.jobs[FIRST.job_id].stage is Stage.FINISHED
    dispatched(shard, [STARTED])
    assert shard.jobs[FIRST.job_id].stage is Stage.FINISHED


def test_a_withdrawn_job_that_had_begun_is_not_withdrawn_again() -> None:
    shard = a_shard()
    dispatched(shard, [ordered(FIRST), WITHDRAWN])
    assert shard.jobs[FIRST.job_id].stage is Stage.WITHDRAWN
    dispatched(shard, [STARTED, INFERRED])
    assert shard.jobs[FIRST.job_id].stage is Stage.STARTED
    assert dispatched(shard, [WITHDRAWN]) == []


def test_results_of_jobs_that_are_not_known_change_nothing() -> None:
    shard = a_shard()
    assert dispatched(shard, [DONE, WITHDRAWN]) == []
    assert shard.jobs == {}
