"""Garbage in any column of any table prevents no start; what can be read is used."""

import json
import shutil
import sqlite3
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.control_events import halt_cleared, halt_set
from pipeline.embedded.log import FILE
from pipeline.embedded.service import Options, Service
from pipeline.embedded.status import read_status
from schemas.dead_letters import DeadLetterCode
from schemas.events.control import HaltScope
from tests.embedded_world import POLICY, Environment, at, live, needy_macs, open_service
from tests.factories.sites import JOBS_KEY, KEYS, osquery_report
from tests.garbage import GARBAGE, columns, corrupt

HALTED = HaltScope(site="paris")
EVERYTHING = HaltScope(everything=True)
NEW_MAC = "MAC-NEW"
MAC = "MAC-SEAL"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with jobs, a halt, dead letters and a snapshot."""
    folder = tmp_path_factory.mktemp("fleet")
    environment = Environment.of(*needy_macs())
    service = open_service(folder, environment)
    live(service, environment, at(3))
    service.accept([halt_set(HALTED, "ops", "test", None, environment.now)], (), environment.now)
    service.close()
    kept = _open(folder)
    kept.tick(at(4))
    kept.close()
    return folder


def _open(folder: Path) -> Service:
    return Service.open(
        folder,
        now=at(4),
        signer=JOBS_KEY,
        trust=KEYS,
        options=Options(keep=timedelta(hours=1)),
    )


def _starts_and_works(folder: Path) -> None:
    """Start twice; each time a new Mac is accepted and decided, a halt is set, and a job ends."""
    for name in (NEW_MAC, f"{NEW_MAC}-2"):
        service = _open(folder)
        try:
            report = osquery_report(name, at(4), os_version="26.1", build="25B78", model="Mac14,2")
            service.accept([report], (), at(4))
            for _ in range(20):
                service.tick(at(4))
            assert name in service.reconciler.fleet.devices
            if service.reconciler.policy is not None:
                assert name in service.reconciler.last_decisions
            service.accept([halt_set(EVERYTHING, "ops", "test", None, at(4))], (), at(4))
            assert EVERYTHING in [halt.scope for halt in service.reconciler.fleet.halts()]
        finally:
            service.close()


def test_garbage_in_any_column_prevents_no_start(data_dir: Path, tmp_path: Path) -> None:
    tried = 0
    for table, column, kind in columns(data_dir / FILE):
        for number, value in enumerate(GARBAGE[kind]):
            folder = tmp_path / f"{table}-{column}-{number}"
            shutil.copytree(data_dir, folder)
            if not corrupt(folder / FILE, table, column, value):
                continue
            try:
                _starts_and_works(folder)
            except Exception as error:
                raise AssertionError(f"{table}.{column} = {value!r}: {error!r}") from error
            tried += 1
            shutil.rmtree(folder)
    assert tried > 100


def test_garbage_in_any_column_of_a_journal_prevents_no_start(
    data_dir: Path, tmp_path: Path
) -> None:
    (journal,) = (data_dir / "journals").glob("*.sqlite")
    for table, column, kind in columns(journal):
        for number, value in enumerate(GARBAGE[kind]):
            folder = tmp_path / f"{table}-{column}-{number}"
            shutil.copytree(data_dir, folder)
            if not corrupt(folder / "journals" / journal.name, table, column, value):
                continue
            try:
                _starts_and_works(folder)
            except Exception as error:
                raise AssertionError(f"{table}.{column} = {value!r}: {error!r}") from error
            shutil.rmtree(folder)


def _damage(folder: Path, statement: str, *values: Any) -> None:
    db = sqlite3.connect(folder / FILE)
    db.execute(statement, values)
    db.commit()
    db.close()


@pytest.fixture
def copied(data_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data_dir, tmp_path / "copy"))


def test_unreadable_mac_is_folded_again_from_the_log(copied: Path) -> None:
    before = _open(copied)
    expected = before.reconciler.fleet.devices[MAC]
    history = before.reconciler.fleet.job_histories[MAC]
    before.close()
    _damage(copied, "UPDATE devices SET body = ? WHERE udid = ?", b"garbage", MAC)
    _damage(copied, "UPDATE job_histories SET body = ? WHERE udid = ?", b"garbage", MAC)
    service = _open(copied)
    assert service.reconciler.fleet.devices[MAC] == expected
    assert service.reconciler.fleet.job_histories[MAC] == history
    letters = [one for one in service.store.dead_letters() if one.code == DeadLetterCode.UNREADABLE]
    assert {one.origin for one in letters} == {
        "drydock.sqlite/devices/" + MAC,
        "drydock.sqlite/job_histories/" + MAC,
    }
    service.close()
    again = _open(copied)
    assert again.reconciler.fleet.devices[MAC] == expected
    assert len(again.store.dead_letters()) == len(letters)
    again.close()


@pytest.mark.parametrize("setting", ["advisories", "halts", "approvals", "policy", "resets"])
def test_unreadable_setting_is_folded_again_from_the_log(copied: Path, setting: str) -> None:
    before = _open(copied)
    expected = before.reconciler.fleet.broadcast_to_wire()
    before.close()
    _damage(copied, "UPDATE settings SET body = ? WHERE name = ?", b"garbage", setting)
    service = _open(copied)
    assert service.reconciler.fleet.broadcast_to_wire() == expected
    service.close()


def test_halts_that_nothing_shows_halt_everything(copied: Path) -> None:
    _damage(copied, "UPDATE settings SET body = ? WHERE name = 'halts'", b"garbage")
    _damage(copied, "UPDATE log SET body = ? WHERE type = 'drydock.halt.set.v1'", b"garbage")
    _damage(copied, "UPDATE snapshots SET body = ?", b"garbage")
    service = _open(copied)
    assert [halt.scope for halt in service.reconciler.fleet.halts()] == [EVERYTHING]
    service.accept([halt_cleared(EVERYTHING, "ops", at(4))], (), at(4))
    assert service.reconciler.fleet.halts() == ()
    service.close()


def test_policy_that_this_version_refuses_leaves_no_policy(copied: Path) -> None:
    wire = json.dumps([5, {"digest": "a" * 64, "text": "version: 9", "by": "ops"}]).encode()
    _damage(copied, "UPDATE settings SET body = ? WHERE name = 'policy'", zlib.compress(wire))
    _damage(copied, "UPDATE log SET body = ? WHERE type = 'drydock.policy.changed.v1'", b"x")
    _damage(copied, "UPDATE snapshots SET body = ?", b"garbage")
    service = _open(copied)
    assert service.reconciler.policy is None
    service.set_policy(POLICY, at(4), "ops")
    assert service.reconciler.policy is not None
    service.close()


def test_site_with_a_damaged_journal_gets_no_orders_and_the_service_starts(copied: Path) -> None:
    (journal,) = (copied / "journals").glob("*.sqlite")
    db = sqlite3.connect(journal)
    db.execute("UPDATE jobs SET crc = crc + 1")
    db.commit()
    db.close()
    service = _open(copied)
    assert set(service.executors.unusable) == {journal.stem}
    status = read_status(service.store, at(4))
    assert status.devices > 0
    assert status.unreadable_journals == [journal.stem]
    assert any(journal.stem in problem for problem in status.problems)
    service.close()
    journal.unlink()
    service = _open(copied)
    assert read_status(service.store, at(4)).unreadable_journals == []
    service.close()
