"""The embedded form with a lost, older or foreign journal, or a restored database.

Real SQLite files. A Mac is never acted on twice for one job, and the service reports the loss.
"""

import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agents.simulated import Faults, Period
from pipeline.decide.decision import decide
from pipeline.embedded.control_events import approval_granted
from pipeline.embedded.log import Log
from pipeline.embedded.service import Service
from pipeline.embedded.status import read_status
from schemas.envelope import decode
from schemas.results import ErrorCode, JobResult
from tests.embedded_world import Environment, at, live, needy_macs, open_service
from tests.factories import halt_cleared, halted
from tests.factories.sites import APPROVALS_KEY, NEW, a_spec

LOAN = "MAC-LOAN"
DAY = timedelta(days=1)


def slow(*values: float) -> list[Any]:
    """Return values of a parameter that only `make faults` runs."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def delete_journals(data_dir: Path) -> None:
    shutil.rmtree(data_dir / "journals")


def keep_journals(_: Path) -> None:
    """Lose nothing."""


def backup(data_dir: Path, target: Path) -> None:
    """Copy the database alone, without the files beside it."""
    with (
        closing(sqlite3.connect(data_dir / "drydock.sqlite")) as db,
        closing(sqlite3.connect(target)) as copy,
    ):
        db.backup(copy)


def put_back(copy: Path, data_dir: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (data_dir / f"drydock.sqlite{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, data_dir / "drydock.sqlite")


def run_until(data_dir: Path, environment: Environment, until_h: float) -> Service:
    """Run the service until this hour, close it, and return it."""
    service = open_service(data_dir, environment)
    try:
        live(service, environment, at(until_h))
    finally:
        service.close()
    return service


def acts(environment: Environment) -> Counter[str]:
    return Counter(job_id for _, _, job_id, _, _ in environment.fleet.acted)


def assert_no_job_was_given_twice(environment: Environment) -> None:
    given = acts(environment)
    assert given
    assert max(given.values()) == 1, "an order was given twice"


@pytest.mark.parametrize("lose", [delete_journals, keep_journals], ids=["lost", "kept"])
@pytest.mark.parametrize("backup_h", [1, *slow(0, 2, 3, 5)])
@pytest.mark.parametrize("later_h", [1, *slow(0, 6, 30)])
def test_restored_database_gives_no_order_again(
    lose: Callable[[Path], None], backup_h: float, later_h: float, tmp_path: Path
) -> None:
    environment = Environment.of(*needy_macs())
    data = tmp_path / "data"
    run_until(data, environment, backup_h)
    backup(data, tmp_path / "copy")
    run_until(data, environment, backup_h + later_h)
    put_back(tmp_path / "copy", data)
    lose(data)
    run_until(data, environment, backup_h + later_h + 80)
    assert_no_job_was_given_twice(environment)


@pytest.mark.parametrize("lost_h", [1, *slow(2, 3, 4, 5, 6, 8, 11)])
def test_journals_that_are_deleted_between_orders_cost_no_second_order(
    lost_h: int, tmp_path: Path
) -> None:
    environment = Environment.of(*needy_macs())
    run_until(tmp_path, environment, lost_h)
    delete_journals(tmp_path)
    service = run_until(tmp_path, environment, lost_h + 80)
    assert_no_job_was_given_twice(environment)
    assert [(doubt.site, doubt.cause) for doubt in service.doubts] == [("london", "lost")]
    again = open_service(tmp_path, environment)
    again.close()
    assert again.doubts == [], "the loss is reported at each start"


@pytest.mark.parametrize("lost_h", [2, *slow(1, 3, 4, 5, 6, 7)])
def test_older_journals_that_are_put_back_cost_no_second_order(lost_h: int, tmp_path: Path) -> None:
    environment = Environment.of(*needy_macs())
    data, copy = tmp_path / "data", tmp_path / "copy"
    run_until(data, environment, lost_h - 1)
    shutil.copytree(data / "journals", copy)
    run_until(data, environment, lost_h + 3)
    delete_journals(data)
    copy.rename(data / "journals")
    run_until(data, environment, lost_h + 80)
    assert_no_job_was_given_twice(environment)


def test_journals_that_are_deleted_while_the_service_runs_cost_no_second_order(
    tmp_path: Path,
) -> None:
    environment = Environment.of(*needy_macs())
    service = open_service(tmp_path, environment)
    live(service, environment, at(2))
    delete_journals(tmp_path)
    live(service, environment, at(4))
    service.close()
    run_until(tmp_path, environment, 80)
    assert_no_job_was_given_twice(environment)


def test_lost_journal_is_a_problem_of_the_status_until_its_jobs_end(tmp_path: Path) -> None:
    environment = Environment.of(*needy_macs())
    run_until(tmp_path, environment, 1)
    delete_journals(tmp_path)
    service = open_service(tmp_path, environment)
    found = read_status(service.store, environment.now)
    assert found.doubtful_jobs["london"] > 0
    assert any("before a journal was lost" in problem for problem in found.problems)
    live(service, environment, at(200))
    found = read_status(service.store, environment.now)
    service.close()
    assert found.doubtful_jobs == {}


def test_site_with_the_journal_of_another_site_gets_no_order(tmp_path: Path) -> None:
    environment = Environment.of(*needy_macs())
    run_until(tmp_path, environment, 3)
    journals = tmp_path / "journals"
    shutil.copy(journals / "london.sqlite", journals / "tokyo.sqlite")
    with closing(open_service(tmp_path, environment)) as service:
        errors = {site: str(error) for site, error in service.executors.unusable.items()}
        assert list(errors) == ["tokyo"]
        assert re.search(r"the journal of london.*drydock restore", errors["tokyo"])
        # Any job of the site may be in the journal that is missing.
        assert service.executors.knows("tokyo", "any job")


def a_loan_unit(**faults: Any) -> Environment:
    """Return a world with one loan unit that is returned after an hour: it needs an erase."""
    return Environment.of(
        a_spec(
            LOAN,
            loan_returned_at=at(1),
            os_version=NEW.version,
            build=NEW.build,
            faults=Faults(**faults),
        )
    )


def approve(data_dir: Path, environment: Environment) -> None:
    service = open_service(data_dir, environment)
    service.approve(LOAN, by="someone", now=environment.now, lasts=20 * DAY, key=APPROVALS_KEY)
    service.close()


def reason_of(data_dir: Path, environment: Environment) -> tuple[str, str]:
    """Return the reason of the loan unit's decision, and the detail of its approval gate."""
    service = open_service(data_dir, environment)
    decision = decide(service.reconciler.situation(LOAN, environment.now), fast_paths=False)
    service.close()
    details = [gate.detail for gate in decision.gates if gate.gate == "approval"]
    return decision.reason.value, "".join(details)


@pytest.mark.parametrize("backup_at", ["before the approval", "approved", "issued", "begun"])
@pytest.mark.parametrize("later_h", [1, *slow(0, 3, 20)])
@pytest.mark.parametrize("lose", [delete_journals, keep_journals], ids=["lost", "kept"])
def test_restored_database_erases_no_mac_again(
    backup_at: str, later_h: float, lose: Callable[[Path], None], tmp_path: Path
) -> None:
    environment = a_loan_unit()
    data, copy = tmp_path / "data", tmp_path / "copy"
    run_until(data, environment, 3)
    if backup_at == "before the approval":
        backup(data, copy)
    approve(data, environment)
    if backup_at == "approved":
        backup(data, copy)
    service = open_service(data, environment)
    service.reconciler.queue.start_sweep(environment.now)
    service._writer.advance(environment.now)
    service.close()
    if backup_at == "issued":
        backup(data, copy)
    run_until(data, environment, 5)
    if backup_at == "begun":
        backup(data, copy)
    run_until(data, environment, 5 + later_h)
    assert len(environment.fleet.acted) == 1
    put_back(copy, data)
    lose(data)
    run_until(data, environment, 5 + later_h + 100)
    assert len(environment.fleet.acted) == 1, "the Mac was erased twice"


@pytest.mark.parametrize("lose", [delete_journals, keep_journals], ids=["lost", "kept"])
def test_approval_from_before_the_first_job_of_a_site_is_withdrawn_with_a_restored_database(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """A halt holds the approved erase, so the copy has neither its job nor its site's journal."""
    environment = a_loan_unit()
    data, copy = tmp_path / "data", tmp_path / "copy"
    run_until(data, environment, 3)
    service = open_service(data, environment)
    decision = decide(service.reconciler.situation(LOAN, environment.now), fast_paths=False)
    service.close()
    approval = approval_granted(decision, "someone", environment.now, 20 * DAY, APPROVALS_KEY)
    environment.unsent += [halted(environment.now), approval]
    run_until(data, environment, 4)
    backup(data, copy)
    environment.unsent.append(halt_cleared(environment.now))
    run_until(data, environment, 7)
    assert len(environment.fleet.acted) == 1
    environment.fleet.macs[LOAN]._marks.clear()  # as an MDM server deletes old commands
    put_back(copy, data)
    lose(data)
    open_service(data, environment).close()
    environment.unsent.append(halt_cleared(environment.now))
    run_until(data, environment, 100)
    assert len(environment.fleet.acted) == 1, "the Mac was erased twice"


def test_doubtful_erase_is_refused_and_given_after_a_new_approval(tmp_path: Path) -> None:
    """The Mac is away when its erase is ordered, and restarts; its journal is lost meanwhile."""
    environment = a_loan_unit(offline=(Period(at(3.5), at(6.5)),))
    run_until(tmp_path, environment, 3)
    approve(tmp_path, environment)
    run_until(tmp_path, environment, 5)
    delete_journals(tmp_path)
    environment.fleet.macs[LOAN].boot_at = at(6)
    service = run_until(tmp_path, environment, 9)
    assert [doubt.cause for doubt in service.doubts] == ["lost"]
    assert environment.fleet.acted == []
    reason, detail = reason_of(tmp_path, environment)
    assert reason == "awaiting_approval"
    assert "ended as history_unknown" in detail
    approve(tmp_path, environment)
    run_until(tmp_path, environment, 40)
    assert len(environment.fleet.acted) == 1
    with Log.open(tmp_path) as log:
        rows = [row for row in log.entries(kind="event") if row.type == "drydock.job.resulted.v1"]
    results = [decode(row.body).data for row in rows]
    assert isinstance(results[-1], JobResult)
    codes = [each.error_code for each in results if isinstance(each, JobResult)]
    assert codes.count(ErrorCode.HISTORY_UNKNOWN) == 1
    assert results[-1].outcome == "succeeded"
