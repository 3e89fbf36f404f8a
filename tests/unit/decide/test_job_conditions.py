"""Notice and copies of a job, which the policy sets."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from schemas.decisions import Verdict
from schemas.jobs import Action, Backup, Job, Method, RequiredBackup
from tests.factories import NOW, approval, mac, policy, situation

BY_SSH = {"update": ["softwareupdate"], "reinstall": ["startosinstall"]}


def job_of(rules: dict[str, Any], **facts: Any) -> Job:
    s = situation(mac(**facts), rules=policy(methods=BY_SSH, **rules))
    decision = decide(s)
    assert decision.decision is Verdict.SEND, decision
    return build_job(s, decision)


def test_notice_of_the_policy_is_in_a_job_over_ssh() -> None:
    job = job_of({"deadlines": {"notice_minutes": 45}})
    assert (job.method, job.notice_minutes) == (Method.SOFTWAREUPDATE, 45)
    assert job_of({}).notice_minutes is None


def test_notice_is_not_in_a_job_over_mdm() -> None:
    s = situation(rules=policy(deadlines={"notice_minutes": 45}))
    assert build_job(s, decide(s)).notice_minutes is None


@pytest.mark.parametrize("kind", list(Backup))
def test_reinstall_needs_the_copy_of_the_policy(kind: Backup) -> None:
    job = job_of({"backups": {"reinstall": kind, "max_age": "6h"}}, system_volume_sealed=False)
    assert job.action is Action.REINSTALL
    assert job.backup == RequiredBackup(kind=kind, max_age_minutes=360)


def test_update_needs_no_copy() -> None:
    wanted = {"reinstall": "snapshot", "erase": "time_machine"}
    assert job_of({"backups": wanted}).backup is None


def test_loan_unit_that_is_erased_needs_the_copy_for_an_erase() -> None:
    rules = policy(backups={"reinstall": "snapshot", "erase": "time_machine"})
    loan = mac(loan_returned_at=NOW - timedelta(hours=1))
    held = decide(situation(loan, rules=rules))
    assert held.erases
    assert held.job_id is not None
    granted = approval(held.job_id, udid=loan.udid)
    s = situation(loan, rules=rules, approvals=(granted,))
    job = build_job(s, decide(s))
    assert job.backup == RequiredBackup(kind=Backup.TIME_MACHINE, max_age_minutes=24 * 60)
