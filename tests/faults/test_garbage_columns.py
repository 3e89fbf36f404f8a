"""Garbage in any column of a local store of a worker, gateway or agent prevents no start."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agents.attempt_steps import result
from agents.configured_sites import _open_store
from agents.journal import Journal, JournalError
from agents.journal_entry import JournalEntry
from agents.mdm.answers import AnswerStore
from pipeline.gateway.records import Record
from pipeline.gateway.spool import Spool
from pipeline.processors.local_store import LocalStore
from runtime import sqlite
from schemas.results import Outcome
from tests.factories.sites import START, a_job, hours
from tests.fake_mdm import FakeMdm
from tests.garbage import GARBAGE, columns, corrupt

CHANGELOG = "drydock.state.v1/0"
MAC = "MAC-1"


def fill_worker(path: Path) -> None:
    with closing(LocalStore.open(path, CHANGELOG, lambda *_: None)) as store:
        store.put_rows({b"a": b"row a", b"b": b"row b"}, 7, 1)


def start_worker(path: Path) -> None:
    """Read all rows, as a worker does; a damaged store is replaced by an empty one."""
    store = LocalStore.open(path, CHANGELOG, lambda *_: None)
    try:
        rows = dict(store.all())
    except sqlite.DamagedError as error:
        store.abandon(error)
        store = LocalStore.open(path, CHANGELOG, lambda *_: None)
        rows = dict(store.all())
    assert rows.items() <= {b"a": b"row a", b"b": b"row b"}.items()
    store.put_rows({b"c": b"row c"}, 9, 2)
    assert store.get(b"c") == b"row c"
    store.close()


def fill_gateway(path: Path) -> None:
    with closing(Spool(path.parent, max_bytes=10**7)) as spool:
        spool.append([Record("t", b"a", b"1"), Record("t", b"b", b"2")], START)


def start_gateway(path: Path) -> None:
    """Append a record and read all: none is another than it was."""
    with closing(Spool(path.parent, max_bytes=10**7)) as spool:
        spool.append([Record("t", b"c", b"3")], START)
        found = [one.record for one in spool.read_after(0, max_records=99, max_bytes=10**6)]
    assert Record("t", b"c", b"3") in found
    assert {*found} <= {Record("t", b"a", b"1"), Record("t", b"b", b"2"), Record("t", b"c", b"3")}


def fill_agent(path: Path) -> None:
    entry = JournalEntry(job=a_job(), accepted_at=START, wake_at=START)
    with Journal(path, owner="one") as journal:
        journal.accept(entry, (result(entry, Outcome.ACCEPTED),), START)


def start_agent(path: Path) -> None:
    """Open the journal: it is as it was, or it is refused, and no order is lost silently."""
    try:
        journal = Journal(path, owner="one")
    except JournalError:
        return
    with journal:
        assert [one.job for one in journal.live()] == [a_job()]
        assert len(journal.unpublished()) == 1
        journal.complete_since(START)
        journal.prune(START + hours(9999))


def fill_answers(path: Path) -> None:
    mdm = FakeMdm(START)
    mdm.enroll(MAC, OSVersion="26.1", BuildVersion="25B78")
    with AnswerStore(path) as store:
        store.add_events(mdm.take_events(), START, {"topic/0": 3})


def start_answers(path: Path) -> None:
    """Read what is known of a Mac, and take new answers."""
    mdm = FakeMdm(START + hours(1))
    mdm.enroll("MAC-2", OSVersion="26.1", BuildVersion="25B78")
    with _open_store(path) as store:
        store.facts(MAC)
        store.deliveries_to(MAC, START)
        store.position("topic/0")
        store.add_events(mdm.take_events(), START + hours(1), {"topic/0": 9})
        assert store.facts("MAC-2").is_enrolled
        store.prune(START - hours(1))


STORES: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
    "worker": ("rows.sqlite", fill_worker, start_worker),
    "gateway": ("spool.sqlite", fill_gateway, start_gateway),
    "agent": ("journal.sqlite", fill_agent, start_agent),
    "answers": ("answers.sqlite", fill_answers, start_answers),
}


@pytest.mark.parametrize("program", STORES)
def test_garbage_in_any_column_prevents_no_start(program: str, tmp_path: Path) -> None:
    name, fill, start = STORES[program]
    whole = tmp_path / "whole"
    whole.mkdir()
    fill(whole / name)
    tried, failed = 0, []
    for table, column, kind in columns(whole / name):
        for number, value in enumerate(GARBAGE[kind]):
            folder = tmp_path / f"{table}-{column}-{number}"
            shutil.copytree(whole, folder)
            if not corrupt(folder / name, table, column, value):
                continue
            tried += 1
            try:
                start(folder / name)
            except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - all are shown
                failed.append(f"{table}.{column} = {value!r}: {error!r}")
            shutil.rmtree(folder)
    assert failed == []
    assert tried >= 10
