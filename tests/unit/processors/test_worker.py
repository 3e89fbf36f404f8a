"""A worker beside another one: who lost a partition, what a successor goes on with."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.processors import worker
from pipeline.processors.poison import TooMuchPoison
from pipeline.processors.rows import OWNER_KEY, BadRow
from schemas.envelope import CloudEvent, encode
from schemas.routing import topic_of
from schemas.topics import CHECKINS, DEAD_LETTERS, INVENTORY, STATE, partition_of
from tests import factories
from tests.factories import HOUR, NOW
from tests.unit.processors.memory_kafka import PARTITIONS, Brokers, Life, reading, state_of

UDIDS = [f"MAC-{number}" for number in range(12)]
POLICY = factories.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 50")


def send(brokers: Brokers, *events: CloudEvent) -> None:
    brokers.send(events, lambda event: topic_of(type(event)).name)


def report(brokers: Brokers, version: str, when: datetime, *udids: str) -> None:
    for udid in udids:
        send(brokers, factories.full_report(version, udid, when, serial=f"C02{udid}"))


@pytest.fixture
def brokers() -> Brokers:
    """A dozen enrolled Macs on a release that nothing is wrong with."""
    some = Brokers()
    send(some, factories.policy_changed(POLICY), factories.release("26.1"))
    for udid in UDIDS:
        send(some, *factories.enrolled(udid), factories.polled(udid))
    report(some, "26.1", NOW - HOUR, *UDIDS)
    return some


def run(brokers: Brokers, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with reading(brokers):
        asyncio.run(work())


def sizes(brokers: Brokers) -> dict[Any, int]:
    return {place: len(records) for place, records in brokers.topics.items()}


async def settle(life: Life) -> None:
    while await life.round():
        pass


def both(brokers: Brokers, tmp_path: Path) -> tuple[Life, Life]:
    """A worker, and its successor an hour later."""
    first = Life(brokers, tmp_path / "first", lambda: NOW)
    second = Life(brokers, tmp_path / "second", lambda: NOW + HOUR)
    return first, second


async def own_all(life: Life) -> None:
    """It has all partitions again, and takes nothing."""
    await life.begin()
    life.worker.close()


def test_who_is_no_member_any_more_writes_nothing(brokers: Brokers, tmp_path: Path) -> None:
    first, second = both(brokers, tmp_path)

    async def work() -> None:
        await first.begin()
        await settle(first)
        send(brokers, factories.release("26.2"))
        report(brokers, "26.1", NOW, *UDIDS)
        await second.live()
        before = sizes(brokers)
        first.is_member = False
        first.hear_facts()
        await first.round(100)
        assert sizes(brokers) == before
        assert not first.worker.homes

    run(brokers, work)


def test_rows_of_a_former_owner_are_void(brokers: Brokers, tmp_path: Path) -> None:
    first, second = both(brokers, tmp_path)

    async def work() -> None:
        await first.begin()
        await settle(first)
        report(brokers, "26.1", NOW, *UDIDS)
        send(brokers, factories.release("26.2"))
        await second.live()
        report(brokers, "26.2", NOW + HOUR / 2, *UDIDS[:6])
        await settle(second)

    run(brokers, work)
    kept = state_of(brokers, tmp_path / "kept")
    rows = sizes(brokers)

    async def write_late() -> None:
        # It believes that all is as it was, and is told so.
        first.hear_facts()
        for _ in range(3):
            await first.round(100, commit=False)

    run(brokers, write_late)
    assert sizes(brokers) != rows
    assert state_of(brokers, tmp_path / "late") == kept
    # Whoever followed the changelog all along finds the same.
    assert state_of(brokers, tmp_path / "second") == kept
    # And so does the one that wrote late, once it is the owner again.
    run(brokers, lambda: own_all(first))
    assert state_of(brokers, tmp_path / "first") == kept


def test_answer_to_a_fact_goes_on_where_it_was(
    brokers: Brokers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_DUE_BUDGET_S", 0.0)
    first = Life(brokers, tmp_path / "first", lambda: NOW, slice=2)
    second = Life(brokers, tmp_path / "second", lambda: NOW + HOUR, slice=2)

    async def begin() -> None:
        await first.begin()
        await settle(first)
        send(brokers, factories.release("26.2"))
        first.hear_facts()
        await first.round()

    run(brokers, begin)
    told = Counter(one.decision.udid for one in brokers.decisions() if one.decision.job_id)
    assert 0 < len(told) < len(UDIDS)
    run(brokers, second.live)
    assert sorted(event.data.job.udid for event in brokers.published()) == sorted(UDIDS)


def test_row_of_another_count_of_partitions_stops_the_worker(
    brokers: Brokers, tmp_path: Path
) -> None:
    life = Life(brokers, tmp_path / "one", lambda: NOW)
    run(brokers, life.live)
    strayed = next(one for one in brokers.of(STATE.name, 0) if one.key != OWNER_KEY)
    brokers.append(STATE.name, 1, strayed.key, strayed.value)
    with pytest.raises(BadRow, match="partition 0"):
        run(brokers, Life(brokers, tmp_path / "two", lambda: NOW).live)


def test_report_under_a_foreign_key_reaches_the_owner(brokers: Brokers, tmp_path: Path) -> None:
    life = Life(brokers, tmp_path / "one", lambda: NOW)
    event = factories.full_report("26.1", "STRAY-1", NOW, serial="C02STRAY1")
    owner = partition_of("STRAY-1", PARTITIONS)
    brokers.append(INVENTORY.name, 1 - owner, b"STRAY-1", encode(event))
    run(brokers, life.live)
    assert "STRAY-1" in state_of(brokers, tmp_path / "read")
    assert brokers.of(INVENTORY.name, owner)[-1].value == encode(event)


def test_poison_alone_is_set_aside_and_much_of_it_stops_the_worker(
    brokers: Brokers, tmp_path: Path
) -> None:
    life = Life(brokers, tmp_path / "one", lambda: NOW)
    brokers.append(CHECKINS.name, 0, b"x", b"\xff no json")
    run(brokers, life.live)
    assert len(brokers.all(DEAD_LETTERS.name)) == 1
    for _ in range(150):
        brokers.append(CHECKINS.name, 1, b"x", b"{}")
    before = sizes(brokers)

    async def on() -> None:
        for _ in range(10):
            await life.round(50)

    with pytest.raises(TooMuchPoison):
        run(brokers, on)
    letters = len(brokers.all(DEAD_LETTERS.name))
    assert letters < 100
    reached = brokers.committed[(CHECKINS.name, 1)]
    assert reached - letters == before[(CHECKINS.name, 1)] - 150 - 1
