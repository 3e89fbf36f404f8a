"""Events by which the core itself opens or ends a job: issue, inferred result, withdrawal."""

from datetime import datetime

from pipeline.state.jobs import JobEntry
from schemas.envelope import JobIssuedEvent, JobResultedEvent, JobSupersededEvent
from schemas.ids import event_id
from schemas.jobs import JobIssued, JobSuperseded
from schemas.results import JobResult


def issued_event(issued: JobIssued, source: str, now: datetime) -> JobIssuedEvent:
    """Return the event that issues a signed job."""
    job = issued.job
    return JobIssuedEvent(
        id=event_id("issued", job.job_id), source=source, subject=job.udid, time=now, data=issued
    )


def result_event(result: JobResult, source: str, now: datetime) -> JobResultedEvent:
    """Return the event of a result inferred from the Mac's reports, or from their absence."""
    return JobResultedEvent(
        id=event_id("settled", result.job_id, result.outcome.value),
        source=source,
        subject=result.udid,
        time=now,
        data=result,
    )


def superseded_event(
    entry: JobEntry, udid: str, by: str, source: str, now: datetime
) -> JobSupersededEvent:
    """Return the event that withdraws a job.

    `by` is the id of the job that replaces it or is kept in its place, or the reason of the
    decision that needs no job.
    """
    return JobSupersededEvent(
        id=event_id("superseded", entry.job_id),
        source=source,
        subject=udid,
        time=now,
        data=JobSuperseded(job_id=entry.job_id, udid=udid, site=entry.site, by=by),
    )
