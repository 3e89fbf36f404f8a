"""The spool: appended records survive any crash, in order, and its size is limited."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.gateway.records import Record
from pipeline.gateway.spool import FILE, Spool, SpoolError, SpoolFullError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MIB = 1024 * 1024


class CrashError(Exception):
    """The process died here."""


def record(number: int, size: int = 10) -> Record:
    return Record("drydock.checkins.v1", b"MAC-1", str(number).encode().ljust(size))


def waiting(spool: Spool) -> list[bytes]:
    return [
        one.record.value.strip() for one in spool.read_after(0, max_records=10_000, max_bytes=MIB)
    ]


def test_records_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    assert spool.append([record(1), record(2)], NOW) == range(1, 3)
    assert spool.append([record(3)], NOW + timedelta(seconds=1)) == range(3, 4)
    kept = (spool.depth, spool.size, spool.last_seq, spool.oldest_at)
    spool.close()
    again = Spool(tmp_path, max_bytes=MIB)
    assert waiting(again) == [b"1", b"2", b"3"]
    assert (again.depth, again.size, again.last_seq, again.oldest_at) == kept
    assert again.oldest_at == NOW
    again.close()


def test_deleted_records_make_room_and_their_numbers_are_not_used_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    spool.append([record(1), record(2)], NOW)
    spool.delete(spool.read_after(0, max_records=10, max_bytes=MIB))
    assert (spool.depth, spool.size, spool.oldest_at) == (0, 0, None)
    assert spool.append([record(3)], NOW) == range(3, 4)
    spool.delete(spool.read_after(0, max_records=10, max_bytes=MIB))
    spool.close()
    again = Spool(tmp_path, max_bytes=MIB)
    assert again.append([record(4)], NOW) == range(4, 5)
    again.close()


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("append:before", [b"1", b"2"]),
        ("append:after", [b"1", b"2", b"3", b"4"]),
        ("forget:before", [b"1", b"2"]),
        ("forget:after", [b"2"]),
    ],
)
def test_crash_leaves_all_records_of_a_write_or_none(
    tmp_path: Path, moment: str, left: list[bytes]
) -> None:
    first = Spool(tmp_path, max_bytes=MIB)
    first.append([record(1), record(2)], NOW)
    first.close()

    def crash(reached: str) -> None:
        if reached == moment:
            raise CrashError

    spool = Spool(tmp_path, max_bytes=MIB, on_durable_write=crash)
    steps: dict[str, Callable[[], object]] = {
        "append": lambda: spool.append([record(3), record(4)], NOW),
        "forget": lambda: spool.delete(spool.read_after(0, max_records=1, max_bytes=MIB)),
    }
    with pytest.raises(CrashError):
        steps[moment.partition(":")[0]]()
    spool.close()
    again = Spool(tmp_path, max_bytes=MIB)
    assert waiting(again) == left
    assert again.depth == len(left)
    again.close()


def test_records_that_do_not_fit_are_all_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1000)
    spool.append([record(1, 500)], NOW)
    with pytest.raises(SpoolFullError):
        spool.append([record(2, 10), record(3, 500)], NOW)
    assert waiting(spool) == [b"1"]
    assert spool.shortage(100) is None
    assert spool.shortage(500) is not None
    spool.close()


def test_reading_stops_at_either_limit_but_returns_one_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    spool.append([record(number, 1000) for number in range(5)], NOW)
    assert len(spool.read_after(0, max_records=3, max_bytes=MIB)) == 3
    assert len(spool.read_after(0, max_records=5, max_bytes=2500)) == 2
    assert [one.seq for one in spool.read_after(3, max_records=5, max_bytes=1)] == [4]
    spool.close()


def test_spool_is_opened_by_one_process_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    with pytest.raises(SpoolError, match="another process"):
        Spool(tmp_path, max_bytes=MIB)
    spool.close()


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    Spool(tmp_path / "data", max_bytes=MIB).close()
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0
    assert (tmp_path / "data" / FILE).stat().st_mode & 0o077 == 0


def test_file_of_a_newer_version_is_an_error(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SpoolError, match="version 99"):
        Spool(tmp_path, max_bytes=MIB)


def test_full_disk_refuses_records(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    spool._db.execute("PRAGMA max_page_count = 10")
    with pytest.raises(SpoolFullError):
        spool.append([record(number, 10_000) for number in range(10)], NOW)
    assert (waiting(spool), spool.depth) == ([], 0)
    spool.close()


def test_database_syncs_each_commit_to_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    assert spool._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert spool._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert spool._db.execute("PRAGMA user_version").fetchone() == (2,)
    spool.close()


COST = len("drydock.checkins.v1") + len(b"MAC-1") + 10 + 64  # of `record(1)`


def test_size_limit_is_exact(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=2 * COST)
    spool.append([record(1)], NOW)
    assert (spool.size, spool.depth) == (COST, 1)
    assert spool.shortage(COST - 64) is None
    assert spool.shortage(COST - 63) is not None
    with pytest.raises(SpoolFullError, match="1 records wait"):
        spool.append([record(2, 11)], NOW)
    spool.append([record(2)], NOW)
    assert spool.size == 2 * COST
    spool.delete(spool.read_after(0, max_records=1, max_bytes=MIB))
    assert (spool.size, spool.depth) == (COST, 1)
    spool.close()


def test_read_limit_of_bytes_is_exact(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    spool.append([record(1), record(2)], NOW)
    both = 2 * (COST - 64)
    assert len(spool.read_after(0, max_records=5, max_bytes=both)) == 2
    assert len(spool.read_after(0, max_records=5, max_bytes=both - 1)) == 1
    spool.close()


def test_age_is_that_of_the_oldest_waiting_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    assert (spool.oldest_at, spool.age_s()) == (None, 0.0)
    now = datetime.now(UTC)
    spool.append([record(1)], now - timedelta(hours=2))
    spool.append([record(2)], now - timedelta(hours=1))
    assert spool.oldest_at == now - timedelta(hours=2)
    assert 7200 <= spool.age_s() < 7260
    spool.delete(spool.read_after(0, max_records=1, max_bytes=MIB))
    assert spool.oldest_at == now - timedelta(hours=1)
    spool.close()


def test_a_closed_spool_can_be_opened_and_closed_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    assert spool.last_seq == 0
    spool.close()
    again = Spool(tmp_path, max_bytes=MIB)
    spool.close()
    with pytest.raises(SpoolError, match="another process"):
        Spool(tmp_path, max_bytes=MIB)
    again.close()


def test_lock_is_released_when_opening_fails(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA user_version = 99")
    for _ in range(2):
        with pytest.raises(SpoolError, match="version 99"):
            Spool(tmp_path, max_bytes=MIB)
    (tmp_path / FILE).unlink()
    Spool(tmp_path, max_bytes=MIB).close()


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match=r"cannot use .*file"):
        Spool(tmp_path / "file" / "spool", max_bytes=MIB)
    Spool(tmp_path / "a" / "b", max_bytes=MIB).close()


def test_failed_read_or_write_is_an_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=MIB)
    spool.append([record(1)], NOW)
    spool._db.close()
    with pytest.raises(SpoolError, match="cannot read"):
        spool.read_after(0, max_records=1, max_bytes=1)
    with pytest.raises(SpoolError, match="cannot write") as failed:
        spool.append([record(2)], NOW)
    assert not isinstance(failed.value, SpoolFullError)
    assert (spool.depth, spool.last_seq) == (1, 1)
    spool.close()
