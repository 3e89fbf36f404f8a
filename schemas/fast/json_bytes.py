"""Decision records and jobs as JSON, with the bytes that pydantic writes, in a third of the time.

msgspec writes a model as its `__dict__`. A value with its own pydantic serializer (a version, a
build) must be converted to text before, here and inside models.
"""

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:  # the plain functions in these modules call this one
    from schemas.decisions import DecisionRecord
    from schemas.envelope import JobIssuedEvent
    from schemas.jobs import Job

# msgspec calls this hook for each model inside another. `attrgetter` runs in C, which matters: one
# decision record holds about fifteen models.
_MODEL_VALUES: Final = attrgetter("__dict__")


def record_json(record: "DecisionRecord") -> bytes:
    """Return the bytes of `record.model_dump_json()`.

    `device` and `job_history` are JSON values already and are not inspected; pydantic spends most
    of its time there.
    """
    decision, inputs = record.decision.__dict__, record.inputs.__dict__
    target = record.decision.target
    if target is not None:
        decision = decision | {"target": target.to_wire()}
    return _json({"decision": decision, "inputs": inputs})


def job_json(job: "Job") -> bytes:
    """Return the bytes of `job.model_dump_json(exclude_none=True)`."""
    return _json(_job_fields(job))


def issued_json(event: "JobIssuedEvent") -> bytes:
    """Return the bytes of `event.model_dump_json(exclude_none=True)`.

    `JobIssued` is the event that is written most, in bursts.
    """
    fields = {name: value for name, value in event.__dict__.items() if value is not None}
    fields["data"] = {"job": _job_fields(event.data.job), "signed": event.data.signed}
    return _json(fields)


def _json(values: dict[str, Any]) -> bytes:
    """Return the JSON that pydantic writes for a model with these values, which may be models."""
    return msgspec.json.encode(values, enc_hook=_MODEL_VALUES)


def _job_fields(job: "Job") -> dict[str, Any]:
    """Return the job's fields that are not None, with the target as texts."""
    fields = {name: value for name, value in job.__dict__.items() if value is not None}
    if job.target is not None:
        wire = job.target.to_wire()
        fields["target"] = {name: text for name, text in wire.items() if text is not None}
    return fields
