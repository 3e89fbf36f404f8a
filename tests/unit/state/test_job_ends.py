"""The end of a job that follows from reports and time."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.state.device import to_us
from pipeline.state.device_folds import apply_authenticated, apply_token_updated
from pipeline.state.job_ends import infer_result
from pipeline.state.jobs import (
    EXPECTED_DURATION,
    INFERRED_ATTEMPT,
    JobEntry,
    add_job,
    add_result,
)
from schemas.events.checkin import MdmAuthenticated, MdmTokenUpdated
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import DAY, HOUR, NOW, UDID, entry, job, mac, result, with_report

LATER = NOW + HOUR
MINUTE = timedelta(minutes=1)
WITHHELD = add_result(add_job((), job()), result(job(), Outcome.WITHHELD), to_us(NOW + MINUTE))[0]


@pytest.mark.parametrize("method", Method)
def test_withheld_job_is_rehearsed_once_its_expected_duration_is_over(method: Method) -> None:
    withheld = replace(WITHHELD, method=method)
    ends_at = NOW + MINUTE + EXPECTED_DURATION[method]
    assert infer_result(withheld, mac(), UDID, ends_at - timedelta(microseconds=1)) is None
    ended = infer_result(withheld, mac(), UDID, ends_at)
    assert ended is not None
    assert (ended.outcome, ended.error_code) == (Outcome.REHEARSED, None)


def test_update_that_others_installed_is_no_success_of_a_withheld_job() -> None:
    updated = with_report(mac(), LATER, os_version="26.2", build="25C56")
    ended = infer_result(WITHHELD, updated, UDID, LATER)
    assert ended is not None
    assert ended.outcome is Outcome.REHEARSED


BEGUN = entry(outcome=Outcome.STARTED)


ACTED = entry(outcome=Outcome.ACTED, acted_at=NOW - HOUR)


REINSTALL: dict[str, Any] = {
    "action": Action.REINSTALL,
    "method": Method.STARTOSINSTALL,
    "intent": "seal:26.2",
}


OLD = mac("26.1", seen_at=NOW - 5 * HOUR)


INFERRED: list[Any] = [
    pytest.param(entry(), mac("26.1"), NOW, None, None, id="nothing-yet"),
    pytest.param(BEGUN, mac("26.2"), NOW, Outcome.SUCCEEDED, None, id="reports-the-target"),
    pytest.param(BEGUN, mac("26.3"), NOW, Outcome.SUCCEEDED, None, id="reports-a-later-version"),
    pytest.param(
        BEGUN,
        mac("26.2", seen_at=NOW - 2 * HOUR),
        NOW,
        None,
        None,
        id="a-report-from-before-the-job-proves-nothing",
    ),
    pytest.param(
        BEGUN, mac("26.2", build="25C5048a"), NOW, None, None, id="a-beta-is-not-the-target"
    ),
    pytest.param(entry(), mac("26.2"), NOW, Outcome.SUCCEEDED, None, id="updated-by-its-user"),
    pytest.param(
        entry(), OLD, NOW + 8 * HOUR, Outcome.EXPIRED, ErrorCode.EXPIRED, id="never-begun"
    ),
    pytest.param(BEGUN, OLD, NOW + 8 * HOUR, None, None, id="begun-jobs-may-take-longer"),
    pytest.param(
        BEGUN, OLD, NOW + 3 * DAY, Outcome.FAILED, ErrorCode.NOTHING_HAPPENED, id="never-acted"
    ),
    pytest.param(ACTED, OLD, NOW + 3 * DAY, Outcome.FAILED, ErrorCode.NO_REPORT, id="no-report"),
    pytest.param(
        entry(outcome=Outcome.FAILED), mac("26.2"), NOW + 9 * DAY, None, None, id="ended-before"
    ),
]


@pytest.mark.parametrize(("one", "device", "now", "outcome", "code"), INFERRED)
def test_result_of_an_update_is_inferred_from_reports_and_time(
    one: JobEntry, device: Any, now: datetime, outcome: Outcome | None, code: ErrorCode | None
) -> None:
    inferred = infer_result(one, device, UDID, now)
    assert (None if inferred is None else inferred.outcome) is outcome
    if inferred is not None:
        assert inferred.error_code is code
        assert inferred.attempt == INFERRED_ATTEMPT


REINSTALLS = [
    pytest.param({"acted_at": NOW - HOUR}, {"boot_at": NOW - HOUR / 2}, True, id="booted-since"),
    pytest.param({"acted_at": NOW - HOUR}, {}, False, id="no-boot-known"),
    pytest.param({"acted_at": NOW - HOUR}, {"boot_at": NOW - DAY}, False, id="booted-before"),
    pytest.param({}, {"boot_at": NOW - HOUR / 2}, False, id="the-executor-has-not-acted"),
    pytest.param({"acted_at": NOW}, {"boot_at": NOW - HOUR / 2}, False, id="report-before-the-act"),
]


@pytest.mark.parametrize(("facts", "reported", "done"), REINSTALLS)
def test_reinstall_of_the_same_version_is_proven_by_a_boot_and_a_report(
    facts: dict[str, Any], reported: dict[str, Any], done: bool
) -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, **facts)
    device = mac("26.2", seen_at=NOW - HOUR / 4, **reported)
    assert (infer_result(one, device, UDID, NOW) is not None) is done


def test_erasing_job_succeeds_once_the_mac_begins_to_enroll() -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, acted_at=NOW - HOUR, erases=True)
    device = mac("26.2", seen_at=NOW - HOUR / 4)
    assert infer_result(one, device, UDID, NOW) is None
    fresh = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - HOUR / 2))
    inferred = infer_result(one, fresh, UDID, NOW)
    assert inferred is not None
    assert inferred.outcome is Outcome.SUCCEEDED


def test_reenrollment_succeeds_once_the_token_update_follows() -> None:
    one = entry("checked_out@1", action=Action.REENROLL, version=None, outcome=Outcome.ACTED)
    device = with_report(mac(), NOW - HOUR / 2, "mdm")
    assert infer_result(one, device, UDID, NOW) is None
    half = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - HOUR / 2))
    assert infer_result(one, half, UDID, NOW) is None
    whole = apply_token_updated(half, MdmTokenUpdated(udid=UDID, tally=1), to_us(NOW - HOUR / 2))
    inferred = infer_result(one, whole, UDID, NOW)
    assert inferred is not None
    assert inferred.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("boot_at", "done"),
    [
        pytest.param(None, False, id="no-boot-reported"),
        pytest.param(NOW - 3 * HOUR, False, id="boot-before-the-job"),
        pytest.param(NOW - HOUR, True, id="boot-after-the-job"),
    ],
)
def test_restart_succeeds_once_a_later_boot_is_reported(boot_at: Any, done: bool) -> None:
    one = entry(
        "failing:26.2",
        action=Action.RESTART,
        method=Method.RESTART_DEVICE,
        version=None,
        outcome=Outcome.ACTED,
    )
    inferred = infer_result(one, mac(boot_at=boot_at), UDID, NOW)
    assert (inferred is not None) is done
    assert inferred is None or inferred.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("action", "method"),
    [
        (Action.RESTART, Method.RESTART_UPDATE_SERVICE),
        (Action.ACTIVATE, Method.ACTIVATION_COMMAND),
    ],
    ids=["restart of the service", "activation"],
)
@pytest.mark.parametrize(
    ("outcome", "seen_at", "done"),
    [
        pytest.param(Outcome.STARTED, NOW, False, id="not-done-yet"),
        pytest.param(Outcome.ACTED, NOW - 2 * HOUR, False, id="not-seen-since"),
        pytest.param(Outcome.ACTED, NOW, True, id="seen-since"),
    ],
)
def test_command_that_no_source_reports_succeeds_at_the_next_contact(
    outcome: Outcome, seen_at: Any, done: bool, action: Action, method: Method
) -> None:
    one = entry(
        "failing:26.2",
        action=action,
        method=method,
        version=None,
        outcome=outcome,
        issued_at=NOW - 3 * HOUR,
        outcome_at=NOW - HOUR,
        acted_at=NOW - HOUR if outcome is Outcome.ACTED else None,
    )
    inferred = infer_result(one, mac(seen_at=seen_at), UDID, NOW)
    assert (inferred is not None) is done


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"method": Method.DDM, "outcome": Outcome.STARTED}, True),
        ({"method": Method.MDM_COMMAND, "outcome": Outcome.ACTED}, True),
        ({"method": Method.DDM, "outcome": Outcome.ACCEPTED}, False),
        ({"method": Method.SOFTWAREUPDATE, "outcome": Outcome.ACTED}, False),
        ({"method": Method.ERASE_DEVICE, "outcome": Outcome.STARTED, "erases": True}, False),
    ],
)
def test_a_begun_job_of_mdm_ends_with_its_enrollment(fields: dict[str, Any], ends: bool) -> None:
    one = entry("26.9", version="26.9", issued_at=NOW - HOUR, **fields)
    device = with_report(mac(), NOW - HOUR / 2, "mdm")
    again = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - HOUR / 2))
    assert infer_result(one, device, UDID, NOW) is None
    inferred = infer_result(one, again, UDID, NOW)
    assert (inferred is not None) is ends
    if inferred is not None:
        assert inferred.error_code is ErrorCode.ENROLLMENT_ENDED
        ended = add_result((one,), inferred, to_us(NOW))[0]
        assert ended.failed
        assert not ended.touched, "it is no attempt at the update"


def minutes(number: int) -> int:
    return to_us(NOW + timedelta(minutes=number))


ISSUED_AT = NOW - 2 * HOUR  # the time at which `entry` is issued


def test_only_a_report_after_the_job_proves_an_update() -> None:
    at_once = mac("26.2", seen_at=ISSUED_AT)
    just_after = mac("26.2", seen_at=ISSUED_AT + timedelta(microseconds=1))
    assert infer_result(BEGUN, at_once, UDID, NOW) is None
    assert infer_result(BEGUN, just_after, UDID, NOW) is not None


def test_report_known_before_the_job_proves_nothing() -> None:
    known = replace(BEGUN, known_until_us=to_us(NOW - HOUR))
    assert infer_result(known, mac("26.2", seen_at=NOW - HOUR), UDID, NOW) is None
    assert infer_result(known, mac("26.2", seen_at=NOW - HOUR / 2), UDID, NOW) is not None


def test_open_job_ends_exactly_at_its_timeout() -> None:
    moment = timedelta(microseconds=1)
    expires_at, report_by = ISSUED_AT + 10 * HOUR, ISSUED_AT + 3 * DAY
    for one, end in ((entry(), expires_at), (BEGUN, report_by)):
        assert infer_result(one, OLD, UDID, end - moment) is None
        assert infer_result(one, OLD, UDID, end) is not None


def test_reinstall_needs_a_boot_after_the_job_and_a_report_after_the_act() -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, acted_at=NOW - HOUR)

    def is_proven(seen_at: datetime, boot_at: datetime) -> bool:
        return (
            infer_result(one, mac("26.2", seen_at=seen_at, boot_at=boot_at), UDID, NOW) is not None
        )

    assert is_proven(NOW - HOUR / 2, NOW - HOUR)
    assert not is_proven(NOW - HOUR, NOW - HOUR)
    assert not is_proven(NOW - HOUR / 2, ISSUED_AT)


def test_enrollment_at_the_time_of_the_job_does_not_prove_an_erase() -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, acted_at=NOW - HOUR, erases=True)
    device = mac("26.2", seen_at=NOW - HOUR / 4)
    before = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(ISSUED_AT))
    assert infer_result(one, before, UDID, NOW) is None


def test_no_report_proves_a_job_without_a_target() -> None:
    one = entry(version=None, outcome=Outcome.STARTED)
    assert infer_result(one, mac("26.2"), UDID, NOW) is None


def test_inferred_result_has_the_values_that_the_mac_reported() -> None:
    end = infer_result(BEGUN, mac("26.2", boot_at=NOW - HOUR), UDID, NOW)
    assert end is not None
    assert (end.job_id, end.udid, end.site) == (BEGUN.job_id, UDID, "london")
    assert (str(end.observed_version), str(end.observed_build)) == ("26.2", "25C56")
    assert end.observed_boot_at == NOW - HOUR
