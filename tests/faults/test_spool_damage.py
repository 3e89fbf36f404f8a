"""A damaged spool: the gateway starts, sends every record that can be read, and no other."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from shutil import copy

import pytest

from pipeline.gateway.records import Record
from pipeline.gateway.spool import FILE, Replaced, Spool
from tests.faults import damage

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MIB = 1024 * 1024
RECORDS = 380
PAGE_BYTES = 4096
SEEDS = [pytest.param(6, id="short"), pytest.param(50, id="long", marks=pytest.mark.slow)]


def record(number: int) -> Record:
    """Return a record; each tenth one needs overflow pages."""
    text = b"%d " % number * (2000 if number % 10 == 0 else 100)
    return Record("drydock.checkins.v1", b"MAC-%d" % number, text)


def open_spool(folder: Path, replaced: list[Replaced]) -> Spool:
    return Spool(folder, max_bytes=50 * MIB, on_replaced=replaced.append)


def waiting(spool: Spool) -> dict[int, Record]:
    found = spool.read_after(0, max_records=10_000, max_bytes=50 * MIB)
    return {one.seq: one.record for one in found}


def fill(folder: Path) -> dict[int, Record]:
    """Write a spool of which the first records are delivered; return what waits."""
    with closing(open_spool(folder, [])) as spool:
        for start in range(0, RECORDS, 10):
            spool.append([record(number) for number in range(start, start + 10)], NOW)
        spool.delete(spool.read_after(0, max_records=95, max_bytes=50 * MIB))
        return waiting(spool)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_spool_saves_the_records_that_can_be_read(kind: str, seeds: int, tmp_path: Path) -> None:
    written = fill(tmp_path / "whole")
    replaced: list[Replaced] = []
    for seed in range(seeds):
        folder = tmp_path / str(seed)
        folder.mkdir()
        copy(tmp_path / "whole" / FILE, folder / FILE)
        size = (folder / FILE).stat().st_size
        damage.DAMAGES[kind](folder / FILE, Random(seed))
        kept = (folder / FILE).stat().st_size / size
        count = len(replaced)
        with closing(open_spool(folder, replaced)) as spool:
            found = waiting(spool)
            assert found.items() <= written.items(), f"seed {seed}"
            lost = len(written) - len(found)
            if kind == "write_text":
                assert lost == len(written)
            elif kind == "truncate":
                assert lost <= RECORDS * (1 - kept) + 60, f"seed {seed}"
            else:
                assert lost <= 3 * 30, f"seed {seed}: a page or three bytes"
            if len(replaced) > count and kind in ("flip_page", "zero_page"):
                assert replaced[-1].rows.saved == len(found), f"seed {seed}"
                assert lost <= replaced[-1].rows.lost <= lost + 100, f"seed {seed}"
            assert spool.depth == len(found)
            (added,) = spool.append([record(1)], NOW)
            assert added > max(found, default=0)
        with closing(open_spool(folder, [])) as again:
            assert len(waiting(again)) == len(found) + 1
    assert len(replaced) >= seeds // 4, "the damage was not noticed"


def test_damaged_root_page_costs_no_record(tmp_path: Path) -> None:
    written = fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'records'"
        (root,) = db.execute(query).fetchone()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = bytes(PAGE_BYTES)
    (tmp_path / FILE).write_bytes(content)
    replaced: list[Replaced] = []
    with closing(open_spool(tmp_path, replaced)) as spool:
        assert waiting(spool) == written
    assert replaced[0].rows.saved == len(written)
    assert replaced[0].moved.read_bytes() == content


def test_changed_record_is_not_sent(tmp_path: Path) -> None:
    written = fill(tmp_path)
    assert damage.change_text(tmp_path / FILE, b"201 201 201", b"201 209 201") >= 1
    replaced: list[Replaced] = []
    with closing(open_spool(tmp_path, replaced)) as spool:
        found = waiting(spool)
        assert spool.depth == len(found)
    assert set(written) - set(found) == {202}
    assert found.items() <= written.items()
    assert [one.rows for one in replaced] == [(len(written) - 1, 1)]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(waiting, id="read"),
        pytest.param(lambda spool: spool.append([record(1)], NOW), id="append"),
        pytest.param(
            lambda spool: spool.delete(spool.read_after(0, max_records=200, max_bytes=MIB)),
            id="delete",
        ),
    ],
)
@pytest.mark.parametrize("kind", [damage.flip_page, damage.zero_page, damage.truncate])
def test_damage_while_the_gateway_runs(
    kind: damage.Damage, step: Callable[[Spool], object], tmp_path: Path
) -> None:
    for seed in range(3):
        folder = tmp_path / str(seed)
        written = fill(folder)
        replaced: list[Replaced] = []
        with closing(open_spool(folder, replaced)) as spool:
            kind(folder / FILE, Random(seed))
            spool._db.execute("PRAGMA shrink_memory")
            step(spool)
            found = waiting(spool)
            assert spool.depth == len(found)
            assert spool.last_seq >= RECORDS
            added = {seq: one for seq, one in found.items() if seq > RECORDS}
            assert {k: v for k, v in found.items() if k <= RECORDS}.items() <= written.items()
            assert all(one == record(1) for one in added.values())
        with closing(open_spool(folder, replaced)) as again:
            assert waiting(again).items() <= found.items()


def test_records_in_the_write_ahead_log_are_saved(tmp_path: Path) -> None:
    written = fill(tmp_path / "live")
    copied = tmp_path / "copied"
    copied.mkdir()
    with closing(open_spool(tmp_path / "live", [])) as spool:
        (seq,) = spool.append([record(500)], NOW)
        for name in (FILE, FILE + "-wal"):
            copy(tmp_path / "live" / name, copied / name)
    damage.zero_header(copied / FILE, Random(1))
    content = bytearray((copied / FILE).read_bytes())
    content[40 * PAGE_BYTES : 41 * PAGE_BYTES] = bytes(PAGE_BYTES)
    (copied / FILE).write_bytes(content)
    with closing(open_spool(copied, [])) as spool:
        found = waiting(spool)
    assert found[seq] == record(500)
    assert len(found) > len(written) - 30


@pytest.mark.parametrize("kept", [0, 40, 5000, 20_000])
def test_cut_write_ahead_log_leaves_whole_records(kept: int, tmp_path: Path) -> None:
    written = fill(tmp_path / "live")
    copied = tmp_path / "copied"
    copied.mkdir()
    with closing(open_spool(tmp_path / "live", [])) as spool:
        for number in range(500, 520):
            spool.append([record(number)], NOW)
        for name in (FILE, FILE + "-wal"):
            copy(tmp_path / "live" / name, copied / name)
    log = copied / (FILE + "-wal")
    log.write_bytes(log.read_bytes()[:kept])
    with closing(open_spool(copied, [])) as spool:
        found = waiting(spool)
    assert written.items() <= found.items()


def test_empty_file_is_reported_and_its_write_ahead_log_read(tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    with closing(open_spool(tmp_path / "live", [])) as spool:
        spool.append([record(number) for number in range(20)], NOW)
        copy(tmp_path / "live" / (FILE + "-wal"), copied / (FILE + "-wal"))
        written = waiting(spool)
    (copied / FILE).touch()
    replaced: list[Replaced] = []
    with closing(open_spool(copied, replaced)) as spool:
        assert waiting(spool) == written
    assert replaced[0].rows.saved == 20


def test_file_of_another_store_is_replaced(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("CREATE TABLE jobs (job_id TEXT)")
        db.execute("PRAGMA user_version = 2")
    replaced: list[Replaced] = []
    with closing(open_spool(tmp_path, replaced)) as spool:
        assert spool.depth == 0
    assert [one.rows for one in replaced] == [(0, 0)]


@pytest.mark.parametrize("kept", [0, 100, 6000])
def test_write_ahead_log_cut_while_the_gateway_runs(kept: int, tmp_path: Path) -> None:
    written = fill(tmp_path)
    with closing(open_spool(tmp_path, [])) as spool:
        for number in range(500, 520):
            spool.append([record(number)], NOW)
        all_written = waiting(spool)
        with (tmp_path / (FILE + "-wal")).open("r+b") as log:
            log.truncate(kept)
        spool._db.execute("PRAGMA shrink_memory")
        found = waiting(spool)
        assert written.items() <= found.items() <= all_written.items()
        spool.append([record(1)], NOW)
        assert spool.depth == len(found) + 1
    with closing(open_spool(tmp_path, [])) as again:
        assert len(waiting(again)) == len(found) + 1


def test_crash_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    written = fill(tmp_path)
    (tmp_path / FILE).replace(tmp_path / (FILE + ".new"))
    (tmp_path / (FILE + "-wal")).write_bytes(b"of the damaged file")
    with closing(open_spool(tmp_path, [])) as spool:
        assert waiting(spool) == written
    assert len(list(tmp_path.glob(FILE + ".damaged-*-wal"))) == 1


def test_unfinished_copy_is_made_again(tmp_path: Path) -> None:
    written = fill(tmp_path)
    damage.change_text(tmp_path / FILE, b"201 201 201", b"201 209 201")
    (tmp_path / (FILE + ".new")).write_bytes(b"half of a copy")
    with closing(open_spool(tmp_path, [])) as spool:
        assert len(waiting(spool)) == len(written) - 1
    assert not (tmp_path / (FILE + ".new")).exists()
