"""The embedded form detects and reports a damaged database, and one without its WAL."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from pipeline.embedded.log import FILE, StoreError
from pipeline.embedded.sequence_mark import FILE as MARK
from pipeline.embedded.service import Service
from pipeline.embedded.store import Store
from tests.embedded_world import Environment, at, live, needy_macs, open_service
from tests.faults import damage

LOG_ROWS = 200


def fill(data_dir: Path) -> Store:
    """Return a store with entries, open."""
    store = Store.open(data_dir)
    for number in range(LOG_ROWS):
        with store.transaction("test"):
            store.append_decision(at(0), f"MAC-{number}", b"{}" * 50)
    return store


def copy_running(data_dir: Path, target: Path) -> None:
    """Copy the files as kill -9 leaves them."""
    target.mkdir()
    for path in data_dir.iterdir():
        if path.is_file():
            shutil.copy(path, target / path.name)


@pytest.mark.parametrize("kept", [0, 40, 20_000])
def test_lost_write_ahead_log_is_noticed_once(kept: int, tmp_path: Path) -> None:
    with closing(fill(tmp_path / "live")):
        copy_running(tmp_path / "live", tmp_path / "killed")
    log = tmp_path / "killed" / f"{FILE}-wal"
    log.write_bytes(log.read_bytes()[:kept])
    with closing(Store.open(tmp_path / "killed")) as store:
        assert store.lost_entries == LOG_ROWS - store.last_seq() > 0
        with store.transaction("test"):
            store.append_decision(at(0), "MAC-1", b"{}")
    with closing(Store.open(tmp_path / "killed")) as store:
        assert store.lost_entries == 0


def test_killed_service_has_lost_nothing(tmp_path: Path) -> None:
    with closing(fill(tmp_path / "live")):
        copy_running(tmp_path / "live", tmp_path / "killed")
    with closing(Store.open(tmp_path / "killed")) as store:
        assert (store.lost_entries, store.last_seq()) == (0, LOG_ROWS)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_unreadable_mark_is_ignored(content: bytes | None, tmp_path: Path) -> None:
    fill(tmp_path).close()
    (tmp_path / MARK).unlink()
    if content is not None:
        (tmp_path / MARK).write_bytes(content)
    with closing(Store.open(tmp_path)) as store:
        assert store.lost_entries == 0


def test_service_without_its_last_entries_gives_no_order_again(tmp_path: Path) -> None:
    environment = Environment.of(*needy_macs())
    data = tmp_path / "data"
    service = open_service(data, environment)
    live(service, environment, at(1))
    shutil.copytree(data, tmp_path / "earlier")
    live(service, environment, at(3))
    service.close()
    given = len(environment.fleet.acted)
    shutil.copy(tmp_path / "earlier" / FILE, data / FILE)
    again = open_service(data, environment)
    try:
        assert again.store.lost_entries > 0
        assert again.doubts
        live(again, environment, at(5))
    finally:
        again.close()
    jobs = [job_id for _, _, job_id, _, _ in environment.fleet.acted]
    assert given > 0
    assert len(jobs) == len(set(jobs)), "an order was given twice"


@pytest.mark.parametrize("kind", ["zero_header", "write_text"])
def test_damaged_database_is_refused_with_the_way_out(kind: str, tmp_path: Path) -> None:
    fill(tmp_path).close()
    damage.DAMAGES[kind](tmp_path / FILE, Random(1))
    with pytest.raises(StoreError, match=r"is damaged .*`drydock restore`"):
        Store.open(tmp_path)


def test_damaged_page_of_the_state_is_refused_with_the_way_out(tmp_path: Path) -> None:
    environment = Environment.of(*needy_macs())
    service: Service = open_service(tmp_path, environment)
    live(service, environment, at(1))
    service.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name='devices'").fetchone()
        (page,) = db.execute("PRAGMA page_size").fetchone()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[(root - 1) * page : root * page] = b"\xff" * page
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged .*`drydock restore`"):
        open_service(tmp_path, environment)
