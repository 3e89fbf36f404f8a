"""What the advisory feeds share: reading foreign JSON by place, and the events made of it.

A feed is one document about many releases. What is wrong with one part is set aside with that
part's own bytes, and the rest is translated.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from pipeline.ingest.translation import PayloadError, Translation, dead_letter
from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.envelope import (
    AdvisoryEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
)
from schemas.events.advisory import (
    AdvisoryNarrowed,
    AdvisoryPublished,
    AdvisoryRetracted,
    AdvisorySeverityRaised,
    AdvisorySnapshot,
)
from schemas.ids import event_id
from schemas.macos import Build, OSVersion, parse_build, parse_os_version

# More than any release has (SOFA's longest: 165 CVEs, 88 device ids); an event stays far below
# what `schemas.envelope.decode` takes.
MAX_LISTED: Final = 5_000
# A document of nothing but wrong parts must not become millions of dead letters.
MAX_DEAD_LETTERS: Final = 1_000
# Dates outside are typing errors: Mac OS X 10.0 came out in 2001.
_FIRST_YEAR: Final = 2001
_LAST_YEAR: Final = 2100
_CLOCKS_DIFFER: Final = timedelta(days=1)

_CVE: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,12}")
_DEVICE_ID: Final = re.compile(r"[!-~]{1,64}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,24}(?:Z|[+-][0-9:]{4,6})?")

_EVENTS: Final[Mapping[type[AdvisorySnapshot], type[Any]]] = {
    AdvisoryPublished: AdvisoryPublishedEvent,
    AdvisorySeverityRaised: AdvisorySeverityRaisedEvent,
    AdvisoryNarrowed: AdvisoryNarrowedEvent,
    AdvisoryRetracted: AdvisoryRetractedEvent,
}

T = TypeVar("T", bound=AdvisorySnapshot)


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value and its place in the document, such as `$.OSVersions[2].Latest`."""

    value: Any
    where: str = "$"

    def error(self, detail: str, code: DeadLetterCode = DeadLetterCode.BAD_SHAPE) -> PayloadError:
        """What is wrong here."""
        return PayloadError(code, detail, self.where)

    def get(self, key: str) -> "Node":
        """A member of this object; its value is None where there is none. PayloadError: this is
        no object."""
        if not isinstance(self.value, dict):
            raise self.error("not an object")
        return Node(self.value.get(key), f"{self.where}.{key}")

    def items(self) -> Iterator["Node"]:
        """The items of this array; nothing where it is absent. PayloadError: no array."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            raise self.error("not an array")
        for at, item in enumerate(self.value):
            yield Node(item, f"{self.where}[{at}]")

    def members(self) -> Iterator[tuple[str, "Node"]]:
        """The members of this object; nothing where it is absent. PayloadError: no object."""
        if self.value is None:
            return
        if not isinstance(self.value, dict):
            raise self.error("not an object")
        for key, value in self.value.items():
            yield key, Node(value, f"{self.where}.{key}")

    def text(self) -> str:
        """This string without space around it, "" where it is absent. PayloadError: no string."""
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise self.error("not a string")
        return self.value.strip()

    def version(self) -> OSVersion:
        """This macOS version. PayloadError: absent or not one."""
        text = self.text()
        try:
            return parse_os_version(text)
        except ValueError as error:
            raise self.error(str(error), DeadLetterCode.BAD_VALUE) from None

    def build(self) -> Build | None:
        """This build, None where it is blank. PayloadError: not one."""
        text = self.text()
        try:
            return parse_build(text) if text else None
        except ValueError as error:
            raise self.error(str(error), DeadLetterCode.BAD_VALUE) from None

    def cve(self) -> str:
        """This CVE id. PayloadError: not one."""
        text = self.text()
        if not _CVE.fullmatch(text):
            raise self.error("not a CVE id", DeadLetterCode.BAD_VALUE)
        return text

    def device_id(self) -> str:
        """This SoftwareUpdateDeviceID. PayloadError: not one."""
        text = self.text()
        if not _DEVICE_ID.fullmatch(text):
            raise self.error("not a device id", DeadLetterCode.BAD_VALUE)
        return text

    def day(self) -> date | None:
        """The day of this date or time of day, None where it is blank. PayloadError: no date."""
        instant = self.instant()
        return None if instant is None else instant.date()

    def instant(self) -> datetime | None:
        """This date (its midnight) or time, UTC unless it says otherwise; None where it is blank.
        PayloadError: neither, or of no plausible year."""
        text = self.text()
        if not text:
            return None
        try:
            if _DAY.fullmatch(text):
                found = datetime.combine(date.fromisoformat(text), time(), UTC)
            elif _INSTANT.fullmatch(text):
                found = datetime.fromisoformat(text)
            else:
                raise ValueError("not a date")
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
            if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
                raise ValueError("year out of range")
        except (ValueError, OverflowError):
            raise self.error("not a date", DeadLetterCode.BAD_VALUE) from None
        return found


@dataclass(slots=True)
class FeedDocument:
    """One document under translation: makes its events and keeps what had to be set aside."""

    source: str
    raw: bytes
    origin: str
    received_at: datetime
    dead_letters: list[DeadLetter] = field(default_factory=list)
    unlisted: int = 0
    raw_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        self.raw_sha256 = hashlib.sha256(self.raw).hexdigest()

    def refuse(self, error: PayloadError) -> Translation:
        """The whole document is set aside."""
        self._add_letter(error, self.raw)
        return self.translation()

    def add_dead_letter(self, error: PayloadError, part: Node) -> None:
        """A part is set aside, with its own bytes as JSON; the rest goes on."""
        if len(self.dead_letters) < MAX_DEAD_LETTERS:
            text = json.dumps(part.value, ensure_ascii=False, separators=(",", ":"))
            self._add_letter(error, text.encode())
        else:
            self.unlisted += 1

    def _add_letter(self, error: PayloadError, raw: bytes) -> None:
        letter = dead_letter(
            error,
            raw,
            source=self.source,
            origin=self.origin,
            received_at=self.received_at,
            redacted=raw,  # feeds are public: nothing to cut out
        )
        self.dead_letters.append(letter)

    def newest(self, instants: Iterable[datetime | None]) -> datetime | None:
        """The newest of these that is not in the future: a date mistyped into next year would
        outrank every later word on the same release."""
        latest = self.received_at + _CLOCKS_DIFFER
        return max((one for one in instants if one is not None and one <= latest), default=None)

    def event(self, data: AdvisorySnapshot, *, subject: str, at: datetime) -> AdvisoryEvent:
        """The event of a fact. Its id is of what it says, so reading the same file again gives the
        same ids; `expires_at` is left out, as Apple's servers push it on with nothing new."""
        kind = _EVENTS[type(data)]
        content = data.model_dump_json(exclude={"expires_at"}, exclude_none=True)
        name = kind.model_fields["type"].default
        event: AdvisoryEvent = kind(
            id=event_id(self.source, name, subject, at.isoformat(), content),
            source=f"urn:drydock:feed:{self.source}",
            subject=subject,
            time=at,
            rawsha256=self.raw_sha256,
            data=data,
        )
        return event

    def translation(self, events: Iterable[AdvisoryEvent] = ()) -> Translation:
        """These events and all that was set aside: past MAX_LETTERS parts, the document itself."""
        if self.unlisted:
            detail = f"{self.unlisted} more parts that cannot be read"
            self._add_letter(PayloadError(DeadLetterCode.BAD_SHAPE, detail, "$"), self.raw)
        return Translation(tuple(events), tuple(self.dead_letters))


def make_snapshot(kind: type[T], where: str, **values: Any) -> T:
    """A checked snapshot. PayloadError: bad_value, at `where`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise PayloadError(DeadLetterCode.BAD_VALUE, detail, where) from None


def end_of_day(day: date) -> datetime:
    """The last second of a day, UTC."""
    return datetime.combine(day, time(23, 59, 59), UTC)
