"""A damaged journal is never used: an agent rebuilds it, the embedded form refuses to start."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from shutil import copy

import pytest

from agents.attempt_steps import result
from agents.attempts import Attempts
from agents.journal import Journal, UnreadableJournalError
from agents.journal_entry import JournalEntry, Phase
from agents.replicated import ReplicatedJournal
from runtime.sqlite import DamagedError
from schemas.attempts import AttemptRecord
from schemas.results import Outcome
from tests.factories.sites import START, a_job
from tests.faults import damage

JOBS = 60
SEEDS = [pytest.param(8, id="short"), pytest.param(50, id="long", marks=pytest.mark.slow)]


class NoChangelog:
    def write(self, changes: Mapping[str, AttemptRecord | None]) -> None:
        del changes


def entry(number: int) -> JournalEntry:
    return JournalEntry(job=a_job(udid=f"MAC-{number}"), accepted_at=START, wake_at=START)


def fill(path: Path) -> list[JournalEntry]:
    """Write a journal with jobs, half of whose results are published."""
    written = [entry(number) for number in range(JOBS)]
    with Journal(path) as journal:
        for one in written:
            journal.accept(one, (result(one, Outcome.ACCEPTED),), START)
        journal.mark_published(range(1, JOBS // 2))
        return journal.live()


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_damaged_journal_is_complete_or_refused(kind: str, seeds: int, tmp_path: Path) -> None:
    written = fill(tmp_path / "whole")
    refused = 0
    for seed in range(seeds):
        path = tmp_path / f"{seed}"
        copy(tmp_path / "whole", path)
        damage.DAMAGES[kind](path, Random(seed))
        try:
            with Journal(path) as journal:
                assert journal.live() == written, f"seed {seed}"
                assert len(journal.unpublished()) == JOBS // 2 + 1, f"seed {seed}"
                assert all(journal.knows(one.job.job_id) for one in written), f"seed {seed}"
        except UnreadableJournalError:
            refused += 1
    assert refused >= seeds // 4, "the damage was not noticed"


def test_damaged_name_in_the_schema_is_damage(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    # SQLite repeats the name in its message, which Python cannot decode.
    assert damage.change_text(tmp_path / "journal", b"CREATE TABLE jobs", b"CREATE TABLE jo\x81s")
    with pytest.raises(UnreadableJournalError, match="damaged"):
        Journal(tmp_path / "journal")


def test_refusal_names_the_way_out(tmp_path: Path) -> None:
    fill(tmp_path / "london.sqlite")
    damage.zero_header(tmp_path / "london.sqlite", Random(1))
    with pytest.raises(UnreadableJournalError, match=r"is damaged .*`drydock restore`"):
        Journal(tmp_path / "london.sqlite")


def test_changed_phase_is_damage(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    assert damage.change_text(tmp_path / "journal", b'"phase":"ready"', b'"phase":"reads"') or (
        damage.change_text(tmp_path / "journal", b"MAC-7", b"MAC-8")
    )
    with pytest.raises(UnreadableJournalError, match="checksum"):
        Journal(tmp_path / "journal")


def test_changed_row_is_found_while_the_journal_is_open(tmp_path: Path) -> None:
    fill(tmp_path / "london-0.sqlite")
    written: list[Mapping[str, AttemptRecord | None]] = []

    class Changelog:
        def write(self, changes: Mapping[str, AttemptRecord | None]) -> None:
            written.append(changes)

    path = tmp_path / "london-0.sqlite"
    with ReplicatedJournal(path, Changelog(), "one") as journal:
        journal._db.execute("UPDATE jobs SET entry = replace(entry, 'MAC-3', 'MAC-9')")
        journal._db.execute("UPDATE outbox SET result = replace(result, 'MAC-', 'PC-')")
        with pytest.raises(DamagedError):
            journal.live()
        with pytest.raises(DamagedError):
            journal.unpublished()
        job = entry(3)
        journal._changed[job.job.job_id] = None
        with pytest.raises(DamagedError):
            journal.replicate()
    assert written == []


def test_each_change_keeps_the_checksums(tmp_path: Path) -> None:
    path = tmp_path / "london-0.sqlite"
    one = entry(1)
    with ReplicatedJournal(path, NoChangelog(), "one") as journal:
        journal.accept(one, (result(one, Outcome.ACCEPTED),), START)
        done = one.model_copy(update={"phase": Phase.DONE}) if hasattr(one, "model_copy") else one
        journal.save("intend", done, (result(one, Outcome.ACTED),), START)
        journal.mark_published([1, 2])
        journal.republish(one.job.job_id)
        journal.close_unseen(result(entry(2), Outcome.SUPERSEDED), START, START)
        record = journal._record(one.job.job_id)
        assert record is not None
        journal.restore(Attempts({one.job.job_id: record}), START)
    ReplicatedJournal(path, NoChangelog(), "one").close()


def test_journal_of_another_partition_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "london-0.sqlite"
    with ReplicatedJournal(path, NoChangelog(), "one") as journal:
        journal.accept(entry(1), (), START)
    path.rename(tmp_path / "london-1.sqlite")
    with pytest.raises(UnreadableJournalError, match="london-0"):
        ReplicatedJournal(tmp_path / "london-1.sqlite", NoChangelog(), "one")


@pytest.mark.parametrize("kept", [0, 40, 5_000])
def test_cut_write_ahead_log_leaves_whole_jobs(kept: int, tmp_path: Path) -> None:
    written = fill(tmp_path / "journal")
    copied = tmp_path / "copied"
    copied.mkdir()
    with Journal(tmp_path / "journal") as journal:
        for number in range(JOBS, JOBS + 10):
            journal.accept(entry(number), (), START)
        for suffix in ("", "-wal"):
            copy(tmp_path / f"journal{suffix}", copied / f"journal{suffix}")
    log = copied / "journal-wal"
    log.write_bytes(log.read_bytes()[:kept])
    with suppress(UnreadableJournalError), Journal(copied / "journal") as journal:
        assert set(map(repr, written)) <= set(map(repr, journal.live()))
