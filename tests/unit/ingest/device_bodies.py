"""Hand-written payloads of the sources of devices, and their translation."""

import base64
import json
import plistlib
from datetime import UTC, datetime
from typing import Any

from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS
from pipeline.ingest.translation import Translation
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event

REDACTOR = Redactor(b"0123456789abcdef")
RECEIVED_AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
CREATED_AT = "2026-11-23T18:17:45.406870506Z"
UDID = "11111111-AAAA-4000-8000-000000000001"


def translate(source: str, raw: bytes) -> Translation:
    """Return the translation of these bytes by a source's translator."""
    return TRANSLATORS[source](raw, origin="test", received_at=RECEIVED_AT, redactor=REDACTOR)


def plist(message: Any, fmt: plistlib.PlistFormat = plistlib.FMT_XML) -> bytes:
    """Return a property list."""
    return plistlib.dumps(message, fmt=fmt)


def webhook(
    topic: str,
    message: dict[str, Any] | bytes,
    *,
    created_at: Any = CREATED_AT,
    **server_fields: Any,
) -> bytes:
    """Return a NanoMDM webhook body around a Mac's message.

    `server_fields` are added to the part of the body that has the message.
    """
    raw = message if isinstance(message, bytes) else plist(message)
    name = "acknowledge_event" if topic == "mdm.Connect" else "checkin_event"
    event = {
        "udid": UDID,
        "ids": {"id": UDID, "type": "Device"},
        "raw_payload": base64.b64encode(raw).decode(),
        **server_fields,
    }
    body = {
        "topic": topic,
        "event_id": "7436be8b6fcc457a",
        "created_at": created_at,
        name: {key: value for key, value in event.items() if value is not None},
    }
    return json.dumps(body).encode()


def command_response(message: dict[str, Any], **server_fields: Any) -> bytes:
    """Return a webhook body for an acknowledged command with these results."""
    base = {"Status": "Acknowledged", "UDID": UDID, "CommandUUID": "C-1"}
    return webhook("mdm.Connect", {**base, **message}, status="Acknowledged", **server_fields)


def status_report(report: Any, **server_fields: Any) -> bytes:
    """Return a webhook body for a declarative status report; bytes are sent unchanged."""
    data = report if isinstance(report, bytes) else json.dumps(report).encode()
    message = {"MessageType": "DeclarativeManagement", "UDID": UDID, "Endpoint": "status"}
    return webhook("mdm.DeclarativeManagement", {**message, "Data": data}, **server_fields)


def jamf(kind: str, event: Any, timestamp: Any = 1553550275590) -> bytes:
    """Return a Jamf Pro webhook body."""
    about = {"eventTimestamp": timestamp, "id": 7, "name": "n", "webhookEvent": kind}
    return json.dumps({"webhook": about, "event": event}).encode()


def osquery_added(name: str, columns: dict[str, Any], **fields: Any) -> bytes:
    """Return a differential osquery result of a Mac that is identified by its UUID."""
    result = {
        "name": name,
        "hostIdentifier": UDID,
        "unixTime": "1795457865",
        "action": "added",
        "columns": columns,
        **fields,
    }
    return json.dumps(result).encode()


def munki_report(machine: dict[str, Any], **report: Any) -> bytes:
    """Return a ManagedInstallReport."""
    return plist({"ManagedInstallVersion": "7.0.0", "MachineInfo": machine, **report})


def event_data(event: Event) -> dict[str, Any]:
    """Return an event's data as JSON values, without absent fields and the device's ids."""
    values: dict[str, Any] = event.data.model_dump(
        mode="json", exclude_none=True, exclude_defaults=True
    )
    for name in ("udid", "enrollment_id", "source"):
        values.pop(name, None)
    return values


def fields_of(translation: Translation, kind: str = "inventory.reported") -> dict[str, Any]:
    """Return the data of the one event of this kind."""
    (event,) = [one for one in translation.events if one.type == f"drydock.{kind}.v1"]
    return event_data(event)


def reasons(translation: Translation) -> list[tuple[str, str]]:
    """Return the code and path of each dead letter."""
    return [(letter.code.value, letter.where) for letter in translation.dead_letters]


def kept(item: Event | DeadLetter) -> bytes | None:
    """Return the payload's bytes in an event or a dead letter; None if they were not kept."""
    text = item.raw if isinstance(item, DeadLetter) else item.rawbase64
    return None if text is None else base64.b64decode(text)
