"""Verification of jobs, at the limits of their expiry and approval."""

from datetime import timedelta
from typing import Any

import pytest

from agents.verification import Proven, Refusal, examine
from schemas.jobs import Action, Job, Method
from schemas.results import ErrorCode, Outcome
from tests.factories.sites import (
    APPROVALS_KEY,
    KEYS,
    SITE,
    START,
    STRANGER_KEY,
    a_job,
    an_erasing_job,
    hours,
    signed_job,
)

MOMENT = timedelta(microseconds=1)
EXPIRED = (Outcome.EXPIRED, ErrorCode.EXPIRED)
NO_APPROVAL = (Outcome.REFUSED, ErrorCode.NO_APPROVAL)
BAD_SIGNATURE = (Outcome.REFUSED, ErrorCode.BAD_SIGNATURE)


def refused(order: Any, at: Any = START) -> tuple[Outcome, ErrorCode]:
    found = examine(order, SITE, KEYS, at)
    assert isinstance(found, Refusal)
    assert found.detail
    return found.outcome, found.error_code


def test_job_is_valid_until_it_expires() -> None:
    job = a_job()
    assert examine(signed_job(job), SITE, KEYS, job.expires_at - MOMENT) == Proven(job, None)
    assert refused(signed_job(job), job.expires_at) == EXPIRED


def test_job_with_another_key_or_changed_bytes_is_refused() -> None:
    assert refused(signed_job(a_job(), STRANGER_KEY)) == BAD_SIGNATURE
    assert refused(signed_job(a_job(), APPROVALS_KEY)) == BAD_SIGNATURE
    changed = signed_job(a_job()).model_copy(update={"job": a_job(generation=1)})
    assert refused(changed) == BAD_SIGNATURE


def test_job_for_another_site_is_refused() -> None:
    assert refused(signed_job(a_job(site="tokyo"))) == (Outcome.REFUSED, ErrorCode.WRONG_SITE)


def test_approved_job_is_valid_until_its_approval_expires() -> None:
    job = an_erasing_job()
    until = START + hours(48)
    assert examine(signed_job(job), SITE, KEYS, until - MOMENT) == Proven(job, until)
    assert refused(signed_job(job), until) == NO_APPROVAL


def without_approval() -> Job:
    return an_erasing_job().model_copy(update={"approval": None})


UNAPPROVED = [
    pytest.param(without_approval(), id="none"),
    pytest.param(an_erasing_job(key=STRANGER_KEY), id="of-another-key"),
    pytest.param(an_erasing_job(approve={"udid": "MAC-2"}), id="for-another-mac"),
    pytest.param(an_erasing_job(approve={"job_id": "job-2"}), id="for-another-job"),
    pytest.param(an_erasing_job(approve={"action": "reimage"}), id="for-another-action"),
]


@pytest.mark.parametrize("job", UNAPPROVED)
def test_erasing_job_without_its_own_approval_is_refused(job: Job) -> None:
    assert refused(signed_job(job)) == NO_APPROVAL


@pytest.mark.parametrize("method", [Method.ERASE_DEVICE, Method.ASR])
def test_erasing_method_needs_an_approval_even_if_the_job_does_not_declare_it(
    method: Method,
) -> None:
    assert refused(signed_job(a_job(Action.REINSTALL, method))) == NO_APPROVAL
