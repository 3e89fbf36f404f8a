"""What an executor's successor must know of a job: one record of its journal."""

from typing import Annotated

from pydantic import AwareDatetime, Field, JsonValue

from schemas.ids import TextField, UdidField
from schemas.model import WireModel
from schemas.results import JobResult


class RecordedResult(WireModel):
    """A result, and whether the pipeline is known to have it."""

    at: AwareDatetime
    published: bool
    result: JobResult


class AttemptRecord(WireModel):
    """A job as its executor left it. The newest record of a job id is the truth.

    `issued_at` is None for an order that was never proven. `entry` is the executor's own state
    of the attempt, for executors only; None where the job was never accepted. `told` are the
    results that may be unpublished, and the newest. `by` names the executor, for people.
    """

    job_id: Annotated[TextField, Field(min_length=1)]
    udid: UdidField
    issued_at: AwareDatetime | None = None
    expires_at: AwareDatetime
    live: bool
    entry: dict[str, JsonValue] | None = None
    results: tuple[RecordedResult, ...] = ()
    by: TextField = ""
