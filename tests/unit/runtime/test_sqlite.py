"""Opening: each failure has its error, changes nothing, and leaves file and lock free."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from runtime.sqlite import (
    DamagedError,
    Database,
    Durability,
    InUseError,
    OpenError,
    Schema,
    VersionError,
    delete_files,
    open_database,
    open_read_only,
)

SCHEMA = Schema("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (7);", version=3)


def rows(db: Database) -> list[int]:
    return [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")]


def test_new_file_gets_its_tables_once(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(open_database(tmp_path / "a", SCHEMA)) as db:
            assert rows(db) == [7]
            assert db.execute("PRAGMA user_version").fetchone() == (3,)


@pytest.mark.parametrize(
    ("durability", "synchronous"), [(Durability.DURABLE, 2), (Durability.CACHE, 1)]
)
def test_durability_is_set_with_wal(
    tmp_path: Path, durability: Durability, synchronous: int
) -> None:
    with closing(open_database(tmp_path / "a", SCHEMA, durability)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (synchronous,)


def test_page_size_is_that_of_the_schema(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "a", Schema(SCHEMA.script, 3, 8192))) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (8192,)


def test_schema_without_version_is_applied_at_each_opening(tmp_path: Path) -> None:
    schema = Schema("CREATE TABLE IF NOT EXISTS t (n INTEGER); INSERT INTO t VALUES (1)", 0)
    for _ in range(2):
        with closing(open_database(tmp_path / "a", schema)) as db:
            found = rows(db)
    assert found == [1, 1]


def test_crash_while_creating_leaves_a_new_file(tmp_path: Path) -> None:
    with pytest.raises(OpenError, match="syntax error"):
        open_database(tmp_path / "a", Schema("CREATE TABLE t (n INTEGER); WRONG", 3))
    with closing(open_database(tmp_path / "a", SCHEMA)) as db:
        assert rows(db) == [7]


@pytest.mark.parametrize("found", [2, 4, -1])
@pytest.mark.parametrize(
    "opener",
    [lambda path: open_database(path, SCHEMA), lambda path: open_read_only(path, 3)],
    ids=["writer", "reader"],
)
def test_other_version_is_refused_and_not_changed(
    tmp_path: Path, opener: Callable[[Path], Database], found: int
) -> None:
    path = tmp_path / "a"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={found}")
    content = path.read_bytes()
    with pytest.raises(VersionError) as error:
        opener(path)
    assert error.value.found == found
    assert path.read_bytes() == content


def test_each_failing_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpenError, match=f"cannot open {tmp_path}/no/a: unable to open") as error:
        open_database(tmp_path / "no" / "a", SCHEMA)
    assert error.value.step == "open"
    (tmp_path / "text").write_bytes(b"not a database, " * 100)
    with pytest.raises(OpenError, match=r"cannot read .*/text: file is not a database") as error:
        open_database(tmp_path / "text", SCHEMA)
    assert (error.value.step, error.value.reason) == ("read", "file is not a database")
    with closing(sqlite3.connect(tmp_path / "other")) as db:
        db.execute("CREATE TABLE t (n INTEGER)")
    with pytest.raises(OpenError, match=r"cannot use .*/other: table t already exists") as error:
        open_database(tmp_path / "other", SCHEMA)
    assert error.value.step == "use"


def test_damage_is_found_by_the_check(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with closing(open_database(path, SCHEMA)) as db, db.transaction("test"):
        db.execute("CREATE INDEX i ON t (n)")
    content = bytearray(path.read_bytes())
    # Overwrite the cells of the last page, the index: the header of the file stays readable.
    content[-4096 + 8 : -4096 + 12] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    open_database(path, SCHEMA).close()
    with pytest.raises(DamagedError):
        open_database(path, SCHEMA, check=True)


@pytest.mark.parametrize(
    ("content", "version", "error"),
    [(b"not a database, " * 100, 0, OpenError), (b"", 99, VersionError)],
    ids=["text", "newer"],
)
def test_file_and_lock_are_released_when_opening_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    version: int,
    error: type[Exception],
) -> None:
    path, lock = tmp_path / "a", tmp_path / "lock"
    path.write_bytes(content)
    if version:
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version={version}")
    closed: list[Database] = []

    def close(db: Database) -> None:
        closed.append(db)

    monkeypatch.setattr(Database, "close", close)
    for _ in range(2):
        with pytest.raises(error):
            open_database(path, SCHEMA, lock=lock)
    assert len(closed) == 2
    monkeypatch.undo()
    for db in closed:
        db.close()
    delete_files(path)
    open_database(path, SCHEMA, lock=lock).close()


def test_reader_is_closed_when_opening_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_database(tmp_path / "a", SCHEMA).close()
    closed: list[Database] = []
    real_close = Database.close

    def close(db: Database) -> None:
        closed.append(db)
        real_close(db)

    monkeypatch.setattr(Database, "close", close)
    with pytest.raises(VersionError):
        open_read_only(tmp_path / "a", 4)
    assert len(closed) == 1


def test_lock_file_admits_one_opener_until_it_is_closed(tmp_path: Path) -> None:
    path, lock = tmp_path / "a", tmp_path / "lock"
    first = open_database(path, SCHEMA, lock=lock)
    with pytest.raises(InUseError):
        open_database(path, SCHEMA, lock=lock)
    with closing(open_read_only(path, 3)) as reader:
        assert rows(reader) == [7]
    first.close()
    second = open_database(path, SCHEMA, lock=lock)
    first.close()  # has no lock any more
    with pytest.raises(InUseError):
        open_database(path, SCHEMA, lock=lock)
    second.close()


def test_exclusive_keeps_readers_out_too(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for _ in range(2):  # a new file, and one that exists
        with closing(open_database(path, SCHEMA, exclusive=True)):
            with pytest.raises(OpenError, match="locked"):
                open_database(path, SCHEMA, exclusive=True, busy_timeout_s=0.01)
            with (
                closing(sqlite3.connect(path, timeout=0.01)) as reader,
                pytest.raises(sqlite3.OperationalError, match="locked"),
            ):
                reader.execute("SELECT * FROM t")


def test_opening_does_not_wait_for_the_transaction_of_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with closing(open_database(path, SCHEMA)) as db, db.transaction("put"):
        db.execute("INSERT INTO t VALUES (8)")
        with closing(open_database(path, SCHEMA, busy_timeout_s=0.0)) as other:
            assert rows(other) == [7]


def test_memory_database_needs_no_file() -> None:
    with closing(open_database(Path(":memory:"), SCHEMA, exclusive=True)) as db:
        assert rows(db) == [7]


def test_reader_opens_a_copy_on_a_read_only_disk(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    open_database(folder / "a", SCHEMA).close()
    folder.chmod(0o555)
    try:
        with closing(open_read_only(folder / "a", 3)) as db:
            assert rows(db) == [7]
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                db.execute("DELETE FROM t")
        assert os.listdir(folder) == ["a"]  # noqa: PTH208 - the names
    finally:
        folder.chmod(0o755)


def test_hook_is_called_around_commits_only(tmp_path: Path) -> None:
    seen: list[str] = []
    with closing(open_database(tmp_path / "a", SCHEMA, on_durable_write=seen.append)) as db:
        assert seen == [], "creating the tables is no write of the store"
        with db.transaction("put"):
            db.execute("INSERT INTO t VALUES (8)")
            assert seen == []
        assert seen == ["put:before", "put:after"]
        with pytest.raises(ZeroDivisionError), db.transaction("fail"):
            raise ZeroDivisionError
    assert seen == ["put:before", "put:after"]


@pytest.mark.parametrize(("moment", "kept"), [("put:before", [7]), ("put:after", [7, 8])])
def test_exception_of_the_hook_rolls_back_only_before_the_commit(
    tmp_path: Path, moment: str, kept: list[int]
) -> None:
    def crash(reached: str) -> None:
        if reached == moment:
            raise KeyboardInterrupt

    with closing(open_database(tmp_path / "a", SCHEMA, on_durable_write=crash)) as db:
        with pytest.raises(KeyboardInterrupt), db.transaction("put"):
            db.execute("INSERT INTO t VALUES (8)")
        assert rows(db) == kept
        assert not db.in_transaction


def test_deleted_file_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a"
    db = open_database(path, SCHEMA)
    with db.transaction("put"):
        db.execute("INSERT INTO t VALUES (8)")
    path.unlink()  # its WAL stays
    with closing(open_database(path, SCHEMA)) as again:
        assert rows(again) == [7]
        db.close()
    delete_files(path)
    delete_files(path)
    assert list(tmp_path.iterdir()) == []
