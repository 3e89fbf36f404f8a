"""Requests of operators that describe a Mac: owner, retirement, return of a loan unit."""

from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from pipeline.embedded import control_events
from pipeline.embedded.operator_requests import InvalidRequestError, Person, read_body
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import AcceptedInput, WriteRequest
from pipeline.embedded.settlement_requests import key_of
from schemas.events.inventory import Ownership

PATH: Final = "/v1/descriptions"


class DescriptionRequest(BaseModel):
    """The body of a description: at least one statement about the Mac with this UDID or serial.

    `loan_returned`: the loan unit was returned now. `by` is the person's name.
    """

    model_config = ConfigDict(extra="forbid")

    device: str
    ownership: Ownership | None = None
    never_erase: bool | None = None
    retired: bool | None = None
    loan_returned: bool = False
    by: Person


def describe(raw: bytes) -> WriteRequest:
    """Return the request that records statements about a Mac; `raw` is a DescriptionRequest.

    Its response has the UDID as `described`. Raises InvalidRequestError: an invalid body, or one
    without a statement (400); when prepared, no Mac has the name (404), or several have it (409).
    """
    wanted = read_body(DescriptionRequest, raw)
    stated = wanted.model_dump(include={"ownership", "never_erase", "retired"}, exclude_none=True)
    if not stated and not wanted.loan_returned:
        raise InvalidRequestError("state something: ownership, never erase, retired, loan returned")

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        udid = key_of(service.reconciler.fleet, wanted.device)
        if udid not in service.reconciler.fleet.devices:
            raise InvalidRequestError(f"no source has reported the UDID of {wanted.device}", 404)
        returned = {"loan_returned_at": now} if wanted.loan_returned else {}
        event = control_events.described(udid, stated | returned, wanted.by, now)
        return AcceptedInput(events=(event,), response={"described": udid})

    return prepare
