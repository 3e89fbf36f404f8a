"""One payload about devices under translation: its events and its dead letters.

An event's id is derived from the source, the event's type and subject, and the content of the
payload (JSON in canonical form), never from the time of receipt: a body delivered twice gives equal
ids.
The content includes the payload's own id and time, so a Mac's retry, to which its server gives new
ones, is another event. This is intended. With one id for two times the state would depend on the
order of arrival, and NanoMDM's queue can make a Mac run a command twice and send equal responses.
The folds are idempotent: a repeated event does not change the state.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from pipeline.ingest.foreign_fields import Problems
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.payload_retention import PayloadFields, retained
from pipeline.ingest.plist_payload import load_plist
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.retained_events import without_secrets
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import MAX_KEPT_BYTES, DeadLetterCode, Problem, make_dead_letter
from schemas.envelope import DeviceEvent, Event, InventoryEvent
from schemas.events.inventory import InventoryReported, InventorySource
from schemas.ids import SERIAL_SUBJECT_PREFIX, event_id

JSON: Final = "application/json"
PLIST: Final = "application/x-plist"

_MAX_CLOCK_SKEW: Final = timedelta(days=1)


def canonical_json(value: Any) -> bytes:
    """Return compact JSON bytes with sorted keys: layout and order of keys make no difference."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def plausible_time(reported_at: datetime | None, received_at: datetime) -> datetime:
    """Return `reported_at`, a time of a Mac's own clock, or `received_at` if it cannot be right.

    `reported_at` cannot be right if it is None, or more than a day after `received_at`: such a
    report would outrank every later one.
    """
    return (
        received_at
        if reported_at is None or reported_at > received_at + _MAX_CLOCK_SKEW
        else reported_at
    )


@dataclass(slots=True)
class DevicePayload:
    """The bytes of one payload, and the events and problems found in it so far.

    `identity` is the content from which event ids are derived; if it is empty, `raw` is used.
    `redacted` is the part of the payload that is kept, without secrets, set by `keep`. It is None
    before that, and always for a payload over MAX_KEPT_BYTES.
    """

    source: str
    raw: bytes
    origin: str
    received_at: datetime
    redactor: Redactor
    identity: bytes = b""
    redacted: bytes | None = None
    media_type: str = JSON
    problems: Problems = field(default_factory=Problems)
    events: list[Event] = field(default_factory=list)

    def keep(
        self,
        value: Any,
        fields: PayloadFields,
        read_plist: Callable[[bytes], Any] = load_plist,
    ) -> None:
        """Set `redacted` to what may be kept of the parsed payload `value`.

        `fields` keep their values, the other fields their types; secrets become fingerprints.
        `read_plist` parses plists in its values. For a payload over MAX_KEPT_BYTES nothing changes.
        """
        if len(self.raw) > MAX_KEPT_BYTES:
            return
        redactor = self.redactor.with_readers(
            lambda raw: retained(read_plist(raw), fields.plist),
            lambda raw: retained(load_json(raw), fields.json),
        )
        write = redactor.plist if self.media_type == PLIST else redactor.json
        self.redacted = write(retained(value, fields.payload))

    def add_inventory(self, source: InventorySource, at: datetime, /, **fields: Any) -> None:
        """Add an inventory report of this source and time; fields that are None are left out.

        `fields` are those of InventoryReported, with a UDID or a serial number among them. If they
        do not fit the model, the problem `bad_value` is recorded and no event is added.
        """
        known = {name: value for name, value in fields.items() if value is not None}
        data = self.validate(InventoryReported, source=source, **known)
        if data is not None:
            self.add_event(InventoryEvent, data, at)

    def validate(self, kind: Callable[..., Any], /, **values: Any) -> Any:
        """Return `kind(**values)`; None, with the problem `bad_value`, if the values do not fit.

        Values read by Fields fit the models, so None comes only if a model's limit is stricter than
        that of Fields.
        """
        try:
            return kind(**values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self.problems.add(DeadLetterCode.BAD_VALUE, first["msg"], where)
            return None

    def add_event(self, kind: Callable[..., DeviceEvent], data: Any, at: datetime) -> None:
        """Add an event of class `kind` with this data and time.

        The event's subject is the UDID of `data`, or without one SERIAL_SUBJECT_PREFIX and the
        serial number. Every event has the SHA-256 of `raw`. The payload's first event also has the
        redacted bytes in base64, if `redacted` is set and not over MAX_KEPT_BYTES.
        """
        name = kind.model_fields["type"].default  # type: ignore[attr-defined]
        subject = data.udid or SERIAL_SUBJECT_PREFIX + data.serial
        kept: dict[str, str] = {}
        if not self.events and self.redacted is not None and len(self.redacted) <= MAX_KEPT_BYTES:
            kept["rawbase64"] = base64.b64encode(self.redacted).decode()
        event = kind(
            id=event_id(self.source, name, subject, self.identity or self.raw),
            source=f"urn:drydock:device:{self.source}",
            subject=subject,
            time=at,
            rawsha256=hashlib.sha256(self.raw).hexdigest(),
            rawmediatype=self.media_type,
            data=without_secrets(data, self.redactor),
            **kept,
        )
        self.events.append(event)

    def refuse(self, error: PayloadError) -> Translation:
        """Return a translation without events: dead letters for earlier problems, then for `error`.

        Events added before are dropped.
        """
        self.events.clear()
        self.problems.found.append(error)
        return self.translation()

    def translation(self) -> Translation:
        """Return the events in the order added, and one dead letter for each problem."""
        letters = tuple(
            make_dead_letter(
                Problem(problem.code, self.redactor.text(problem.detail), problem.where),
                self.raw,
                source=self.source,
                origin=self.origin,
                received_at=self.received_at,
                redacted=self.redacted,
            )
            for problem in self.problems.found
        )
        return Translation(tuple(self.events), letters)
