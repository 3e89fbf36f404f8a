"""The webhook body that NanoMDM and MicroMDM share: an envelope around a Mac's own message.

What a hook proves, measured on NanoMDM v0.9.0: that a request was made, not that the server
accepted it; a refused one fires the same hook. Hooks are sent once, by a goroutine each: they may
be lost, neither their arrival nor `created_at` orders them, and a Mac's retry has a new
`event_id`. Nothing of the server's own answer is in them.
"""

import base64
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, Final

from pipeline.ingest.device_payload import PLIST, DevicePayload, canonical_json
from pipeline.ingest.foreign_fields import Fields
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.mdm_messages import CONNECT, translate_message
from pipeline.ingest.plist_payload import load_plist, looks_like_plist
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetterCode

_TOPIC: Final = "mdm."
_CHECKIN: Final = "checkin_event"
_ANSWER: Final = "acknowledge_event"


def translate_webhook(
    raw: bytes, *, source: str, origin: str, received_at: datetime, redactor: Redactor
) -> Translation:
    """A webhook body, or a Mac's bare message (XML or binary plist), to events.

    Event time is `created_at`; a body without one, or with Go's zero time, and a bare message are
    dated `received_at`. Raises nothing.
    """
    payload = DevicePayload(source, raw, origin, received_at)
    try:
        if looks_like_plist(raw):
            _bare_message(payload, redactor)
        else:
            _webhook(payload, redactor)
    except PayloadError as error:
        return payload.refuse(error)
    return payload.translation()


def _bare_message(payload: DevicePayload, redactor: Redactor) -> None:
    message = load_plist(payload.raw)
    payload.media_type = PLIST
    payload.keep_redacted(redactor.plist, message)
    translate_message(
        message,
        payload,
        server_fields=Fields({}, "", payload.problems),
        kind=None,
        at=payload.received_at,
        redactor=redactor,
    )


def _webhook(payload: DevicePayload, redactor: Redactor) -> None:
    body = load_json(payload.raw)
    # The Mac's message is looked through for secrets and then translated, and read once.
    read_plist = cache(load_plist)
    payload.keep_redacted(redactor.with_plist_reader(read_plist).json, body)
    if not isinstance(body, dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "not an object", "$")
    payload.identity = canonical_json(body)
    envelope = Fields(body, "$.", payload.problems)
    topic = envelope.text("topic")
    if topic is None or not topic.startswith(_TOPIC):
        detail = "a status report alone does not say whose it is"
        if "StatusItems" not in envelope:
            detail = f"no MDM webhook: topic {topic}" if topic else "no MDM webhook: no topic"
        raise PayloadError(DeadLetterCode.UNKNOWN_TYPE, detail, "$.topic")
    kind = topic.removeprefix(_TOPIC)
    name = _ANSWER if kind == CONNECT else _CHECKIN
    if not isinstance(body.get(name), dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, f"no {name}", f"$.{name}")
    at = envelope.instant("created_at")
    if at is None and payload.problems.found:
        raise payload.problems.found.pop()
    server_fields = envelope.group(name)
    translate_message(
        _message(server_fields, read_plist),
        payload,
        server_fields=server_fields,
        kind=kind,
        at=at or payload.received_at,
        redactor=redactor,
    )


def _message(server_fields: Fields, read_plist: Callable[[bytes], Any]) -> Any:
    location = server_fields.where + "raw_payload"
    text = server_fields.values.get("raw_payload")
    if not isinstance(text, str):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "no payload", location)
    try:
        message = base64.b64decode(text, validate=True)
    except ValueError:
        raise PayloadError(DeadLetterCode.BAD_VALUE, "not base64", location) from None
    try:
        return read_plist(message)
    except PayloadError as error:
        where = f"{location}: {error.where}" if error.where else location
        raise PayloadError(error.code, error.detail, where) from None
