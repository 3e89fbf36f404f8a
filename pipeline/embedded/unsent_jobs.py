"""Jobs that are durable in the log, and that an executor may not have."""

import json
from datetime import datetime

from pipeline.embedded.store import Store
from pipeline.reconcile.changes import SOURCE
from pipeline.state.jobs import JobEntry
from schemas.dead_letters import DeadLetter, DeadLetterCode, Problem, make_dead_letter
from schemas.envelope import InvalidEvent, JobIssuedEvent, decode
from schemas.ids import event_id
from schemas.jobs import JobIssued
from schemas.results import Outcome


def load_issued_job(
    store: Store, entry: JobEntry, udid: str, now: datetime
) -> JobIssued | DeadLetter:
    """Return the signed job from the log; a dead letter if the log does not have it.

    Such a job is never sent. It ends when it expires, and its Mac is decided again.
    """
    body = store.event_body(SOURCE, event_id("issued", entry.job_id))
    try:
        event = None if body is None else decode(body)
    except InvalidEvent:
        event = None
    if isinstance(event, JobIssuedEvent):
        return event.data
    detail = f"open job {entry.job_id} of {udid} is not in the log: it is not sent"
    return make_dead_letter(
        Problem(DeadLetterCode.UNREADABLE, detail, entry.job_id),
        body or b"",
        source=SOURCE,
        origin="drydock.sqlite/log",
        received_at=now,
        redacted=body or b"",
    )


def is_withdrawn(store: Store, entry: JobEntry, udid: str) -> bool:
    """Return True if the job is withdrawn: its end says so, or the last decision of its Mac.

    A begun job stays open until its executor answers, and its withdrawal is sent only once.
    """
    if entry.outcome is Outcome.SUPERSEDED:
        return True
    body = store.last_decision(udid) if entry.is_open and entry.may_have_touched else None
    try:
        return body is not None and json.loads(body)["decision"]["supersedes"] == entry.job_id
    except (ValueError, LookupError, TypeError):
        return False  # a damaged row
