"""A damaged local store never changes the state of a worker, and never stops a partition."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from shutil import copy

import pytest
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from pipeline.processors import rows
from pipeline.processors.local_store import LocalStore
from schemas.topics import STATE
from tests import factories
from tests.factories import NOW, topic_of
from tests.faults import damage
from tests.unit.processors.memory_kafka import Brokers, MemoryWorker, reading, state_of

MINUTE = timedelta(minutes=1)
UDIDS = [f"MAC-{number}" for number in range(40)]
CHANGELOG = "drydock.state.v1/0"
SEEDS = [pytest.param(10, id="short"), pytest.param(50, id="long", marks=pytest.mark.slow)]


def row(number: int) -> bytes:
    return b'{"e":1,"n":%d,"text":"%s"}' % (number, b"x" * 500)


def open_store(path: Path, damaged: list[Path]) -> LocalStore:
    return LocalStore.open(path, CHANGELOG, lambda _, moved, __: damaged.append(moved))


def fill(path: Path, count: int = 300) -> dict[bytes, bytes]:
    """Write a store, close it, and return its rows."""
    random = Random(1)
    written = {random.randbytes(18).hex().encode(): row(number) for number in range(count)}
    with closing(open_store(path, [])) as store:
        store.put_rows(written, count, 1)
    return written


def read(path: Path, damaged: list[Path]) -> tuple[dict[bytes, bytes], int] | None:
    """Return rows and offset as a worker loads them; None if the worker would read Kafka again."""
    store = open_store(path, damaged)
    try:
        found = dict(store.all())
    except Exception as error:  # noqa: BLE001 - `abandon` decides if it was damage
        store.abandon(error)
        return None
    store.close()
    return (found, store.next_offset) if store.next_offset else None


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_damaged_store_is_complete_or_replaced(kind: str, seeds: int, tmp_path: Path) -> None:
    written = fill(tmp_path / "whole.sqlite")
    replaced = 0
    for seed in range(seeds):
        path = tmp_path / f"{seed}.sqlite"
        copy(tmp_path / "whole.sqlite", path)
        damage.DAMAGES[kind](path, Random(seed))
        damaged: list[Path] = []
        found = read(path, damaged)
        assert found in (None, (written, len(written))), f"seed {seed}"
        replaced += found is None
        assert all(moved.exists() for moved in damaged), f"seed {seed}"
        assert read(path, []) in (None, found), f"seed {seed}"
    assert replaced >= seeds // 4, "the damage was not noticed"


def test_changed_text_in_a_row_is_damage(tmp_path: Path) -> None:
    written = fill(tmp_path / "0.sqlite")
    assert damage.change_text(tmp_path / "0.sqlite", b'"n":7,', b'"n":8,') == 1
    damaged: list[Path] = []
    assert read(tmp_path / "0.sqlite", damaged) is None
    assert len(damaged) == 1
    assert len(written) == 300


def test_changed_offset_is_damage(tmp_path: Path) -> None:
    fill(tmp_path / "0.sqlite")
    with closing(open_store(tmp_path / "0.sqlite", [])) as store:
        store._db.execute("UPDATE checkpoint SET next_offset = 299")
    damaged: list[Path] = []
    assert read(tmp_path / "0.sqlite", damaged) is None
    assert len(damaged) == 1


def test_store_of_another_partition_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "0.sqlite")
    damaged: list[Path] = []
    with closing(
        LocalStore.open(
            tmp_path / "0.sqlite", "drydock.state.v1/1", lambda _, moved, __: damaged.append(moved)
        )
    ) as store:
        assert store.next_offset == 0
    assert len(damaged) == 1


def test_only_the_newest_damaged_files_are_kept(tmp_path: Path) -> None:
    for _ in range(4):
        (tmp_path / "0.sqlite").write_bytes(b"not a database" * 100)
        open_store(tmp_path / "0.sqlite", []).close()
    assert len(list(tmp_path.glob("0.sqlite.damaged-*"))) == 2


@pytest.mark.parametrize("kept", [0, 100, 10_000])
def test_cut_write_ahead_log_is_noticed_or_an_earlier_state(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "0.sqlite"
    written = fill(path)
    store = open_store(path, [])
    later = {key: row(1000 + number) for number, key in enumerate(written)}
    store.put_rows(later, 1000, 1)
    with (tmp_path / "0.sqlite-wal").open("r+b") as log:
        log.truncate(kept)
    store._db.execute("PRAGMA shrink_memory")
    try:
        assert (dict(store.all()), store.next_offset) == (later, 1000)
    except sqlite3.DatabaseError as error:
        damaged: list[Path] = []
        store._on_damage = lambda _, moved, __: damaged.append(moved)
        store.abandon(error)
        assert len(damaged) == 1, "taken for an error of the disk"
    else:
        store._db.close()
    assert read(path, []) in (None, (written, 300), (later, 1000))


def report(brokers: Brokers, version: str, minutes: int) -> None:
    """All Macs report this version."""
    for udid in UDIDS:
        at = NOW + minutes * MINUTE
        event = factories.full_report(version, udid, at, serial=f"C02{udid}")
        brokers.send([event], topic_of)


def enroll(brokers: Brokers) -> None:
    brokers.send([factories.policy_changed(), factories.release("26.1")], topic_of)
    for udid in UDIDS:
        brokers.send(factories.enrolled(udid), topic_of)
    report(brokers, "26.1", 0)


def files_of(folder: Path) -> list[Path]:
    """Return the stores of the Macs' partitions."""
    return sorted((folder / STATE.name).glob("*.sqlite"))


async def work(worker: MemoryWorker) -> None:
    while await worker.round(200):
        pass


def expected_state(folder: Path) -> dict[str, object]:
    """Return the state of the same inputs without damage."""
    brokers = Brokers()
    enroll(brokers)
    report(brokers, "26.2", 10)
    worker = MemoryWorker(brokers, folder / "expected", lambda: NOW + 10 * MINUTE)
    with reading(brokers):
        asyncio.run(worker.live())
    worker.end()
    return versions(state_of(brokers, folder / "expected-read"))


def versions(state: dict[str, object]) -> dict[str, object]:
    """Return the device row of each Mac."""
    return {udid: row["device"] for udid, row in state.items()}  # type: ignore[index]


@pytest.mark.parametrize("kind", damage.DAMAGES)
@pytest.mark.parametrize("moment", ["at the start", "while running"])
def test_worker_recovers_from_damage(moment: str, kind: str, tmp_path: Path) -> None:
    expected = expected_state(tmp_path)
    for seed in range(2):
        brokers, folder = Brokers(), tmp_path / str(seed)

        async def first(worker: MemoryWorker) -> None:
            enroll(worker.brokers)
            await worker.live()
            for owned in worker.worker.partitions.values():
                worker.worker._save_snapshot(owned)

        async def second(worker: MemoryWorker, seed: int) -> None:
            report(worker.brokers, "26.2", 10)
            if moment == "while running":
                await worker.begin()
                for store in worker.stores._open.values():
                    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    store._db.execute("PRAGMA shrink_memory")
            for path in files_of(worker.folder):
                damage.DAMAGES[kind](path, Random(seed))
            if moment != "while running":
                await worker.begin()
            await work(worker)
            for owned in worker.worker.partitions.values():
                worker.worker._save_snapshot(owned)
            await worker.own()
            await work(worker)

        with reading(brokers):
            worker = MemoryWorker(brokers, folder, lambda: NOW)
            asyncio.run(first(worker))
            worker.end()
            worker = MemoryWorker(brokers, folder, lambda: NOW + 10 * MINUTE)
            asyncio.run(second(worker, seed))
            worker.end()
        # From the disk of this worker, and from Kafka alone.
        assert versions(state_of(brokers, folder)) == expected, f"seed {seed}"
        assert versions(state_of(brokers, tmp_path / f"{seed}-new")) == expected, f"seed {seed}"


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/proc/version")]
)
def test_disk_that_refuses_one_store_stops_no_partition(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    brokers, folder = Brokers(), tmp_path / "stores"
    (folder / STATE.name).mkdir(parents=True)
    make(folder / STATE.name / "0.sqlite")
    enroll(brokers)
    worker = MemoryWorker(brokers, folder, lambda: NOW)
    with reading(brokers):
        asyncio.run(worker.live())
    assert len(worker.worker.partitions) == 4
    assert worker.worker.is_idle()
    store = worker.stores.get(TopicPartition(STATE.name, 0))
    assert store.get(rows.EPOCH_KEY) is not None
    worker.end()
    assert len(state_of(brokers, tmp_path / "new")) == len(UDIDS)
