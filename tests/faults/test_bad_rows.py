"""Records in a changelog that no owner wrote cost one Mac or one job at most."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from pipeline.processors.app import SUBSCRIBED
from pipeline.processors.rows import EPOCH_KEY, MAX_EPOCH
from schemas.dead_letters import DeadLetter
from schemas.topics import DEAD_LETTERS, DISPATCH_STATE, STATE, partition_of
from tests import factories
from tests.factories import NOW, topic_of
from tests.unit.processors.memory_kafka import (
    PARTITIONS,
    Brokers,
    MemoryWorker,
    reading,
    state_of,
)

UDIDS = [f"MAC-{number}" for number in range(12)]
OF_ZERO = [udid for udid in UDIDS if partition_of(udid, PARTITIONS) == 0]


@pytest.fixture
def brokers() -> Brokers:
    """Topics with a policy, a release and Macs on an older version."""
    made = Brokers()
    made.send([factories.policy_changed(), factories.release("26.2")], topic_of)
    for udid in UDIDS:
        made.send(factories.enrolled(udid), topic_of)
    report(made, "26.1")
    return made


def report(brokers: Brokers, version: str, minutes: int = 0) -> None:
    """Let all Macs report this version."""
    at = NOW + minutes * timedelta(minutes=1)
    for udid in UDIDS:
        brokers.send([factories.full_report(version, udid, at, serial=f"C02{udid}")], topic_of)


def live(brokers: Brokers, folder: Path, minutes: int = 0) -> MemoryWorker:
    """Run a worker without files of an earlier one until it is idle."""
    worker = MemoryWorker(brokers, folder, lambda: NOW + minutes * timedelta(minutes=1))
    with reading(brokers):
        asyncio.run(worker.live())
    worker.end()
    return worker


def shows(row: Any, version: str) -> bool:
    """Return True if the row's device runs this version."""
    return f'"{version}"' in json.dumps(row["device"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (EPOCH_KEY, None),
        (OF_ZERO[0].encode(), b'{"e":999999,"device":null,"jobs":[],"last_decision":null}'),
        (EPOCH_KEY, b'{"e":50,"broadcast":{}}'),
    ],
)
def test_new_owner_has_a_higher_epoch_than_every_row(
    name: bytes, value: bytes | None, brokers: Brokers, tmp_path: Path
) -> None:
    live(brokers, tmp_path / "first")
    live(brokers, tmp_path / "second")
    brokers.append(STATE.name, 0, name, value)
    report(brokers, "26.2", 10)
    live(brokers, tmp_path / "third", 10)
    state = state_of(brokers, tmp_path / "fourth")
    assert {udid: shows(state[udid], "26.2") for udid in OF_ZERO} == dict.fromkeys(OF_ZERO, True)


UNREADABLE = [
    b"\x00\x01 not json",
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"e":"one"}',
    b'{"e":-1}',
    b'{"e":99999999999999999999999}',
    b'{"e":1,"device":5,"jobs":[],"last_decision":null}',
    b'{"e":1,"device":null,"jobs":[[]],"last_decision":null}',
    b'{"e":1}',
    b'{"e":2,"device"',
    b'{"e":1,"issued_event":null}',
]


@pytest.mark.parametrize("topic", [STATE.name, DISPATCH_STATE.name])
@pytest.mark.parametrize("raw", UNREADABLE)
def test_unreadable_row_is_replaced_by_the_earlier_one(
    raw: bytes, topic: str, brokers: Brokers, tmp_path: Path
) -> None:
    live(brokers, tmp_path / "first")
    before = state_of(brokers, tmp_path / "before"), jobs_in(brokers)
    name = first_key(brokers, topic)
    offset = brokers.append(topic, 0, name, raw)
    other = brokers.append(topic, 0, b"\xff unknown", raw)
    for owner in range(2):
        worker = live(brokers, tmp_path / f"owner-{owner}")
        assert len(worker.worker.partitions) == 4
    assert (state_of(brokers, tmp_path / "after"), jobs_in(brokers)) == before
    letters = dead_letters(brokers)
    assert sorted(one.origin for one in letters) == [f"{topic}/0/{offset}", f"{topic}/0/{other}"]
    assert any(repr(name) in one.detail for one in letters)
    assert newest(brokers, topic, b"\xff unknown") is None


@pytest.mark.parametrize("raw", UNREADABLE[:8:2])
def test_unreadable_epoch_row_is_replaced(raw: bytes, brokers: Brokers, tmp_path: Path) -> None:
    live(brokers, tmp_path / "first")
    before = state_of(brokers, tmp_path / "before")
    brokers.append(STATE.name, 0, EPOCH_KEY, raw)
    report(brokers, "26.2", 10)
    live(brokers, tmp_path / "second", 10)
    state = state_of(brokers, tmp_path / "after")
    assert state.keys() == before.keys()
    assert all(shows(state[udid], "26.2") for udid in UDIDS)


@pytest.mark.parametrize("raw", [UNREADABLE[0], b'{"e":999999}'])
def test_unreadable_row_stops_no_standby(raw: bytes, brokers: Brokers, tmp_path: Path) -> None:
    live(brokers, tmp_path / "first")
    changelog = TopicPartition(STATE.name, 0)
    standby = MemoryWorker(brokers, tmp_path / "standby", lambda: NOW)

    async def follow() -> None:
        task = asyncio.create_task(standby.recovery.follow_as_standby([changelog]))
        for number in range(2):
            end = brokers.append(STATE.name, 0, b"MAC-%d" % number, raw) + 1
            for _ in range(100):
                await asyncio.sleep(0.05)
                if standby.stores.get(changelog).next_offset == end:
                    break
            assert standby.stores.get(changelog).next_offset == end
        task.cancel()

    with reading(brokers):
        asyncio.run(follow())
    standby.end()


@pytest.mark.parametrize("raw", UNREADABLE[:3])
def test_unreadable_row_while_the_owner_works(raw: bytes, brokers: Brokers, tmp_path: Path) -> None:
    worker = MemoryWorker(brokers, tmp_path / "first", lambda: NOW + timedelta(minutes=10))

    async def work() -> None:
        await worker.live()
        for name in (OF_ZERO[0].encode(), b"unknown", EPOCH_KEY):
            brokers.append(STATE.name, 0, name, raw)
        report(brokers, "26.2", 10)
        while await worker.round():
            pass

    with reading(brokers):
        asyncio.run(work())
    worker.end()
    for folder in ("first", "second"):
        live(brokers, tmp_path / folder, 10)
        state = state_of(brokers, tmp_path / f"{folder}-read")
        assert all(shows(state[udid], "26.2") for udid in UDIDS)


@pytest.mark.parametrize("topic", [topic.name for topic in SUBSCRIBED])
def test_unreadable_input_costs_no_other_record(
    topic: str, brokers: Brokers, tmp_path: Path
) -> None:
    live(brokers, tmp_path / "first")
    offsets = [brokers.append(topic, 0, b"\xff", raw) for raw in UNREADABLE]
    report(brokers, "26.2", 10)
    live(brokers, tmp_path / "second", 10)
    state = state_of(brokers, tmp_path / "after")
    assert {udid: shows(state[udid], "26.2") for udid in UDIDS} == dict.fromkeys(UDIDS, True)
    assert {one.origin for one in dead_letters(brokers)} == {
        f"{topic}/0/{offset}" for offset in offsets
    }


HIGH = [
    pytest.param(
        OF_ZERO[0].encode(),
        b'{"e":999999,"device":null,"jobs":[],"last_decision":null}',
        id="mac",
    ),
    pytest.param(b"unknown", b'{"e":%d}' % MAX_EPOCH, id="highest"),
    pytest.param(EPOCH_KEY, b'{"e":50,"broadcast":{}}', id="epoch-row"),
    pytest.param(EPOCH_KEY, b'{"e":%d,"broadcast":{}}' % MAX_EPOCH, id="highest-epoch-row"),
]


@pytest.mark.parametrize(("name", "raw"), HIGH)
def test_high_epoch_under_a_working_owner_costs_one_partition(
    name: bytes, raw: bytes, brokers: Brokers, tmp_path: Path
) -> None:
    log = structlog.testing.LogCapture()
    worker = MemoryWorker(
        brokers,
        tmp_path / "first",
        lambda: NOW + timedelta(minutes=10),
        log=structlog.wrap_logger(structlog.ReturnLogger(), processors=[log]),
    )
    offsets = []

    async def work() -> None:
        await worker.live()
        # The second row is not higher than the new epoch.
        for version, minutes, dropped in (
            ("26.1.1", 10, {TopicPartition(STATE.name, 0)}),
            ("26.2", 11, set()),
        ):
            offsets.append(brokers.append(STATE.name, 0, name, raw))
            report(brokers, version, minutes)
            while not worker.dropped() and await worker.round():
                pass
            assert worker.dropped() == dropped
            await worker.recover_dropped()
            while await worker.round():
                pass

    with reading(brokers):
        asyncio.run(work())
    worker.end()
    reported = [one for one in log.entries if "higher epoch" in one["event"]]
    assert (repr(name), offsets[0]) in {(one["key"], one["offset"]) for one in reported}
    for folder in ("first", "second"):
        live(brokers, tmp_path / folder, 12)
        state = state_of(brokers, tmp_path / f"{folder}-read")
        assert {udid: shows(state[udid], "26.2") for udid in UDIDS} == dict.fromkeys(UDIDS, True)
    jobs = [event.data.job.job_id for event in brokers.published()]
    assert len(jobs) == len(set(jobs)), "a job was published twice"


def test_row_with_a_high_epoch_during_a_claim_is_exceeded(brokers: Brokers, tmp_path: Path) -> None:
    live(brokers, tmp_path / "first")
    worker = MemoryWorker(brokers, tmp_path / "second", lambda: NOW + timedelta(minutes=10))
    write = worker.producer.write

    async def write_second(batches: Any, is_lost: Any) -> Any:
        worker.producer.write = write  # type: ignore[method-assign]
        brokers.append(STATE.name, 0, b"unknown", b'{"e":70}')
        return await write(batches, is_lost)

    worker.producer.write = write_second  # type: ignore[assignment,method-assign]
    report(brokers, "26.2", 10)
    with reading(brokers):
        asyncio.run(worker.live())
    worker.end()
    state = state_of(brokers, tmp_path / "after")
    assert all(shows(state[udid], "26.2") for udid in UDIDS)


def test_pre_release_key_in_a_newer_changelog_is_deleted(brokers: Brokers, tmp_path: Path) -> None:
    live(brokers, tmp_path / "first")
    before = state_of(brokers, tmp_path / "before")
    brokers.append(STATE.name, 0, b" owner", b'{"e":1,"facts":{}}')
    live(brokers, tmp_path / "second")
    assert state_of(brokers, tmp_path / "after") == before
    assert newest(brokers, STATE.name, b" owner") is None


@pytest.mark.parametrize("name", ["expires_us", "deadline_us", "site", "job_id", "stage"])
def test_job_with_a_field_of_another_type_is_unreadable(
    name: str, brokers: Brokers, tmp_path: Path
) -> None:
    live(brokers, tmp_path / "first")
    before = jobs_in(brokers)
    key = first_key(brokers, DISPATCH_STATE.name)
    row = json.loads(newest(brokers, DISPATCH_STATE.name, key) or b"")
    brokers.append(DISPATCH_STATE.name, 0, key, json.dumps(row | {name: [1]}).encode())
    live(brokers, tmp_path / "second")
    assert jobs_in(brokers) == before
    assert len(dead_letters(brokers)) == 1


def first_key(brokers: Brokers, topic: str) -> bytes:
    """Return the key of a Mac or job in partition 0; its row is the last one of its key."""
    return next(one.key for one in reversed(brokers.of(topic, 0)) if one.key != EPOCH_KEY)


def newest(brokers: Brokers, topic: str, name: bytes) -> bytes | None:
    """Return the last row of a key in partition 0; None if it is deleted."""
    return next(one.value for one in reversed(brokers.of(topic, 0)) if one.key == name)


def jobs_in(brokers: Brokers) -> dict[bytes, Any]:
    """Return the row of each job in dispatch, without its epoch."""
    rows = {one.key: one.value for one in brokers.all(DISPATCH_STATE.name) if one.key != EPOCH_KEY}
    return {
        name: {key: value for key, value in json.loads(raw).items() if key != "e"}
        for name, raw in rows.items()
        if raw is not None
    }


def dead_letters(brokers: Brokers) -> list[DeadLetter]:
    """Return all dead letters."""
    return [
        DeadLetter.model_validate_json(one.value or b"") for one in brokers.all(DEAD_LETTERS.name)
    ]
