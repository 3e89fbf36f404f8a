"""Unreadable records in the topics of an agent cost their job at most."""

import itertools
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from agents.journal_entry import Phase
from schemas.attempts import AttemptRecord
from schemas.dead_letters import DeadLetterCode
from schemas.envelope import JobSupersededEvent
from schemas.ids import event_id
from schemas.jobs import Job, JobSuperseded, Method
from tests.factories.sites import START, a_fleet, a_job, a_spec, an_erasing_job
from tests.unit.agents.memory_kafka import PARTITION, TOPIC, Broker, Record, install
from tests.unit.agents.memory_site import MemorySite

UNREADABLE = [
    b"\x00\x01 not json",
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"job_id":"JOB","udid":"MAC-1","expires_at":"2026-01-12T08:00:00Z","live":true}',
    b'{"job_id":"JOB","udid":"MAC-1","expires_at":"2026-01-12T08:00:00Z","live":true,"entry":{}}',
    b'{"job_id":"other","udid":"MAC-1","expires_at":"2026-01-12T08:00:00Z","live":false}',
    b'{"told":null}',
    b'{"job_id":"JOB","udid":5,"expires_at":"never","live":1}',
    b"[" * 100_000,
]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySite:
    broker = Broker()
    install(broker, monkeypatch)
    fleet = a_fleet(*(a_spec(f"MAC-{number}") for number in range(1, 5)))
    return MemorySite(broker, fleet, tmp_path)


def garble(site: MemorySite, job: Job, raw: bytes) -> int:
    """Write these bytes as the newest record of a job; return their offset."""
    site.broker.log.append(Record(job.job_id.encode(), raw.replace(b"JOB", job.job_id.encode())))
    return len(site.broker.log) - 1


def newest(site: MemorySite, job: Job) -> AttemptRecord:
    """Return the newest record of a job in the changelog."""
    raw = [one.value for one in site.broker.log if one and one.key == job.job_id.encode()][-1]
    return AttemptRecord.model_validate_json(raw or b"")


def compact(site: MemorySite) -> None:
    """Delete all but the newest record of each key; offsets stay."""
    last = {one.key: offset for offset, one in enumerate(site.broker.log) if one is not None}
    site.broker.log = [
        one if one is not None and last[one.key] == offset else None
        for offset, one in enumerate(site.broker.log)
    ]


@pytest.mark.parametrize(
    "raw", [UNREADABLE[0], *[pytest.param(raw, marks=pytest.mark.slow) for raw in UNREADABLE[1:]]]
)
@pytest.mark.parametrize("passed", [None, 0.2, 30.0], ids=["accepted", "under way", "done"])
@pytest.mark.parametrize("is_compacted", [False, True])
def test_unreadable_attempt_costs_no_other_job_and_gives_no_order_twice(
    raw: bytes, passed: float | None, is_compacted: bool, site: MemorySite
) -> None:
    jobs = [a_job(udid=f"MAC-{number}") for number in range(1, 4)]
    site.order(*jobs)
    site.is_halted = passed is None
    site.live("one", passed or 0)
    site.is_halted = False
    offset = garble(site, jobs[0], raw)
    if is_compacted:
        compact(site)
    site.order(a_job(udid="MAC-4"))
    site.live("two", 30)
    site.live("three")
    assert Counter(site.acted()) == Counter(job.job_id for job in [*jobs, a_job(udid="MAC-4")])
    assert all(site.outcomes(job)[-1] == "acted" for job in jobs)
    (letter,) = site.outputs.dead_letters
    assert letter.code is DeadLetterCode.UNREADABLE
    assert letter.origin == f"{TOPIC}/{PARTITION}/{offset}"
    assert not newest(site, jobs[0]).live
    assert site.metric("drydock_dead_letters_total", topic="drydock.attempts", code="unreadable")


@pytest.mark.parametrize("method", [Method.ERASE_DEVICE, Method.STARTOSINSTALL])
@pytest.mark.parametrize("passed", [0.2, 3.0, 30.0])
@pytest.mark.parametrize("is_compacted", [False, True])
def test_erase_with_an_unreadable_attempt_is_not_given_twice(
    method: Method, passed: float, is_compacted: bool, site: MemorySite
) -> None:
    job = an_erasing_job(method)
    site.order(job)
    site.live("one", passed)
    assert len(site.acted()) == 1
    garble(site, job, b"not json")
    if is_compacted:
        compact(site)
    site.order(job)
    site.live("two", 20)
    assert len(site.acted()) == 1, "the Mac was erased twice"
    assert site.outcomes(job)[-1] in ("acted", "refused", "failed")


def test_erase_whose_only_record_is_unreadable_is_refused_after_a_boot(site: MemorySite) -> None:
    job = an_erasing_job(Method.STARTOSINSTALL)
    site.order(job)
    site.live("one", 3)
    garble(site, job, b"not json")
    compact(site)
    site.live("two", 1)
    assert len(site.acted()) == 1
    assert newest(site, job).live is False


def test_withdrawn_job_with_an_unreadable_attempt_does_not_run(site: MemorySite) -> None:
    job = a_job()
    site.order(job)
    site.is_halted = True
    site.live("one")
    site.is_halted = False
    earlier = [one for one in site.broker.log if one is not None]
    assert json.loads(earlier[-1].value or b"")["entry"]["phase"] == Phase.ACCEPTED
    withdrawal = JobSuperseded(job_id=job.job_id, udid=job.udid, site=job.site, reason="test")
    site.publish(
        JobSupersededEvent(
            id=event_id("superseded", job.job_id),
            source="/test",
            subject=job.udid,
            time=START,
            data=withdrawal,
        )
    )
    garble(site, job, b"not json")
    site.committed = len(site.broker.jobs)  # withdrawn by the owner that wrote the record
    site.live("two", 30)
    assert site.acted() == []
    assert site.outcomes(job) == ["superseded"]


def test_attempt_without_an_order_is_kept_and_reported_until_its_order_arrives(
    site: MemorySite,
) -> None:
    job = a_job(issued_at=START - timedelta(hours=1))
    site.order(a_job(udid="MAC-2", issued_at=START - timedelta(hours=2)))
    site.live("one")
    garble(site, job, b"not json")
    runner = site.runner("two")
    runner.start()
    try:
        while runner.status is None:
            pass
        assert runner.doubted_jobs == 1
        assert runner.status.doubted == 1
    finally:
        runner.stop()
        runner.join()
    site.order(job)
    site.is_halted = True
    site.live("three")
    site.is_halted = False
    entry = newest(site, job).entry
    assert entry is not None
    assert entry["history_unknown"] is True
    site.live("four", 30)
    assert site.outcomes(job) == ["acted"]


@pytest.mark.parametrize("key", [b"", b"\xff\xfe", b"job-x"])
def test_record_of_no_job_is_reported_and_stops_nothing(key: bytes, site: MemorySite) -> None:
    site.broker.log.append(Record(key, b"garbage"))
    jobs = [a_job(udid=f"MAC-{number}") for number in range(1, 4)]
    site.order(*jobs)
    site.live("one", 30)
    site.live("two")
    assert site.acted() == sorted(job.job_id for job in jobs)
    assert {one.origin for one in site.outputs.dead_letters} == {f"{TOPIC}/{PARTITION}/0"}


@pytest.mark.parametrize("raw", [*UNREADABLE[:5], UNREADABLE[-1], None])
def test_unreadable_order_costs_no_other_job(raw: bytes | None, site: MemorySite) -> None:
    jobs = [a_job(udid=f"MAC-{number}") for number in range(1, 4)]
    site.order(jobs[0])
    site.broker.jobs += [Record(b"MAC-2", raw), Record(b"\xff", b"\xff")]
    site.order(*jobs[1:])
    site.live("one", 30)
    assert site.acted() == sorted(job.job_id for job in jobs)
    assert len(site.outputs.dead_letters) == 2


def test_many_unreadable_records_of_one_job_do_not_hide_its_end(site: MemorySite) -> None:
    job = a_job()
    site.order(job)
    site.live("one", 30)
    for raw in itertools.islice(UNREADABLE, 3):
        garble(site, job, raw)
    site.live("two", 1)
    assert site.outcomes(job) == ["acted"]
    assert len(site.acted()) == 1
