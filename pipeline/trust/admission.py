"""The check of every event from outside, before it is stored and folded.

| rule | if it fails |
| --- | --- |
| the sender may submit events of this type and source | refused: `forbidden` |
| the event's `source` is no name that Drydock gives to its own events | refused: `forbidden` |
| the sender may state each of its fields | refused; a field of a translated payload is removed |
| the identity is present and printable | refused: `no_device`, `bad_identity` |
| the subject is the key that follows from the identity | refused: `bad_identity` |
| the sender may speak for this Mac | refused: `forbidden` |
| the time is at most 5 minutes after the receipt, and not before 2015 | replaced by the receipt |

The result has `sender`, `receivedat`, and `claimedtime` if the time was replaced. These attributes
of the event as it arrived are overwritten: only the program that accepts an event sets them.
"""

from datetime import datetime
from typing import Any, Final

from pipeline.trust.identity import identity_problem, subjects_of
from pipeline.trust.senders import ALWAYS_PERMITTED, Scope, Sender
from pipeline.trust.times import bounded_data, ordering_time
from schemas.dead_letters import DeadLetterCode, Problem
from schemas.envelope import AdvisoryEvent, OutsideEvent
from schemas.model import WireModel

# The sources of Drydock's own events, and of the events that it makes of payloads.
_OWN_SOURCES: Final = ("/drydock", "urn:drydock:")
# Names of a Mac beside its UDID: they join the reports of several records.
_ALIASES: Final = ("serial", "enrollment_id")


def admit(
    event: OutsideEvent, sender: Sender, received_at: datetime, *, is_translated: bool
) -> OutsideEvent | Problem:
    """Return the event as it is stored, or the reason for which it is refused.

    `is_translated`: Drydock made the event from a payload, so that its source is Drydock's and its
    fields are those of the payload. `received_at` is the time at which the program accepted it; for
    a repeated dead letter, the time of the first acceptance.
    """
    if not is_translated and event.source.strip().casefold().startswith(_OWN_SOURCES):
        return _forbidden("a source of Drydock's own events", "$.source")
    permitted = _permitted_data(event, sender.scope, is_translated=is_translated)
    if isinstance(permitted, Problem):
        return permitted
    changed: dict[str, Any] = {}
    data = permitted
    if not isinstance(event, AdvisoryEvent):
        own = sender.own_device
        if own is not None and is_translated and data.udid is None:
            data = data.model_copy(update={"udid": own})
            changed["subject"] = own
        data = _without_foreign_names(data, sender.scope)
    data = bounded_data(data, received_at)
    at = ordering_time(event.time, received_at)
    changed |= {"data": data, "time": at, "sender": sender.recorded_name, "receivedat": received_at}
    changed["claimedtime"] = None if at == event.time else event.time
    admitted = event.model_copy(update=changed)
    problem = identity_problem(admitted) or _device_problem(admitted, sender.scope)
    if problem is not None:
        return problem
    if not isinstance(admitted, AdvisoryEvent):
        (key,) = subjects_of(admitted)
        if admitted.subject != key:
            admitted = admitted.model_copy(update={"subject": key})
    return admitted


def _permitted_data(event: OutsideEvent, scope: Scope, *, is_translated: bool) -> Any:
    """Return the event's data with the fields that the sender may state, or a Problem."""
    data: WireModel = event.data
    fields = scope.fields.get(type(data))
    if fields is None:
        return _forbidden(f"this sender may not submit {event.type}", "$.type")
    source = getattr(data, "source", None)
    if source is not None and source not in scope.sources:
        return _forbidden(f"this sender may not report as {source!r}", "$.data.source")
    foreign = [
        name
        for name in sorted(data.model_fields_set - fields - ALWAYS_PERMITTED)
        if getattr(data, name) not in (None, ())
    ]
    if not foreign:
        return data
    if is_translated:
        return data.model_copy(update=dict.fromkeys(foreign))
    return _forbidden(f"this sender may not state {foreign[0]}", f"$.data.{foreign[0]}")


def _without_foreign_names(data: Any, scope: Scope) -> Any:
    """Return the data without serial number and enrollment id of Macs outside the scope.

    A report under one UDID that names another Mac would change the other one's record.
    """
    if scope.devices is None or data.udid is None:
        return data
    foreign = [
        name
        for name in _ALIASES
        if (value := getattr(data, name, None)) is not None
        and value.upper() not in scope.devices
        and value != data.udid
    ]
    return data.model_copy(update=dict.fromkeys(foreign)) if foreign else data


def _device_problem(event: OutsideEvent, scope: Scope) -> Problem | None:
    """Return a Problem if the event is about a Mac outside the sender's scope."""
    if scope.devices is None or isinstance(event, AdvisoryEvent):
        return None
    udid = event.data.udid
    name = udid if udid is not None else getattr(event.data, "serial", None)
    if name in scope.devices:
        return None
    where = "$.data.udid" if udid is not None else "$.data.serial"
    return _forbidden("this sender may not report on this Mac", where)


def _forbidden(detail: str, where: str) -> Problem:
    return Problem(DeadLetterCode.FORBIDDEN, detail, where)
