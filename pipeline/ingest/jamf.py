"""Jamf Pro webhooks to inventory events (developer.jamf.com, "Webhooks").

A body is JSON or XML; a computer's fields are in `event` or, with what happened to it beside
them, in `event.computer`. The fields are Jamf's record of the computer, which a check-in without
an inventory does not renew: of its events only the time is sure to be the Mac's.
"""

from datetime import datetime
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree as SafeTree

from pipeline.ingest.device_payload import DevicePayload, canonical_json
from pipeline.ingest.foreign_fields import Fields, from_epoch
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetterCode

SOURCE: Final = "jamf"

# A webhook's body is a few KB; XML takes about ten times its bytes in memory.
MAX_XML_BYTES: Final = 1024 * 1024
_MAX_XML_DEPTH: Final = 16
_COMPUTER: Final = "Computer"
_MOBILE: Final = "MobileDevice"
_BYTE_ORDER_MARK_AND_SPACE: Final = b"\xef\xbb\xbf \t\r\n"


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """One webhook body to one inventory report, dated `eventTimestamp`.

    Every `Computer...` event that names a computer is one: added, check-in, inventory completed,
    policy finished, push capability changed. `model` is a marketing name and never becomes the
    model identifier. Mobile devices are dead letters `not_a_mac`, events that are about no one
    computer (smart groups, Jamf Pro itself, its API) `unknown_type`. Raises nothing.
    """
    payload = DevicePayload(SOURCE, raw, origin, received_at)
    try:
        body = _body(raw)
        payload.keep_redacted(redactor.json, body)
        payload.identity = canonical_json(body)
        if not isinstance(body, dict):
            raise PayloadError(DeadLetterCode.BAD_SHAPE, "not an object", "$")
        _report(Fields(body, "$.", payload.problems), payload)
    except PayloadError as error:
        return payload.refuse(error)
    return payload.translation()


def _report(body: Fields, payload: DevicePayload) -> None:
    webhook, event = body.group("webhook"), body.group("event")
    kind = webhook.text("webhookEvent")
    if kind is None:
        raise PayloadError(DeadLetterCode.UNKNOWN_TYPE, "no Jamf Pro webhook", "$.webhook")
    if kind.startswith(_MOBILE):
        raise PayloadError(DeadLetterCode.NOT_A_MAC, f"a {kind} event", "$.webhook.webhookEvent")
    computer = event.group("computer") if "computer" in event else event
    if not kind.startswith(_COMPUTER):
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            f"a {kind} event says nothing of a computer's state",
            "$.webhook.webhookEvent",
        )
    udid, serial = computer.udid("udid"), computer.serial("serialNumber")
    if udid is None and serial is None:
        raise PayloadError(
            DeadLetterCode.NO_DEVICE, "neither a UDID nor a serial number", computer.where + "udid"
        )
    payload.add_inventory(
        "jamf",
        _at(webhook) or payload.received_at,
        udid=udid,
        serial=serial,
        os_version=computer.version("osVersion"),
        build=computer.build("osBuild"),
        hostname=computer.text("deviceName"),
    )


def _at(webhook: Fields) -> datetime | None:
    """`eventTimestamp` is milliseconds since 1970 (since Jamf Pro 10.12); XML has it as text."""
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


def _body(raw: bytes) -> Any:
    if raw.lstrip(_BYTE_ORDER_MARK_AND_SPACE)[:1] != b"<":
        return load_json(raw)
    if len(raw) > MAX_XML_BYTES:
        raise PayloadError(DeadLetterCode.TOO_LARGE, f"over {MAX_XML_BYTES} bytes of XML")
    try:
        root = SafeTree.fromstring(raw.lstrip(_BYTE_ORDER_MARK_AND_SPACE), forbid_dtd=True)
    except ParseError as error:
        line, _ = error.position
        raise PayloadError(DeadLetterCode.NOT_XML, "not well-formed", f"line {line}") from None
    except (ValueError, LookupError) as error:
        detail = f"not allowed ({type(error).__name__})"
        raise PayloadError(DeadLetterCode.NOT_XML, detail) from None
    return _value(root, 0)


def _value(element: Element, depth: int) -> Any:
    """An element as the JSON body has it: a dict of its children, or its text."""
    if depth > _MAX_XML_DEPTH:
        raise PayloadError(DeadLetterCode.TOO_DEEP, f"over {_MAX_XML_DEPTH} levels deep")
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
