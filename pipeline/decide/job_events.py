"""The events by which our own rules end a job: it was settled, or it was withdrawn."""

from datetime import datetime

from pipeline.state.jobs import JobEntry
from schemas.envelope import JobResultedEvent, JobSupersededEvent
from schemas.ids import event_id
from schemas.jobs import JobSuperseded
from schemas.results import JobResult


def result_event(result: JobResult, source: str, now: datetime) -> JobResultedEvent:
    """What was read off the Mac's reports, or its silence."""
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
    """The job is withdrawn, `by` a newer one or the reason for which nothing is wanted."""
    return JobSupersededEvent(
        id=event_id("superseded", entry.job_id),
        source=source,
        subject=udid,
        time=now,
        data=JobSuperseded(job_id=entry.job_id, udid=udid, site=entry.site, by=by),
    )
