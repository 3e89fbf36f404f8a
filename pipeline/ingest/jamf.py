"""Translation of Jamf Pro webhooks to inventory events (developer.jamf.com, "Webhooks").

A body is JSON or XML. The computer's fields are in `event`, or in `event.computer` where `event`
has more than the computer. They are Jamf's record of the computer, which only an inventory renews:
every other event repeats the record of the last inventory and shows only that the Mac was seen.
"""

from datetime import datetime
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree as SafeTree

from pipeline.ingest.device_payload import DevicePayload, canonical_json
from pipeline.ingest.foreign_fields import Fields, from_epoch
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.payload_retention import PayloadFields, values
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetterCode

SOURCE: Final = "jamf"

# A webhook's body has a few KB; parsed XML takes about ten times its size in memory.
MAX_XML_BYTES: Final = 1024 * 1024
_MAX_XML_DEPTH: Final = 16
_COMPUTER: Final = "Computer"
_WITH_INVENTORY: Final = frozenset({"ComputerAdded", "ComputerInventoryCompleted"})
_COMPUTER_FIELDS: Final = values("udid", "serialNumber", "osVersion", "osBuild", "deviceName")
WEBHOOK_FIELDS: Final = PayloadFields(
    {
        "webhook": values("webhookEvent", "eventTimestamp"),
        "event": {**_COMPUTER_FIELDS, "computer": _COMPUTER_FIELDS},
    }
)
_MOBILE: Final = "MobileDevice"
_BYTE_ORDER_MARK_AND_SPACE: Final = b"\xef\xbb\xbf \t\r\n"


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """Return the inventory report of one webhook body, dated `eventTimestamp`, else `received_at`.

    Every `Computer...` event that names a computer gives a report. Those of `ComputerAdded` and
    `ComputerInventoryCompleted` have version, build and host name; the others (check-in, policy
    finished, push capability changed) only record a contact. `model` is a marketing name and is
    never used as the model identifier. Events about mobile devices are dead letters `not_a_mac`;
    events that are not about one computer (smart groups, Jamf Pro itself, its API) are dead letters
    `unknown_type`, as is a body without a `webhookEvent`; a computer without a valid UDID or serial
    number is a dead letter `no_device`. A body that cannot be parsed is one dead letter. An invalid
    field is a dead letter, and the rest is used. Raises nothing.
    """
    payload = DevicePayload(SOURCE, raw, origin, received_at, redactor)
    try:
        unreadable: list[PayloadError] = []
        body = _body(raw, unreadable)
        payload.problems.add_all(unreadable)
        payload.keep(body, WEBHOOK_FIELDS)
        payload.identity = canonical_json(body)
        if not isinstance(body, dict):
            raise PayloadError(DeadLetterCode.BAD_SHAPE, "not an object", "$")
        _report(Fields(body, "$.", payload.problems), payload)
    except PayloadError as error:
        return payload.refuse(error)
    return payload.translation()


def _report(body: Fields, payload: DevicePayload) -> None:
    """Add the inventory report of a body to the payload.

    Raises PayloadError: `unknown_type` if the event is not about one computer or has no name,
    `not_a_mac` for a mobile device, `no_device` without a valid UDID or serial number.
    """
    webhook, event = body.group("webhook"), body.group("event")
    kind = webhook.text("webhookEvent")
    if kind is None:
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE, "not a Jamf Pro webhook: no webhookEvent", "$.webhook"
        )
    if kind.startswith(_MOBILE):
        raise PayloadError(
            DeadLetterCode.NOT_A_MAC,
            f"a {kind} event is about a mobile device",
            "$.webhook.webhookEvent",
        )
    if not kind.startswith(_COMPUTER):
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            f"a {kind} event is not about one computer",
            "$.webhook.webhookEvent",
        )
    computer = event.group("computer") if "computer" in event else event
    udid, serial = computer.udid("udid"), computer.serial("serialNumber")
    if udid is None and serial is None:
        raise PayloadError(
            DeadLetterCode.NO_DEVICE, "neither a UDID nor a serial number", computer.where + "udid"
        )
    fields: dict[str, Any] = {}
    if kind in _WITH_INVENTORY:
        fields["os_version"], fields["build"] = computer.system("osVersion", "osBuild")
        fields["hostname"] = computer.text("deviceName")
    at = _at(webhook) or payload.received_at
    payload.add_inventory("jamf", at, udid=udid, serial=serial, **fields)


def _at(webhook: Fields) -> datetime | None:
    """Return `eventTimestamp` in UTC: milliseconds since 1970 (since Jamf Pro 10.12), text in XML.

    None if it is absent or null; None, with a problem, if it is invalid, before 2001 or after 2099.
    """
    value = webhook.values.get("eventTimestamp")
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        webhook.bad_shape("eventTimestamp", "not milliseconds since 1970")
        return None
    found = from_epoch(value / 1000) if abs(value) < 10**15 else None
    if found is None:
        webhook.bad_value("eventTimestamp", "not milliseconds since 1970")
    return found


def _body(raw: bytes, unreadable: list[PayloadError]) -> Any:
    """Return the parsed body; XML gets the form of the JSON body, with every value as text.

    The errors of JSON scalars that cannot be read are appended to `unreadable`. Raises
    PayloadError: for XML `too_large`, `too_deep`, or `not_xml` (also for a DTD), for any other body
    a code of `load_json`.
    """
    if raw.lstrip(_BYTE_ORDER_MARK_AND_SPACE)[:1] != b"<":
        return load_json(raw, unreadable)
    if len(raw) > MAX_XML_BYTES:
        raise PayloadError(DeadLetterCode.TOO_LARGE, f"more than {MAX_XML_BYTES} bytes of XML")
    try:
        root = SafeTree.fromstring(raw.lstrip(_BYTE_ORDER_MARK_AND_SPACE), forbid_dtd=True)
    except ParseError as error:
        line, _ = error.position
        raise PayloadError(DeadLetterCode.NOT_XML, "not well-formed XML", f"line {line}") from None
    except (ValueError, LookupError) as error:
        detail = f"XML that is not allowed ({type(error).__name__})"
        raise PayloadError(DeadLetterCode.NOT_XML, detail) from None
    return _value(root, 0)


def _value(element: Element, depth: int) -> Any:
    """Return an XML element in the form of the JSON body: a dict of its children, or its text.

    The text has no surrounding space; it is "" for an empty element. Children with the same tag
    become one list. `depth` counts the elements around this one. Raises PayloadError `too_deep` for
    more than _MAX_XML_DEPTH levels.
    """
    if depth > _MAX_XML_DEPTH:
        raise PayloadError(DeadLetterCode.TOO_DEEP, f"more than {_MAX_XML_DEPTH} levels deep")
    if len(element) == 0:
        return (element.text or "").strip()
    found: dict[str, Any] = {}
    for child in element:
        value = _value(child, depth + 1)
        if child.tag not in found:
            found[child.tag] = value
        elif isinstance(found[child.tag], list):
            found[child.tag].append(value)
        else:
            found[child.tag] = [found[child.tag], value]
    return found
