"""Slots of a site: who gets one, and that each comes back however often a word is repeated."""

from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

import pytest

from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.facts import Facts
from pipeline.processors.terms import Terms
from schemas.envelope import CloudEvent, JobIssuedEvent, JobSupersededEvent, decode, encode
from schemas.ids import event_id
from schemas.jobs import Job
from schemas.results import Outcome
from schemas.topics import CONTROL, DEAD_LETTERS, DISPATCH, INVENTORY, JOB_PARTITIONS, jobs_topic
from tests import factories
from tests.factories import HOUR, NOW
from tests.factories.sites import JOBS_KEY, KEYS, signed_job

POLICY = """\
version: 1
sites:
  london: {time_zone: Europe/London, max_jobs: 1}
default_site: london
"""


class InputRecord(NamedTuple):
    offset: int
    value: bytes | None
    key: bytes | None = b"london"


def a_shard() -> DispatchShard:
    """A shard that owns its partition, at a site with one slot."""
    facts = Facts(KEYS.approvals)
    facts.take(CONTROL.name, 0, encode(factories.policy_changed(POLICY)))
    counts = {INVENTORY.name: 4, DISPATCH.name: 1, DEAD_LETTERS.name: 1}
    terms = Terms(JOBS_KEY, KEYS.jobs, counts)
    shard = DispatchShard(0, facts, terms, {jobs_topic("london"): JOB_PARTITIONS})
    shard.begin(NOW)
    shard.caught_up()
    return shard


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
    shard.take(DISPATCH.name, [InputRecord(0, encode(event)) for event in events], NOW)
    shard.tick(NOW)
    return [decode(post.value) for post in shard.collect().posts]


WITHDRAWN = factories.superseded(FIRST)
STARTED, DONE = result(Outcome.STARTED), result(Outcome.SUCCEEDED, attempt=0)
GUESSED = result(Outcome.EXPIRED, attempt=0)


@pytest.mark.parametrize(
    "words",
    [
        (DONE,),
        (WITHDRAWN,),
        (GUESSED,),
        (WITHDRAWN, STARTED, DONE),
        (GUESSED, STARTED, DONE),
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
    [(), (WITHDRAWN, STARTED), (GUESSED, STARTED), (WITHDRAWN, STARTED, WITHDRAWN)],
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
