"""A partition's copy on disk has the rows of its changelog, however it is cut into batches."""

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.processors.local_store import LocalStore

Change = tuple[bytes, bytes | None]


def open_store(path: Path, **options: int) -> LocalStore:
    """Return the store at `path`; the test fails if its file is damaged."""
    return LocalStore.open(path, "drydock.state.v1/1", pytest.fail, **options)  # type: ignore[arg-type]


def row(epoch: int, number: int) -> bytes:
    return msgspec.json.encode({"e": epoch, "n": number})


CHANGES = st.lists(
    st.tuples(
        st.sampled_from([b"A", b"B", b"C"]),
        st.one_of(st.none(), st.builds(row, st.integers(1, 3), st.integers(0, 99))),
    ),
    max_size=12,
)


def one_by_one(changes: list[Change]) -> tuple[dict[bytes, bytes], int]:
    """Return the rows, and the number of void ones.

    A row with a lower epoch than an earlier row is void; it is kept only if its key has no row.
    """
    rows: dict[bytes, bytes] = {}
    epoch = void = 0
    for key, body in changes:
        if body is None:
            rows.pop(key, None)
            continue
        written = msgspec.json.decode(body)["e"]
        if written >= epoch:
            rows[key] = body
        else:
            rows.setdefault(key, body)
            void += 1
        epoch = max(epoch, written)
    return rows, void


@given(CHANGES, st.integers(0, 12))
def test_rows_are_those_of_the_changelog(changes: list[Change], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "1.sqlite")
        first, _ = store.apply_changelog(changes[:cut], len(changes[:cut]))
        second, _ = store.apply_changelog(changes[cut:], len(changes))
        assert (dict(store.all()), first + second) == one_by_one(changes)
        store.close()
        again = open_store(Path(folder) / "1.sqlite")
        assert (dict(again.all()), again.next_offset) == (one_by_one(changes)[0], len(changes))
        again.close()


def test_own_rows_replace_and_drop(tmp_path: Path) -> None:
    store = open_store(tmp_path / "1.sqlite")
    store.put_rows({b"A": row(1, 1), b"B": row(1, 2)}, 2, 1)
    store.put_rows({b"A": None, b"B": row(1, 3)}, 4, 1)
    assert dict(store.all()) == {b"B": row(1, 3)}
    assert (store.next_offset, store.epoch, store.get(b"A")) == (4, 1, None)
    store.close()


def test_file_that_is_no_database_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "1.sqlite").write_bytes(b"not a database" * 100)
    damaged: list[Path] = []
    store = LocalStore.open(
        tmp_path / "1.sqlite",
        "drydock.state.v1/1",
        lambda *paths: damaged.extend(paths[:2]),
    )
    assert (len(store), store.next_offset) == (0, 0)
    store.close()
    assert damaged[0] == tmp_path / "1.sqlite"
    assert damaged[1].read_bytes() == b"not a database" * 100


@given(CHANGES, st.integers(0, 12), st.integers(0, 12))
def test_rows_and_offset_agree_after_a_crash_before_a_flush(
    changes: list[Change], saved: int, cut: int
) -> None:
    saved, cut = min(saved, cut, len(changes)), min(cut, len(changes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1.sqlite"
        store = open_store(path)
        store.apply_changelog(changes[:saved], saved)
        store.flush()
        store.apply_changelog(changes[saved:cut], cut)
        store._db.rollback()  # as SQLite does after a crash of the process
        store._db.close()
        again = open_store(path)
        assert (dict(again.all()), again.next_offset) == (one_by_one(changes[:saved])[0], saved)
        again.apply_changelog(changes[saved:], len(changes))
        again.close()
        after = open_store(path)
        assert (dict(after.all()), after.next_offset) == (one_by_one(changes)[0], len(changes))
        after.close()


def test_rows_are_saved_in_steps(tmp_path: Path) -> None:
    store = open_store(tmp_path / "1.sqlite", commit_every_rows=3)
    for number in range(5):
        store.apply_changelog([(b"%d" % number, row(1, number))], number + 1)
    other = open_store(tmp_path / "1.sqlite")
    assert (len(other), other.next_offset) == (3, 3)
    other.close()
    store.close()


def test_failed_write_discards_unsaved_rows(tmp_path: Path) -> None:
    store = open_store(tmp_path / "1.sqlite")
    store.put_rows({b"A": row(1, 1)}, 1, 1)
    store.apply_changelog([(b"A", row(2, 2))], 2)
    with pytest.raises(TypeError):
        store.apply_changelog([(object(), row(2, 3))], 3)  # type: ignore[list-item]
    assert (dict(store.all()), store.next_offset, store.epoch) == ({b"A": row(1, 1)}, 1, 1)
    store.apply_changelog([(b"A", row(2, 2))], 2)
    store.put_rows({b"A": row(2, 4)}, 3, 2)
    store.close()
    again = open_store(tmp_path / "1.sqlite")
    assert (dict(again.all()), again.next_offset, again.epoch) == ({b"A": row(2, 4)}, 3, 2)
    again.close()


def test_unfinished_copy_left_by_a_crash_is_removed(tmp_path: Path) -> None:
    (tmp_path / "1.sqlite.new").write_bytes(b"half")
    (tmp_path / "1.sqlite").touch()
    store = open_store(tmp_path / "1.sqlite")
    store.put_rows({b"A": row(1, 1)}, 1, 1)
    assert sorted(path.name for path in tmp_path.glob("*.sqlite*")) == [
        *("1.sqlite", "1.sqlite-shm", "1.sqlite-wal")
    ]
    store.close()


def test_write_ahead_log_of_a_deleted_copy_is_ignored(tmp_path: Path) -> None:
    path, log = tmp_path / "1.sqlite", tmp_path / "1.sqlite-wal"
    store = open_store(path)
    store.put_rows({b"A": row(1, 1)}, 1, 1)
    left = log.read_bytes()
    store.close()
    path.unlink()
    log.write_bytes(left)
    store = open_store(path)
    assert (dict(store.all()), store.next_offset) == ({}, 0)
    store.close()
