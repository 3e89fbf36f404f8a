"""`drydock backup` and `drydock restore`: consistent while the service runs, checked, and safe."""

import gzip
import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.journal import Journal
from pipeline.cli.app import app
from pipeline.embedded.backup import (
    Backup,
    BackupError,
    back_up,
    copy_closed_journal,
    restore,
)
from pipeline.embedded.log import FILE, Log
from pipeline.embedded.service import Service
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.envelope import JobResultedEvent, decode
from tests.drydock_process import DRYDOCK, running
from tests.embedded_world import Environment, at, live, needy_macs, open_service

SIMULATED = ("--simulate", "40", "--policy", "examples/policy.yaml")


def backed_up(data_dir: Path, target: Path) -> Backup:
    """Make a back-up while no service runs."""
    return back_up(data_dir, target, at(0), lambda site: copy_closed_journal(data_dir, site))


def run_until(data_dir: Path, environment: Environment, until_h: float) -> Service:
    service = open_service(data_dir, environment)
    try:
        live(service, environment, at(until_h))
    finally:
        service.close()
    return service


@pytest.fixture
def environment() -> Environment:
    return Environment.of(*needy_macs())


@pytest.fixture
def data(tmp_path: Path, environment: Environment) -> Path:
    """Return a data directory with jobs under way and keys."""
    folder = tmp_path / "data"
    run_until(folder, environment, 2)
    for purpose in Purpose:
        KeyStore(folder / "keys").make(purpose)
    return folder


@pytest.mark.parametrize("name", ["backup", "backup.tar", "backup.tar.gz"])
@pytest.mark.parametrize("later_h", [1, 30])
def test_restored_backup_gives_no_order_again(
    name: str, later_h: float, tmp_path: Path, data: Path, environment: Environment
) -> None:
    made = backed_up(data, tmp_path / name)
    run_until(data, environment, 2 + later_h)
    assert restore(tmp_path / name, tmp_path / "new") == made
    service = run_until(tmp_path / "new", environment, later_h + 90)
    assert [doubt.cause for doubt in service.doubts] == ["copied"]
    given = Counter(job_id for _, _, job_id, _, _ in environment.fleet.acted)
    assert max(given.values()) == 1, "an order was given twice"
    again = open_service(tmp_path / "new", environment)
    again.close()
    assert again.doubts == []


def test_backup_has_public_keys_only(tmp_path: Path, data: Path) -> None:
    made = backed_up(data, tmp_path / "backup")
    files = {path.relative_to(tmp_path / "backup").as_posix() for path in files_of(tmp_path)}
    assert files == {
        "backup.json",
        FILE,
        "journals/london.sqlite",
        *(f"keys/trust/{purpose}/{keyid}.pub" for purpose, keyid in made.signing_keys.items()),
    }
    assert made.signing_keys.keys() == {*Purpose}
    text = b"".join(path.read_bytes() for path in files_of(tmp_path))
    assert b"PRIVATE" not in text


def files_of(folder: Path) -> Iterator[Path]:
    return (path for path in (folder / "backup").rglob("*") if path.is_file())


def damage_database(backup: Path) -> None:
    with (backup / FILE).open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 64)


def truncate_journal(backup: Path) -> None:
    path = backup / "journals" / "london.sqlite"
    path.write_bytes(path.read_bytes()[:5000])


def forge_damage(backup: Path) -> None:
    """Damage a journal and correct its checksum: the structure is checked too."""
    path = backup / "journals" / "london.sqlite"
    raw = bytearray(path.read_bytes())
    raw[4096:8192] = bytes(4096)
    path.write_bytes(raw)
    correct(backup, "journals/london.sqlite")


def newer_version(backup: Path) -> None:
    with closing(sqlite3.connect(backup / FILE)) as db:
        db.execute("PRAGMA user_version=99")
    correct(backup, FILE)


def correct(backup: Path, name: str) -> None:
    fields = json.loads((backup / "backup.json").read_text())
    fields["files"][name] = hashlib.sha256((backup / name).read_bytes()).hexdigest()
    (backup / "backup.json").write_text(json.dumps(fields))


DAMAGE = {
    "database": (damage_database, "was altered"),
    "journal": (truncate_journal, "was altered"),
    "journal, checksum corrected": (forge_damage, "london.sqlite"),
    "version": (newer_version, "schema version 99"),
    "missing journal": (lambda b: (b / "journals" / "london.sqlite").unlink(), "is missing"),
    "missing manifest": (lambda b: (b / "backup.json").unlink(), "no backup.json"),
    "more files": (lambda b: (b / "more").write_text(""), "not part of"),
    "format": (
        lambda b: (b / "backup.json").write_text(
            (b / "backup.json").read_text().replace('"format": 1', '"format": 2')
        ),
        "format 2",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_backup_is_refused_and_nothing_is_restored(
    kind: str, tmp_path: Path, data: Path
) -> None:
    backed_up(data, tmp_path / "backup")
    damage, message = DAMAGE[kind]
    damage(tmp_path / "backup")
    with pytest.raises(BackupError, match=message):
        restore(tmp_path / "backup", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_folder_that_is_not_empty_is_refused(tmp_path: Path, data: Path) -> None:
    backed_up(data, tmp_path / "backup")
    with pytest.raises(BackupError, match="not empty"):
        restore(tmp_path / "backup", data)
    with pytest.raises(BackupError, match="exists"):
        backed_up(data, tmp_path / "backup")


ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "cut in the middle": lambda raw: raw[: len(raw) // 2],
    "cut near its end": lambda raw: raw[: len(raw) * 9 // 10],
    "changed": lambda raw: raw[:400] + bytes(200) + raw[600:],
    "no archive": lambda _: b"a letter to the administrator" * 99,
    "compressed, no archive": lambda _: gzip.compress(b"a letter" * 999),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_unreadable_archive_is_refused_in_one_line(kind: str, tmp_path: Path, data: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    backed_up(data, archive)
    archive.write_bytes(ARCHIVES[kind](archive.read_bytes()))
    done = CliRunner().invoke(app, ["restore", str(archive), "--data-dir", str(tmp_path / "new")])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(archive) in done.stderr
    assert list((tmp_path / "new").iterdir()) == []


def test_archive_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.add(tmp_path / "evil", arcname="../evil-too")
    with pytest.raises(BackupError):
        restore(tmp_path / "evil.tar", tmp_path / "new")
    assert not (tmp_path / "evil-too").exists()


def test_damaged_database_is_not_backed_up(tmp_path: Path, data: Path) -> None:
    raw = bytearray((data / FILE).read_bytes())
    raw[-4096 * 8 : -4096 * 4] = b"\xff" * 4096 * 4
    (data / FILE).write_bytes(raw)
    assert drydock("backup", tmp_path / "backup", "--data-dir", data).returncode == 2
    assert not (tmp_path / "backup").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def drydock(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*DRYDOCK, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(400)  # 12 commands, each a process that takes seconds to start
def test_backups_of_a_running_service_are_consistent_and_restore_gives_no_order_again(
    tmp_path: Path,
) -> None:
    """40 simulated Macs; the database is put back later, with the backed up or without journals."""
    data = tmp_path / "data"
    with running(data, *SIMULATED) as service:
        for number in range(4):
            time.sleep(1.0 + number % 3)
            done = drydock("backup", tmp_path / f"b{number}.tar", "--data-dir", data)
            assert done.returncode == 0, done.stderr
        time.sleep(3)
        assert service.end(signal.SIGTERM) == 0
    for number in range(4):
        new = tmp_path / f"new{number}"
        assert drydock("restore", tmp_path / f"b{number}.tar", "--data-dir", new).returncode == 0
        assert_journals_have_each_result(new)
        verified = drydock("replay", "--verify", "--data-dir", new)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    restored = tmp_path / "new2"
    for path in data.glob("simulated-macs.*"):  # the Macs are not restored
        shutil.copy(path, restored)
    with running(restored, *SIMULATED) as service:
        time.sleep(8)
        assert service.end(signal.SIGTERM) == 0
    assert any("journal may lack orders" in line for line in service.log_lines)
    with closing(sqlite3.connect(restored / "simulated-macs.sqlite")) as db:
        rows = db.execute("SELECT json_extract(job, '$.job_id') FROM orders").fetchall()
    assert rows
    assert max(Counter(rows).values()) == 1, "an order was given twice"


def assert_journals_have_each_result(data_dir: Path) -> None:
    """Assert that each job with a result of its executor is in the journal of its site."""
    known: dict[str, frozenset[str]] = {}
    for path in (data_dir / "journals").glob("*.sqlite"):
        with Journal(path) as journal:
            known[path.stem] = journal.job_ids()
    with Log.open(data_dir) as log:
        for row in log.entries(kind="event"):
            event = decode(row.body)
            if isinstance(event, JobResultedEvent) and event.data.attempt > 0:
                assert event.data.job_id in known[event.data.site]
