"""Requests of operators that settle the identity of Macs, with JSON bodies and responses."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from pipeline.embedded import control_events
from pipeline.embedded.mac_names import hint_for_writing
from pipeline.embedded.operator_requests import InvalidRequestError, Person, read_body
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import AcceptedInput, WriteRequest
from pipeline.state.fleet import Fleet
from schemas.events.control import IdentitySettled
from schemas.ids import SERIAL_SUBJECT_PREFIX, TextField

PATH: Final = "/v1/identities"


class SettlementRequest(BaseModel):
    """The body of a settlement: `merge` and `separate` name two Macs, `forget` names one.

    A name is a UDID or a serial number. `by` and `why` are the person's name and reason.
    """

    model_config = ConfigDict(extra="forbid")

    settlement: Literal["merge", "separate", "forget"]
    device: str
    other: str | None = None
    by: Person
    why: Annotated[TextField, StringConstraints(min_length=1)]


def parse_settlement(request: SettlementRequest) -> IdentitySettled:
    """Return the settlement of a request, with the names as they are.

    Raises InvalidRequestError (400) for names that are none, or the same.
    """
    try:
        return IdentitySettled.model_validate(request.model_dump())
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise InvalidRequestError(detail.removeprefix("Value error, ")) from None


def settle(raw: bytes) -> WriteRequest:
    """Return the request that settles an identity; `raw` is a SettlementRequest as JSON.

    Its response has the identifiers as `settled`. Raises InvalidRequestError: an invalid body
    (400); when prepared, no Mac has a name (404), or several Macs have it (409).
    """
    wanted = parse_settlement(read_body(SettlementRequest, raw))

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        fleet = service.reconciler.fleet
        acts = [_resolved(fleet, wanted)]
        if wanted.settlement == "forget":
            # The records that sources without a UDID report under the serial number.
            serial = fleet.merged_device(acts[0].device).serial
            if serial is not None and SERIAL_SUBJECT_PREFIX + serial in fleet.devices:
                acts.append(acts[0].model_copy(update={"device": serial}))
        events = tuple(control_events.identity_settled(act, now) for act in acts)
        return AcceptedInput(events=events, response={"settled": acts[0].key})

    return prepare


def _resolved(fleet: Fleet, wanted: IdentitySettled) -> IdentitySettled:
    """Return the settlement with the UDIDs of the named Macs."""
    if wanted.other is None:
        return wanted.model_copy(update={"device": key_of(fleet, wanted.device)})
    other = key_of(fleet, wanted.other)
    earlier = fleet.merged_device(other).earlier_serials or ()
    if wanted.settlement == "merge" and wanted.device in [serial for serial, _ in earlier]:
        device = wanted.device
    else:
        device = key_of(fleet, wanted.device)
    if device == other:
        raise InvalidRequestError(f"{wanted.device} and {wanted.other} are one Mac: {device}")
    return wanted.model_copy(update={"device": device, "other": other})


def key_of(fleet: Fleet, name: str) -> str:
    """Return the UDID of the Mac with this UDID or serial number.

    The serial number itself if only reports without a UDID have it.
    """
    if name in fleet.devices:  # of a replaced Mac too, or one with a disputed enrollment id
        return name
    udids = fleet.udids_with_serial(name)
    if len(udids) > 1:
        raise InvalidRequestError(ambiguous(name, udids), 409)
    key = fleet.find(name)
    if key is None:
        hint = hint_for_writing(fleet, name)
        raise InvalidRequestError(f"no Mac has the name {name!r}{hint}", 404)
    return key.removeprefix(SERIAL_SUBJECT_PREFIX)


def ambiguous(name: str, udids: tuple[str, ...]) -> str:
    """Return the error for a serial number that several Macs have."""
    return f"{len(udids)} Macs have the serial number {name}: give a UDID, {' or '.join(udids)}"
