"""Translation of the webhook body that NanoMDM and MicroMDM share: an envelope around a message.

Measured on NanoMDM v0.9.0, a webhook proves that a Mac made a request, not that the server accepted
it: a refused request causes the same webhook. Each webhook is sent once, by its own goroutine. It
may be lost, neither arrival nor `created_at` gives the order of requests, and a Mac's retry has a
new `event_id`. The server's own response is not in it (github.com/micromdm/nanomdm, service/webhook
and service/multi).
"""

import base64
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, Final

from pipeline.ingest.ddm_status import STATUS_REPORT
from pipeline.ingest.device_payload import PLIST, DevicePayload, canonical_json
from pipeline.ingest.foreign_fields import Fields
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.mdm_messages import (
    CONNECT,
    MESSAGE_FIELDS,
    MESSAGE_LOCATION,
    translate_message,
)
from pipeline.ingest.payload_retention import PayloadFields, ReadFields, values
from pipeline.ingest.plist_payload import load_plist, looks_like_plist
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetterCode

_TOPIC: Final = "mdm."
_CHECKIN: Final = "checkin_event"
_ACKNOWLEDGE: Final = "acknowledge_event"
_RAW_PAYLOAD: Final = "raw_payload"
_SERVER_FIELDS: Final[ReadFields] = {
    **values("udid", "enrollment_id", "status", "command_uuid", "token_update_tally"),
    "ids": values("id", "type"),
    "url_params": values("site", "server"),
    _RAW_PAYLOAD: None,
}
_MESSAGE: Final = PayloadFields(MESSAGE_FIELDS, MESSAGE_FIELDS, STATUS_REPORT)
WEBHOOK_FIELDS: Final = PayloadFields(
    {**values("topic", "created_at"), _CHECKIN: _SERVER_FIELDS, _ACKNOWLEDGE: _SERVER_FIELDS},
    MESSAGE_FIELDS,
    STATUS_REPORT,
)


def translate_webhook(
    raw: bytes, *, source: str, origin: str, received_at: datetime, redactor: Redactor
) -> Translation:
    """Return the events of a webhook body, or of a Mac's bare message (an XML or binary plist).

    Events are dated `created_at`, or `received_at` for a bare message and for a body whose
    `created_at` is missing, blank or before 2001, such as Go's zero time. A body or message that
    cannot be used gives dead letters and no events. Another field that is invalid is a dead letter,
    and the rest is used. Raises nothing.
    """
    payload = DevicePayload(source, raw, origin, received_at, redactor)
    try:
        if looks_like_plist(raw):
            _bare_message(payload)
        else:
            _webhook(payload)
    except PayloadError as error:
        return payload.refuse(error)
    return payload.translation()


def _bare_message(payload: DevicePayload) -> None:
    """Add the events of a bare plist message to the payload.

    Raises PayloadError, with a code of `load_plist` or `translate_message`, if the message cannot
    be parsed or used.
    """
    unreadable: list[PayloadError] = []
    message = load_plist(payload.raw, unreadable)
    payload.problems.add_all(unreadable, MESSAGE_LOCATION)
    payload.media_type = PLIST
    payload.keep(message, _MESSAGE)
    translate_message(
        message,
        payload,
        server_fields=Fields({}, "", payload.problems),
        kind=None,
        at=payload.received_at,
    )


def _webhook(payload: DevicePayload) -> None:
    """Add the events of a JSON webhook body to the payload.

    Raises PayloadError if the body or the message in it cannot be parsed or used: `unknown_type`
    without a topic that starts with `mdm.`, `bad_shape` if the body or its member for the topic is
    not an object, `bad_shape` or `bad_value` for an invalid `created_at`, or a code of `load_json`,
    `_message_bytes`, `_message` or `translate_message`.
    """
    unreadable: list[PayloadError] = []
    body = load_json(payload.raw, unreadable)
    # The Mac's message is needed twice, to find secrets and to translate it: parse it once.
    unreadable_in: dict[bytes, list[PayloadError]] = defaultdict(list)
    read_plist = cache(lambda raw: load_plist(raw, unreadable_in[raw]))
    payload.keep(body, WEBHOOK_FIELDS, read_plist)
    if not isinstance(body, dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "not an object", "$")
    payload.identity = canonical_json(body)
    envelope = Fields(body, "$.", payload.problems)
    topic = envelope.text("topic")
    if topic is None or not topic.startswith(_TOPIC):
        detail = "a status report without its webhook names no device"
        if "StatusItems" not in envelope:
            detail = (
                f"not an MDM webhook: topic {topic}" if topic else "not an MDM webhook: no topic"
            )
        raise PayloadError(DeadLetterCode.UNKNOWN_TYPE, detail, "$.topic")
    kind = topic.removeprefix(_TOPIC)
    name = _ACKNOWLEDGE if kind == CONNECT else _CHECKIN
    if not isinstance(body.get(name), dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, f"no {name}", f"$.{name}")
    at = envelope.instant("created_at")
    if at is None and payload.problems.found:
        raise payload.problems.found.pop()
    server_fields = envelope.group(name)
    message = _message_bytes(server_fields)
    plist = _message(message, server_fields, read_plist)
    payload.problems.add_all(unreadable)
    payload.problems.add_all(unreadable_in[message], MESSAGE_LOCATION)
    translate_message(
        plist,
        payload,
        server_fields=server_fields,
        kind=kind,
        at=at or payload.received_at,
    )


def _message_bytes(server_fields: Fields) -> bytes:
    """Return the bytes of `raw_payload`, the Mac's message.

    Raises PayloadError: `bad_shape` if the field is absent or not text, `bad_value` if it is not
    base64.
    """
    location = server_fields.where + _RAW_PAYLOAD
    text = server_fields.values.get(_RAW_PAYLOAD)
    if not isinstance(text, str):
        raise PayloadError(
            DeadLetterCode.BAD_SHAPE, "no base64 text with the Mac's message", location
        )
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise PayloadError(DeadLetterCode.BAD_VALUE, "not base64", location) from None


def _message(message: bytes, server_fields: Fields, read_plist: Callable[[bytes], Any]) -> Any:
    """Return the parsed plist of a Mac's message. Raises PayloadError with a code of `read_plist`.

    The error's path starts with the path of `raw_payload`.
    """
    location = server_fields.where + _RAW_PAYLOAD
    try:
        return read_plist(message)
    except PayloadError as error:
        where = f"{location}: {error.where}" if error.where else location
        raise PayloadError(error.code, error.detail, where) from None
