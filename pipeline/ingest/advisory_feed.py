"""Parts that all advisory feeds share: a checked view of foreign JSON, and a builder of events.

A feed is one document about many releases. A part that cannot be read becomes a dead letter with
the bytes of that part, and the rest of the document is translated.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetter, DeadLetterCode, make_dead_letter
from schemas.envelope import (
    AdvisoryCorrectedEvent,
    AdvisoryEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
)
from schemas.events.advisory import (
    AdvisoryCorrected,
    AdvisoryNarrowed,
    AdvisoryPublished,
    AdvisoryRetracted,
    AdvisorySeverityRaised,
    AdvisorySnapshot,
)
from schemas.ids import event_id
from schemas.macos import Build, OSVersion, parse_build, parse_os_version

# Above every real release (SOFA's longest lists: 165 CVEs, 88 device ids), and far below the
# size limit of `schemas.envelope.decode`.
MAX_LISTED: Final = 5_000
# A document with only wrong parts must not become millions of dead letters.
MAX_DEAD_LETTERS: Final = 1_000
# Dates outside these years are typing errors: Mac OS X 10.0 came out in 2001.
_FIRST_YEAR: Final = 2001
_LAST_YEAR: Final = 2100
_MAX_CLOCK_SKEW: Final = timedelta(days=1)
_SMALLEST_STEP: Final = timedelta(microseconds=1)

_CVE: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,12}")
_DEVICE_ID: Final = re.compile(r"[!-~]{1,64}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,24}(?:Z|[+-][0-9:]{4,6})?")

_EVENTS: Final[Mapping[type[AdvisorySnapshot], type[Any]]] = {
    AdvisoryPublished: AdvisoryPublishedEvent,
    AdvisorySeverityRaised: AdvisorySeverityRaisedEvent,
    AdvisoryNarrowed: AdvisoryNarrowedEvent,
    AdvisoryCorrected: AdvisoryCorrectedEvent,
    AdvisoryRetracted: AdvisoryRetractedEvent,
}

T = TypeVar("T", bound=AdvisorySnapshot)


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value with its path in the document, such as `$.OSVersions[2].Latest`.

    The methods raise PayloadError with this path: `bad_shape` for a wrong type, `bad_value` for a
    text that cannot be parsed. A value of None is one that is absent or null.
    """

    value: Any
    where: str = "$"

    def error(self, detail: str, code: DeadLetterCode = DeadLetterCode.BAD_SHAPE) -> PayloadError:
        """Return, without raising it, a PayloadError that names this path."""
        return PayloadError(code, detail, self.where)

    def get(self, key: str) -> "Node":
        """Return the member `key` of this object; its value is None if it is absent or null.

        Raises PayloadError `bad_shape` if this node is not an object, also if it is None.
        """
        if not isinstance(self.value, dict):
            raise self.error("not an object")
        return Node(self.value.get(key), f"{self.where}.{key}")

    def items(self) -> Iterator["Node"]:
        """Yield the items of this array, in order; nothing if this node is absent or null.

        Raises PayloadError `bad_shape` at the first step if this is any other value.
        """
        if self.value is None:
            return
        if not isinstance(self.value, list):
            raise self.error("not an array")
        for at, item in enumerate(self.value):
            yield Node(item, f"{self.where}[{at}]")

    def members(self) -> Iterator[tuple[str, "Node"]]:
        """Yield the keys and values of this object; nothing if this node is absent or null.

        Raises PayloadError `bad_shape` at the first step if this is any other value.
        """
        if self.value is None:
            return
        if not isinstance(self.value, dict):
            raise self.error("not an object")
        for key, value in self.value.items():
            yield key, Node(value, f"{self.where}.{key}")

    def text(self) -> str:
        """Return this string without surrounding space; "" if it is absent or null.

        Raises PayloadError `bad_shape` if it is any other value.
        """
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise self.error("not a string")
        return self.value.strip()

    def version(self) -> OSVersion:
        """Return this macOS version.

        Raises PayloadError: `bad_value` if it is absent, null, blank or other text, `bad_shape` if
        it is not a string.
        """
        text = self.text()
        try:
            return parse_os_version(text)
        except ValueError as error:
            raise self.error(str(error), DeadLetterCode.BAD_VALUE) from None

    def build(self) -> Build | None:
        """Return this macOS build; None if it is absent, null or blank.

        Raises PayloadError: `bad_value` for other text, `bad_shape` if it is not a string.
        """
        text = self.text()
        try:
            return parse_build(text) if text else None
        except ValueError as error:
            raise self.error(str(error), DeadLetterCode.BAD_VALUE) from None

    def cve(self) -> str:
        """Return this CVE id.

        Raises PayloadError: `bad_value` if it is absent, null, blank or other text, `bad_shape` if
        it is not a string.
        """
        text = self.text()
        if not _CVE.fullmatch(text):
            raise self.error("not a CVE id", DeadLetterCode.BAD_VALUE)
        return text

    def device_id(self) -> str:
        """Return this SoftwareUpdateDeviceID.

        A device id has 1 to 64 printable ASCII characters and no space. Raises PayloadError:
        `bad_value` if it is absent, null, blank or other text, `bad_shape` if it is not a string.
        """
        text = self.text()
        if not _DEVICE_ID.fullmatch(text):
            raise self.error("not a device id", DeadLetterCode.BAD_VALUE)
        return text

    def day(self) -> date | None:
        """Return the UTC day of this date or time; None if it is absent, null or blank.

        Raises PayloadError: `bad_value` for other text and for a year before 2001 or after 2100,
        `bad_shape` if it is not a string.
        """
        instant = self.instant()
        return None if instant is None else instant.date()

    def instant(self) -> datetime | None:
        """Return this date (as its midnight) or time in UTC; None if it is absent, null or blank.

        A time without a zone is read as UTC. Raises PayloadError: `bad_value` for other text and
        for a year before 2001 or after 2100, `bad_shape` if it is not a string.
        """
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
    """One document of a feed under translation: builds its events and collects its dead letters.

    `omitted` counts the unreadable parts after the first MAX_DEAD_LETTERS.
    """

    source: str
    raw: bytes
    origin: str
    received_at: datetime
    dead_letters: list[DeadLetter] = field(default_factory=list)
    omitted: int = 0
    raw_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        self.raw_sha256 = hashlib.sha256(self.raw).hexdigest()

    def refuse(self, error: PayloadError) -> Translation:
        """Return a translation without events, with a dead letter for the whole document.

        The dead letters recorded before come first. If `omitted` is not 0, one for the omitted
        parts comes last.
        """
        self._add_letter(error, self.raw)
        return self.translation()

    def add_dead_letter(self, error: PayloadError, part: Node) -> None:
        """Record a dead letter for one part, so that the caller can go on after this part.

        The dead letter has the part's JSON bytes, unless they are over MAX_KEPT_BYTES. With
        MAX_DEAD_LETTERS recorded, the part is only counted, in `omitted`. Raises nothing.
        """
        if len(self.dead_letters) < MAX_DEAD_LETTERS:
            text = json.dumps(part.value, ensure_ascii=False, separators=(",", ":"))
            self._add_letter(error, text.encode())
        else:
            self.omitted += 1

    def _add_letter(self, error: PayloadError, raw: bytes) -> None:
        letter = make_dead_letter(
            error,
            raw,
            source=self.source,
            origin=self.origin,
            received_at=self.received_at,
            redacted=raw,  # feeds are public: they contain no secrets
        )
        self.dead_letters.append(letter)

    def newest(self, instants: Iterable[datetime | None]) -> datetime | None:
        """Return the newest of these times that is not in the future; None if there is none.

        Items that are None are ignored. In the future means more than one day after `received_at`.
        A date mistyped into next year would outrank every later event about the same release.
        """
        latest = self.received_at + _MAX_CLOCK_SKEW
        return max((one for one in instants if one is not None and one <= latest), default=None)

    def later_than(self, reported_at: datetime | None, at: datetime) -> datetime:
        """Return the time of a document's events: `at`, or one microsecond after `reported_at`.

        The second if `at` is not later than `reported_at`, the time of the feed's earlier events:
        of two statements about one release the later one must have the later time.
        """
        if reported_at is None or at > reported_at:
            return at
        return reported_at + _SMALLEST_STEP

    def event(self, data: AdvisorySnapshot, *, subject: str, at: datetime) -> AdvisoryEvent:
        """Return the event for `data`, with an id derived from its content.

        The class of `data`, a subclass of AdvisorySnapshot, decides the event's type; `at` is its
        time. The id depends only on the source, the type, `subject`, `at` and the fields of `data`
        without `expires_at`: Apple's servers move that date forward although nothing else changes.
        """
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
        """Return these events and all dead letters recorded so far.

        If `omitted` is not 0, one more dead letter, for the whole document, gives that number.
        """
        if self.omitted:
            detail = f"{self.omitted} more parts cannot be read"
            self._add_letter(PayloadError(DeadLetterCode.BAD_SHAPE, detail, "$"), self.raw)
        return Translation(tuple(events), tuple(self.dead_letters))


def make_snapshot(kind: type[T], where: str, **values: Any) -> T:
    """Return a snapshot of class `kind` with these fields.

    Raises PayloadError `bad_value`, with the path `where`, if a field does not fit the model.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise PayloadError(DeadLetterCode.BAD_VALUE, detail, where) from None


def end_of_day(day: date) -> datetime:
    """Return the last second of a day, in UTC."""
    return datetime.combine(day, time(23, 59, 59), UTC)
