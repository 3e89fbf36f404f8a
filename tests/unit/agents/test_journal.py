from pathlib import Path

import pytest

from agents.attempt_steps import result
from agents.journal import Journal, JournalError
from agents.journal_entry import JournalEntry, Phase
from schemas.envelope import decode, encode
from schemas.results import Outcome
from tests.factories.sites import START, a_job, hours


def entry(**changes: object) -> JournalEntry:
    return JournalEntry(job=a_job(), accepted_at=START, wake_at=START, **changes)  # type: ignore[arg-type]


def test_entry_is_equal_after_the_journal_is_opened_again(tmp_path: Path) -> None:
    written = entry(phase=Phase.WATCHING, intent_at=START, acted_at=START, sends=1, percent=25)
    with Journal(tmp_path / "journal") as journal:
        journal.accept(written, (), START)
    with Journal(tmp_path / "journal") as journal:
        assert journal.live() == [written]


def test_job_is_accepted_only_once() -> None:
    journal = Journal(":memory:")
    journal.accept(entry(), (), START)
    with pytest.raises(Exception, match="UNIQUE"):
        journal.accept(entry(), (), START)


def test_state_and_result_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    def kill_before_commit(moment: str) -> None:
        if moment == "accept:before":
            raise KeyboardInterrupt

    with (
        Journal(tmp_path / "journal", kill_before_commit) as journal,
        pytest.raises(KeyboardInterrupt),
    ):
        journal.accept(entry(), (result(entry(), Outcome.ACCEPTED),), START)
    with Journal(tmp_path / "journal") as journal:
        assert (journal.live(), journal.unpublished()) == ([], [])


def test_second_executor_cannot_open_the_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal"), pytest.raises(JournalError, match="locked"):
        Journal(tmp_path / "journal", busy_timeout_s=0.05)


def test_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal._db.execute("PRAGMA user_version=99")
    with pytest.raises(JournalError, match="version 99"):
        Journal(tmp_path / "journal")


def test_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError):
        Journal(tmp_path / "journal")


def test_prune_deletes_only_done_published_expired_jobs() -> None:
    journal = Journal(":memory:")
    done = entry(phase=Phase.DONE, outcome=Outcome.ACTED)
    journal.accept(done, (result(done, Outcome.ACTED),), START)
    late = START + hours(24 * 30)
    assert journal.prune(late) == 0, "its result is not published"
    journal.mark_published(unpublished.seq for unpublished in journal.unpublished())
    assert journal.prune(START) == 0, "it has not expired"
    assert journal.prune(late) == 1
    assert not journal.knows(done.job.job_id)


def test_prune_never_deletes_a_live_job() -> None:
    journal = Journal(":memory:")
    journal.accept(entry(), (), START)
    assert journal.prune(START + hours(9999)) == 0


def test_result_event_has_an_id_derived_from_its_content() -> None:
    journal = Journal(":memory:")
    journal.accept(entry(), (result(entry(), Outcome.ACCEPTED),), START)
    (unpublished,) = journal.unpublished()
    event = unpublished.event("executor/london")
    assert decode(encode(event)) == event
    assert event.id == journal.unpublished()[0].event("executor/london").id
    assert (event.subject, event.time) == (entry().job.udid, START)
