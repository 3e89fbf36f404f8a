"""Verification of jobs, at the limits of their expiry and approval."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agents.verification import (
    MAX_AHEAD,
    NotYetValidError,
    Proven,
    Refusal,
    examine,
    revocation,
)
from schemas.jobs import MAX_JOB_LIFETIME, Action, Job, Method
from schemas.results import ErrorCode, Outcome
from schemas.signing import key_id
from tests.factories.sites import (
    APPROVALS_KEY,
    JOBS_KEY,
    KEYS,
    SITE,
    START,
    STRANGER_KEY,
    a_job,
    an_erasing_job,
    hours,
    signed_job,
)

BY = key_id(JOBS_KEY.public_key())
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
    assert examine(signed_job(job), SITE, KEYS, job.expires_at - MOMENT) == Proven(job, BY)
    assert refused(signed_job(job), job.expires_at) == EXPIRED


def test_job_with_another_key_or_changed_bytes_is_refused() -> None:
    assert refused(signed_job(a_job(), STRANGER_KEY)) == BAD_SIGNATURE
    assert refused(signed_job(a_job(), APPROVALS_KEY)) == BAD_SIGNATURE
    changed = signed_job(a_job()).model_copy(update={"job": a_job(generation=1)})
    assert refused(changed) == BAD_SIGNATURE


def test_job_for_another_site_is_refused() -> None:
    assert refused(signed_job(a_job(site="tokyo"))) == (Outcome.REFUSED, ErrorCode.WRONG_SITE)


def test_job_that_lasts_longer_than_a_month_is_refused() -> None:
    longest = a_job(expires_at=START + MAX_JOB_LIFETIME)
    assert isinstance(examine(signed_job(longest), SITE, KEYS, START), Proven)
    too_long = a_job(expires_at=START + MAX_JOB_LIFETIME + MOMENT)
    assert refused(signed_job(too_long)) == (Outcome.REFUSED, ErrorCode.LIFETIME_TOO_LONG)


def test_job_of_more_than_a_day_ahead_is_neither_run_nor_refused() -> None:
    now = START - MAX_AHEAD
    assert isinstance(examine(signed_job(a_job()), SITE, KEYS, now), Proven)
    with pytest.raises(NotYetValidError):
        examine(signed_job(a_job()), SITE, KEYS, now - MOMENT)


def test_only_a_job_that_is_signed_for_the_site_is_proven() -> None:
    for order, proven in (
        (signed_job(a_job(), STRANGER_KEY), False),
        (signed_job(a_job(site="tokyo")), False),
        (signed_job(an_erasing_job().model_copy(update={"approval": None})), True),
    ):
        found = examine(order, SITE, KEYS, START)
        assert isinstance(found, Refusal)
        assert found.is_proven is proven


def test_accepted_job_is_revoked_with_its_key_or_that_of_its_approver() -> None:
    job = an_erasing_job()
    assert revocation(job, BY, KEYS) is None
    assert revocation(job, "", KEYS) is None  # of a journal without the key's id
    no_signer = revocation(job, BY, replace(KEYS, jobs={}))
    no_approver = revocation(job, BY, replace(KEYS, approvals={}))
    assert no_signer is not None
    assert no_approver is not None
    assert no_signer.error_code == ErrorCode.BAD_SIGNATURE
    assert no_approver.error_code == ErrorCode.NO_APPROVAL


def test_approved_job_is_valid_until_its_approval_expires() -> None:
    job = an_erasing_job()
    until = START + hours(48)
    assert examine(signed_job(job), SITE, KEYS, until - MOMENT) == Proven(job, BY, until)
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
