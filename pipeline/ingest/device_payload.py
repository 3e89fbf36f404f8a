"""One device source's payload under translation: the events made of it, and what is set aside.

Ids are of content. An event's id is derived from the source, the event's type and the payload
(JSON in canonical form), never from when it was received: the same body delivered twice is the
same event. Nothing is left out of the payload for it, its own id and time included, so a Mac's
retry, which its server stamps anew, is another event. That is meant: one id for two times would
make the outcome depend on which came first, and NanoMDM's queue does make a Mac run a command
twice and answer with the same bytes. The folds are idempotent; a repeated fact changes nothing.
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
from pipeline.ingest.translation import MAX_KEPT_BYTES, PayloadError, Translation, dead_letter
from schemas.dead_letters import DeadLetterCode
from schemas.envelope import DeviceEvent, Event, InventoryEvent
from schemas.events.inventory import InventoryReported, InventorySource
from schemas.ids import SERIAL_SUBJECT_PREFIX, event_id

JSON: Final = "application/json"
PLIST: Final = "application/x-plist"

_CLOCKS_DIFFER: Final = timedelta(days=1)


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same JSON value, however it was laid out."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def plausible_time(reported_at: datetime | None, received_at: datetime) -> datetime:
    """The time a Mac's own clock gave, or that of receipt: a clock that is more than a day ahead
    would make its report outrank every later one."""
    return (
        received_at
        if reported_at is None or reported_at > received_at + _CLOCKS_DIFFER
        else reported_at
    )


@dataclass(slots=True)
class DevicePayload:
    """The bytes, what may be kept of them (`redacted`, None until secrets were cut out) and what
    became of them so far. `identity` is what event ids are derived from."""

    source: str
    raw: bytes
    origin: str
    received_at: datetime
    identity: bytes = b""
    redacted: bytes | None = None
    media_type: str = JSON
    problems: Problems = field(default_factory=Problems)
    events: list[Event] = field(default_factory=list)

    def keep_redacted(self, redact: Callable[[Any], bytes], value: Any) -> None:
        """Take the redacted bytes of the parsed payload. Where the payload is larger than what is
        kept, no work is spent on it."""
        if len(self.raw) <= MAX_KEPT_BYTES:
            self.redacted = redact(value)

    def add_inventory(self, source: InventorySource, at: datetime, /, **facts: Any) -> None:
        """Add an inventory report of these facts; None ones are left out."""
        known = {name: value for name, value in facts.items() if value is not None}
        data = self.validate(InventoryReported, source=source, **known)
        if data is not None:
            self.add_event(InventoryEvent, data, at)

    def validate(self, kind: Callable[..., Any], /, **values: Any) -> Any:
        """The checked model, or None and a note: what is read by Fields fits every model, so
        this catches only a limit that the two do not share."""
        try:
            return kind(**values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self.problems.add(DeadLetterCode.BAD_VALUE, first["msg"], where)
            return None

    def add_event(self, kind: Callable[..., DeviceEvent], data: Any, at: datetime) -> None:
        """Add an event. The first of a payload carries its redacted bytes, all carry its hash."""
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
            data=data,
            **kept,
        )
        self.events.append(event)

    def refuse(self, error: PayloadError) -> Translation:
        """The whole payload is set aside, for this reason and those noted before."""
        self.events.clear()
        self.problems.found.append(error)
        return self.translation()

    def translation(self) -> Translation:
        """What became of the payload: its events, and one dead letter for each part set aside."""
        letters = tuple(
            dead_letter(
                problem,
                self.raw,
                source=self.source,
                origin=self.origin,
                received_at=self.received_at,
                redacted=self.redacted,
            )
            for problem in self.problems.found
        )
        return Translation(tuple(self.events), letters)
