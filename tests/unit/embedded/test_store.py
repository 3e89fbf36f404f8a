"""The data directory: one writer, atomic transactions, readers at the same time."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from pipeline.embedded.log import FILE, VERSION, InUseError, Log, StoreError
from pipeline.embedded.store import Store
from tests.embedded_world import at
from tests.factories.sites import START


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def append(store: Store, identity: str, now: datetime = START, key: str = "MAC-1") -> bool:
    return store.append_event(
        now, source="s", identity=identity, kind="drydock.x.v1", key=key, body=b"{}"
    )


def test_committed_rows_are_read_back(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, store.transaction("test"):
        append(store, "1")
        store.append_decision(at(1), "MAC-1", b'{"d":1}')
        store.put_blob("d1", "policy", b"text")
        store.put_setting("halts", b"{}")
    with Log.open(tmp_path) as log:
        rows = list(log.entries())
        assert [(row.seq, row.kind, row.key, row.body) for row in rows] == [
            (1, "event", "MAC-1", b"{}"),
            (2, "decision", "MAC-1", b'{"d":1}'),
        ]
        assert log.blob("d1") == b"text"
        assert log.blob("d2") is None
        assert log.setting("halts") == b"{}"
        assert log.last_decision("MAC-1") == b'{"d":1}'
        assert (log.last_seq(), log.last_at()) == (2, at(1))
        assert log.last_seq(until=at(1)) == 1


def test_event_of_a_source_is_logged_once(store: Store) -> None:
    with store.transaction("test"):
        assert append(store, "1")
        assert not append(store, "1")
        assert append(store, "2")
    assert [row.seq for row in store.entries()] == [1, 2]


def test_failed_transaction_is_rolled_back(store: Store) -> None:
    def fail() -> None:
        with store.transaction("test"):
            append(store, "1")
            store.put_setting("halts", b"{}")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(store.entries()) == []
    assert store.setting("halts") is None
    with store.transaction("test"):
        assert append(store, "1")


def test_hook_is_called_before_and_after_a_commit(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def hook(moment: str) -> None:
        with Log.open(tmp_path) as log:
            seen.append((moment, log.last_seq()))

    with Store.open(tmp_path, hook) as store, store.transaction("test"):
        append(store, "1")
    assert seen == [("test:before", 0), ("test:after", 1)]


def test_full_disk_is_a_store_error_and_loses_nothing(store: Store) -> None:
    with store.transaction("test"):
        append(store, "1")
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match="full"), store.transaction("test"):
        store.put_blob("d", "policy", bytes(range(256)) * 4096)
    assert store.last_seq() == 1


def test_second_writer_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InUseError, match="in use by another"):
        Store.open(tmp_path)


def test_closed_store_can_be_opened_again(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    Store.open(tmp_path).close()


def test_reader_sees_the_log_as_it_was_when_opened(store: Store, tmp_path: Path) -> None:
    with store.transaction("test"):
        append(store, "1")
    with Log.open(tmp_path) as log:
        with store.transaction("test"):
            append(store, "2")
        assert log.last_seq() == 1
    with Log.open(tmp_path) as log:
        assert log.last_seq() == 2


def test_reader_cannot_write(store: Store, tmp_path: Path) -> None:
    with Log.open(tmp_path) as log, pytest.raises(sqlite3.OperationalError, match="readonly"):
        log._db.execute("DELETE FROM log")


@pytest.mark.parametrize("opener", [Store.open, Log.open], ids=["writer", "reader"])
def test_newer_schema_version_is_refused(tmp_path: Path, opener: type) -> None:
    Store.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")
    with pytest.raises(StoreError, match=f"schema version {VERSION + 1}; this Drydock reads up to"):
        opener(tmp_path)


@pytest.mark.parametrize("opener", [Store.open, Log.open], ids=["writer", "reader"])
def test_database_from_before_the_first_release_is_refused(tmp_path: Path, opener: type) -> None:
    Store.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA user_version=1")
    with pytest.raises(StoreError, match=r"version 1, .*start with an empty data directory"):
        opener(tmp_path)


@pytest.mark.parametrize("opener", [Store.open, Log.open], ids=["writer", "reader"])
def test_file_that_is_not_a_database_is_refused(tmp_path: Path, opener: type) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but longer than a header" * 100)
    with pytest.raises(StoreError, match="not a database"):
        opener(tmp_path)
    (tmp_path / "lock").unlink(missing_ok=True)


def test_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is this a data directory"):
        Log.open(tmp_path)


def test_unusable_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use"):
        Store.open(tmp_path / "file")


def test_entries_are_selected_by_time_key_kind_and_position(store: Store) -> None:
    with store.transaction("test"):
        append(store, "1", at(0), "A")
        append(store, "2", at(1), "B")
        store.append_decision(at(2), "A", b"{}")

    def seqs(**selection: object) -> list[int]:
        return [row.seq for row in store.entries(**selection)]  # type: ignore[arg-type]

    assert seqs(since=at(1)) == [2, 3]
    assert seqs(until=at(1)) == [1]
    assert seqs(key="A") == [1, 3]
    assert seqs(key="A", kind="decision") == [3]
    assert seqs(after=2) == [3]


def test_dead_letters_are_counted_until_they_are_replayed(store: Store) -> None:
    with store.transaction("test"):
        for code in ("bug", "not_json", "bug"):
            store.put_dead_letter(START, code=code, source="jamf", origin="o", body=b"{}")
    assert store.dead_letter_counts() == {"bug": 2, "not_json": 1}
    with store.transaction("test"):
        store.mark_replayed(1, at(1))
    assert store.dead_letter_counts() == {"bug": 1, "not_json": 1}
    assert [letter.seq for letter in store.dead_letters(open_only=True)] == [2, 3]
    assert store.dead_letters(seq=1)[0].replayed_at == at(1)
