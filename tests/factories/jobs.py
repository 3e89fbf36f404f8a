"""Jobs, their results and the entries of a job history."""

from datetime import datetime, timedelta
from typing import Any

from pipeline.state.device import to_us
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.envelope import JobIssuedEvent, JobResultedEvent, JobSupersededEvent
from schemas.ids import derive_job_id
from schemas.jobs import Action, Job, JobIssued, JobSuperseded, Method, Target
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode, JobResult, Outcome
from tests.factories.control import SIGNED
from tests.factories.devices import RELEASES, UDID, build_of
from tests.factories.events import make_event
from tests.factories.times import DAY, HOUR, NOW


def entry(
    intent: str = "26.2",
    *,
    action: Action = Action.UPDATE,
    method: Method = Method.DDM,
    generation: int = 0,
    issued_at: datetime = NOW - 2 * HOUR,
    outcome: Outcome | None = None,
    outcome_at: datetime | None = None,
    error_code: ErrorCode | None = None,
    acted_at: datetime | None = None,
    udid: str = UDID,
    site: str = "london",
    version: str | None = "26.2",
    erases: bool = False,
    presumed: bool = False,
) -> JobEntry:
    """Return a job in a job history; by default it is open without an attempt."""
    return JobEntry(
        job_id=derive_job_id(udid, action, intent, generation),
        action=action,
        method=method,
        intent=intent,
        version=None if version is None else parse_os_version(version),
        build=parse_build(RELEASES[version][0]) if version in RELEASES else None,
        generation=generation,
        issued_us=to_us(issued_at),
        expires_us=to_us(issued_at + 10 * HOUR),
        report_by_us=to_us(issued_at + 3 * DAY),
        site=site,
        erases=erases,
        outcome=outcome,
        outcome_us=0 if outcome is None else to_us(outcome_at or issued_at + HOUR),
        acted_us=0 if acted_at is None else to_us(acted_at),
        error_code=error_code,
        presumed=presumed,
    )


def failed(
    count: int,
    code: ErrorCode = ErrorCode.INSTALL_FAILED,
    *,
    first_at: datetime = NOW - 20 * DAY,
    **values: Any,
) -> JobHistory:
    """Return a job history of `count` failed jobs, a day apart."""
    return tuple(
        entry(
            generation=number,
            issued_at=first_at + number * DAY,
            outcome=Outcome.FAILED,
            error_code=code,
            **values,
        )
        for number in range(count)
    )


def job(
    intent: str = "26.2",
    *,
    action: Action = Action.UPDATE,
    method: Method = Method.DDM,
    udid: str = UDID,
    generation: int = 0,
    issued_at: datetime = NOW - 2 * HOUR,
    lasts: timedelta = 10 * HOUR,
    version: str | None = "26.2",
    **values: Any,
) -> Job:
    """Return a job."""
    target = None
    if version is not None:
        built = build_of(version)
        target = Target(
            version=parse_os_version(version), build=None if built is None else parse_build(built)
        )
    return Job(
        job_id=derive_job_id(udid, action, intent, generation),
        udid=udid,
        site=values.pop("site", "london"),
        action=action,
        method=method,
        intent=intent,
        target=target,
        generation=generation,
        reason="security_update",
        issued_at=issued_at,
        expires_at=issued_at + lasts,
        report_by=issued_at + 3 * DAY,
        **values,
    )


def issued(order: Job) -> JobIssuedEvent:
    """Return the event that a job was issued; its signature is not valid."""
    event: JobIssuedEvent = make_event(
        JobIssuedEvent, order.udid, order.issued_at, JobIssued(job=order, signed=SIGNED)
    )
    return event


def result(
    order: Job, outcome: Outcome, code: ErrorCode | None = None, *, attempt: int = 1
) -> JobResult:
    """Return a result of a job."""
    return JobResult(
        job_id=order.job_id,
        udid=order.udid,
        site=order.site,
        outcome=outcome,
        error_code=code,
        attempt=attempt,
    )


def resulted(
    order: Job, outcome: Outcome, when: datetime, code: ErrorCode | None = None, attempt: int = 1
) -> JobResultedEvent:
    """Return the event of a job's result."""
    event: JobResultedEvent = make_event(
        JobResultedEvent, order.udid, when, result(order, outcome, code, attempt=attempt)
    )
    return event


def superseded(order: Job, when: datetime = NOW) -> JobSupersededEvent:
    """Return the event that a job was superseded."""
    data = JobSuperseded(job_id=order.job_id, udid=order.udid, site=order.site)
    event: JobSupersededEvent = make_event(JobSupersededEvent, order.udid, when, data)
    return event
