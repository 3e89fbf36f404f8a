"""Encode and decode events as CloudEvents 1.0 in structured JSON mode. No other module does this.

Specification: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md.

- `subject`: the UDID; `serial:<serial>` if the source knows no UDID; the advisory id for
  advisories, or the CVE for those of the KEV catalogue
- `time`: the time at the source for which the data is true
- `rawsha256`: digest of the original payload, an extension attribute
- `rawbase64`, `rawmediatype`: the redacted payload, present only if its bytes are kept
- `sender`, `receivedat`: the login that delivered the event, and the time at which the program
  accepted it; set by that program, never by the sender. Drydock's own events have neither
- `stamp`, `signature`: the last member of a record on Kafka, over the bytes before it; they are
  read from the bytes and are no attributes of an event (`pipeline.trust.stamps`,
  `schemas.signed_records`)
- `claimedtime`: the time that the sender gave, if it was implausible and `time` is that of receipt
"""

from typing import Annotated, Any, Final, Literal, TypeGuard, get_args

from pydantic import AwareDatetime, Field, StringConstraints, TypeAdapter, ValidationError

from schemas.dead_letters import DeadLetterCode
from schemas.events.advisory import (
    AdvisoryCorrected,
    AdvisoryNarrowed,
    AdvisoryPublished,
    AdvisoryRetracted,
    AdvisorySeverityRaised,
)
from schemas.events.checkin import (
    BootstrapTokenSet,
    DdmStatusReported,
    MdmAuthenticated,
    MdmCheckedOut,
    MdmCommandReported,
    MdmTokenUpdated,
)
from schemas.events.control import (
    ApprovalDenied,
    ApprovalGranted,
    AttemptsReset,
    HaltCleared,
    HaltSet,
    IdentitySettled,
    PolicyChanged,
    StrikeCleared,
    StrikeSet,
)
from schemas.events.inventory import InventoryReported
from schemas.fast.json_bytes import issued_json
from schemas.ids import TextField
from schemas.jobs import JobIssued, JobSuperseded
from schemas.model import WireModel
from schemas.results import JobResult

MEDIA_TYPE: Final = "application/cloudevents+json"
LONGEST_ID: Final = 256
LONGEST_SOURCE: Final = 512
LONGEST_SUBJECT: Final = 256
MAX_EVENT_BYTES = 8 * 1024 * 1024


class InvalidEvent(ValueError):  # noqa: N818 - the name in the documents
    """The bytes are not a known event. `where` is a JSON path."""

    def __init__(self, code: DeadLetterCode, detail: str, where: str = "$") -> None:
        super().__init__(f"{code} at {where}: {detail}")
        self.code = code
        self.detail = detail
        self.where = where


class CloudEvent(WireModel):
    """Attributes of every event."""

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
    source: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_SOURCE)]
    subject: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_SUBJECT)]
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    rawsha256: str | None = None
    rawmediatype: str | None = None
    rawbase64: str | None = None
    sender: TextField | None = None
    receivedat: AwareDatetime | None = None
    claimedtime: AwareDatetime | None = None


class InventoryEvent(CloudEvent):
    type: Literal["drydock.inventory.reported.v1"] = "drydock.inventory.reported.v1"
    data: InventoryReported


class AuthenticatedEvent(CloudEvent):
    type: Literal["drydock.mdm.authenticated.v1"] = "drydock.mdm.authenticated.v1"
    data: MdmAuthenticated


class TokenUpdatedEvent(CloudEvent):
    type: Literal["drydock.mdm.token_updated.v1"] = "drydock.mdm.token_updated.v1"
    data: MdmTokenUpdated


class CheckedOutEvent(CloudEvent):
    type: Literal["drydock.mdm.checked_out.v1"] = "drydock.mdm.checked_out.v1"
    data: MdmCheckedOut


class CommandReportedEvent(CloudEvent):
    type: Literal["drydock.mdm.command_reported.v1"] = "drydock.mdm.command_reported.v1"
    data: MdmCommandReported


class BootstrapTokenEvent(CloudEvent):
    type: Literal["drydock.mdm.bootstrap_token_set.v1"] = "drydock.mdm.bootstrap_token_set.v1"
    data: BootstrapTokenSet


class DdmStatusEvent(CloudEvent):
    type: Literal["drydock.mdm.ddm_status_reported.v1"] = "drydock.mdm.ddm_status_reported.v1"
    data: DdmStatusReported


class AdvisoryPublishedEvent(CloudEvent):
    type: Literal["drydock.advisory.published.v1"] = "drydock.advisory.published.v1"
    data: AdvisoryPublished


class AdvisorySeverityRaisedEvent(CloudEvent):
    type: Literal["drydock.advisory.severity_raised.v1"] = "drydock.advisory.severity_raised.v1"
    data: AdvisorySeverityRaised


class AdvisoryNarrowedEvent(CloudEvent):
    type: Literal["drydock.advisory.narrowed.v1"] = "drydock.advisory.narrowed.v1"
    data: AdvisoryNarrowed


class AdvisoryCorrectedEvent(CloudEvent):
    type: Literal["drydock.advisory.corrected.v1"] = "drydock.advisory.corrected.v1"
    data: AdvisoryCorrected


class AdvisoryRetractedEvent(CloudEvent):
    type: Literal["drydock.advisory.retracted.v1"] = "drydock.advisory.retracted.v1"
    data: AdvisoryRetracted


class JobIssuedEvent(CloudEvent):
    type: Literal["drydock.job.issued.v1"] = "drydock.job.issued.v1"
    data: JobIssued


class JobSupersededEvent(CloudEvent):
    type: Literal["drydock.job.superseded.v1"] = "drydock.job.superseded.v1"
    data: JobSuperseded


class JobResultedEvent(CloudEvent):
    type: Literal["drydock.job.resulted.v1"] = "drydock.job.resulted.v1"
    data: JobResult


class PolicyChangedEvent(CloudEvent):
    type: Literal["drydock.policy.changed.v1"] = "drydock.policy.changed.v1"
    data: PolicyChanged


class HaltSetEvent(CloudEvent):
    type: Literal["drydock.halt.set.v1"] = "drydock.halt.set.v1"
    data: HaltSet


class HaltClearedEvent(CloudEvent):
    type: Literal["drydock.halt.cleared.v1"] = "drydock.halt.cleared.v1"
    data: HaltCleared


class ApprovalGrantedEvent(CloudEvent):
    type: Literal["drydock.approval.granted.v1"] = "drydock.approval.granted.v1"
    data: ApprovalGranted


class ApprovalDeniedEvent(CloudEvent):
    type: Literal["drydock.approval.denied.v1"] = "drydock.approval.denied.v1"
    data: ApprovalDenied


class IdentitySettledEvent(CloudEvent):
    type: Literal["drydock.identity.settled.v1"] = "drydock.identity.settled.v1"
    data: IdentitySettled


class AttemptsResetEvent(CloudEvent):
    type: Literal["drydock.attempts.reset.v1"] = "drydock.attempts.reset.v1"
    data: AttemptsReset


class StrikeSetEvent(CloudEvent):
    type: Literal["drydock.strike.set.v1"] = "drydock.strike.set.v1"
    data: StrikeSet


class StrikeClearedEvent(CloudEvent):
    type: Literal["drydock.strike.cleared.v1"] = "drydock.strike.cleared.v1"
    data: StrikeCleared


AdvisoryEvent = (
    AdvisoryPublishedEvent
    | AdvisorySeverityRaisedEvent
    | AdvisoryNarrowedEvent
    | AdvisoryCorrectedEvent
    | AdvisoryRetractedEvent
)
DeviceEvent = (
    InventoryEvent
    | AuthenticatedEvent
    | TokenUpdatedEvent
    | CheckedOutEvent
    | CommandReportedEvent
    | BootstrapTokenEvent
    | DdmStatusEvent
)
# Only these come from other systems.
OutsideEvent = DeviceEvent | AdvisoryEvent
JobEvent = JobIssuedEvent | JobSupersededEvent | JobResultedEvent
ControlEvent = (
    PolicyChangedEvent
    | HaltSetEvent
    | HaltClearedEvent
    | ApprovalGrantedEvent
    | ApprovalDeniedEvent
    | AttemptsResetEvent
    | IdentitySettledEvent
    | StrikeSetEvent
    | StrikeClearedEvent
)
Event = DeviceEvent | AdvisoryEvent | JobEvent | ControlEvent

_DEVICE_EVENTS: Final = frozenset(get_args(DeviceEvent))
_JOB_EVENTS: Final = frozenset(get_args(JobEvent))

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def is_device_event(event: Event) -> TypeGuard[DeviceEvent]:
    """Return True for an event of a Mac.

    Hot path: `isinstance` with a class of pydantic that does not fit takes half a microsecond.
    """
    return type(event) in _DEVICE_EVENTS


def is_job_event(event: Event) -> TypeGuard[JobEvent]:
    """Return True for an event of a job; hot path, as `is_device_event`."""
    return type(event) in _JOB_EVENTS


def encode(event: CloudEvent, *, fast_paths: bool = True) -> bytes:
    """Return the event as one JSON object in UTF-8, without fields that are None.

    Equal events give equal bytes, with `fast_paths` or without.
    """
    if fast_paths and type(event) is JobIssuedEvent:
        return issued_json(event)
    return event.model_dump_json(exclude_none=True).encode()


def decode(raw: bytes | str) -> Event:
    """Return the event in these bytes, as the class of its `type`.

    Raises InvalidEvent with a dead-letter code and a path: for bytes that are not JSON, for an
    unknown type, for missing or invalid fields, and over MAX_EVENT_BYTES (characters of a `str`).
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise InvalidEvent(DeadLetterCode.TOO_LARGE, f"over {MAX_EVENT_BYTES} bytes")
    try:
        return _EVENT.validate_json(raw)
    except ValidationError as error:
        raise _invalid(error) from None


def schema() -> dict[str, Any]:
    """Return one JSON Schema that accepts every event: a union by `type`."""
    return _EVENT.json_schema()


def _invalid(error: ValidationError) -> InvalidEvent:
    """Return pydantic's first error as InvalidEvent, with its dead-letter code and its path."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind = first["type"]
    is_value = kind.endswith(("_parsing", "value_error"))
    code = {
        "json_invalid": DeadLetterCode.NOT_JSON,
        "union_tag_invalid": DeadLetterCode.UNKNOWN_TYPE,
        "union_tag_not_found": DeadLetterCode.UNKNOWN_TYPE,
    }.get(kind, DeadLetterCode.BAD_VALUE if is_value else DeadLetterCode.BAD_SHAPE)
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in first["loc"]
        if not (isinstance(part, str) and part.startswith("drydock."))
    )
    return InvalidEvent(code, first["msg"], f"${path}")
