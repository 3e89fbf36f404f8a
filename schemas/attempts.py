"""Records of an executor's journal, which its successor reads from the attempts topic."""

from typing import Annotated, Final

from pydantic import AwareDatetime, Field, JsonValue

from schemas.ids import TextField, UdidField
from schemas.model import WireModel
from schemas.results import JobResult

# Keys of a record that was written before release 0.1.0; its other fields would be lost silently.
PRE_RELEASE_KEYS: Final = frozenset({"told", "ordered_at"})


class RecordedResult(WireModel):
    """A result with its time; `published` is True if its publication was confirmed."""

    at: AwareDatetime
    published: bool
    result: JobResult


class AttemptRecord(WireModel):
    """The last state of a job in an executor's journal. The newest record of a job id wins.

    `issued_at` and `entry` are None for a job that was never accepted (refused, or withdrawn
    earlier). `entry` is the executor's state of the attempt, for executors only. `live` is True
    from acceptance until the attempt ends. `results` holds every result without a confirmed
    publication, and the newest result. `by` names the executor, for people.
    """

    job_id: Annotated[TextField, Field(min_length=1)]
    udid: UdidField
    issued_at: AwareDatetime | None = None
    expires_at: AwareDatetime
    live: bool
    entry: dict[str, JsonValue] | None = None
    results: tuple[RecordedResult, ...] = ()
    by: TextField = ""
