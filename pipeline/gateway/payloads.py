"""Turns a request's body into events: translates payloads, decodes and checks events."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final, NamedTuple

from pipeline.gateway.endpoint import HttpError
from pipeline.ingest.device_payload import DevicePayload
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.retained_events import retained_event
from pipeline.ingest.sources import READ_FIELDS, TRANSLATORS
from pipeline.ingest.translation import PayloadError, Translation
from pipeline.trust.admission import admit
from pipeline.trust.senders import EVENTS, Sender
from schemas.dead_letters import DeadLetter, DeadLetterCode, Problem, make_dead_letter
from schemas.envelope import AdvisoryEvent, DeviceEvent, InvalidEvent, OutsideEvent, decode, encode

EVENTS_ORIGIN: Final = "v1/events"
_MAX_ERRORS: Final = 100
MAX_EVENTS: Final = 10_000
"""Events that a sender without a limit of its own may send in one request."""
# An empty array takes 3 bytes of text and 64 of memory. An event has about 30 values.
_MAX_VALUES: Final = 1_000_000
# JSON lines: the second line that is not empty begins an object too.
_IS_LINES: Final = re.compile(rb"\{[^\n]*\n\s*\{")
_LINE: Final = re.compile(rb"\S[^\n]*")


@dataclass(frozen=True, slots=True)
class EventProblem:
    """One invalid part of one event.

    `where` is its JSON path, after `line N: ` in JSON lines; `code` is a DeadLetterCode.
    """

    where: str
    code: str
    detail: str


class RejectedError(HttpError):
    """A batch with invalid events (HTTP 400). No event of the batch is accepted.

    `dead_letters` has the events that their sender may not submit.
    """

    def __init__(
        self, problems: Sequence[EventProblem], dead_letters: Sequence[DeadLetter] = ()
    ) -> None:
        detail = f"{len(problems)} of the events are invalid; none is accepted"
        super().__init__(400, detail, errors=[asdict(problem) for problem in problems])
        self.problems = tuple(problems)
        self.dead_letters = tuple(dead_letters)


class PlacedEvent(NamedTuple):
    """An event and its position in the body: `$`, `$[0]`, or `line 1: $`."""

    where: str
    event: OutsideEvent


def read_events(raw: bytes, limit: int = MAX_EVENTS) -> list[PlacedEvent]:
    """Return the CloudEvents of a body, in order: one, a JSON array of them, or JSON lines.

    An empty array gives an empty list. Raises RejectedError with the first 100 problems, after
    which nothing more is read; an empty body is one. An event of a type that only Drydock itself
    publishes is a problem too. Raises HttpError (413) for more than `limit` events.
    """
    found: list[PlacedEvent] = []
    problems: list[EventProblem] = []
    for number, (where, text) in enumerate(_split(raw), 1):
        if number > limit:
            raise HttpError(413, f"more than {limit} events; send fewer at once")
        try:
            found.append(PlacedEvent(where, _read_event(where, text)))
        except RejectedError as error:
            problems += error.problems
            if len(problems) == _MAX_ERRORS:
                break
    if problems:
        raise RejectedError(problems)
    return found


def _read_event(where: str, text: bytes) -> OutsideEvent:
    """Return the event of a text at a position. Raises RejectedError with its one problem."""
    try:
        event = decode(text)
    except InvalidEvent as error:
        location = where + error.where.removeprefix("$")
        raise RejectedError([EventProblem(location, error.code, error.detail)]) from None
    if not isinstance(event, DeviceEvent | AdvisoryEvent):
        detail = f"{event.type} is not accepted from senders"
        raise RejectedError(
            [EventProblem(f"{where}.type", DeadLetterCode.UNKNOWN_TYPE.value, detail)]
        )
    return event


def admit_events(
    placed: Sequence[PlacedEvent], sender: Sender, received_at: datetime, redactor: Redactor
) -> list[OutsideEvent]:
    """Return the events as they are stored, in order: without secrets.

    Raises RejectedError with the first 100 problems if the sender may not submit one of them, or an
    identity is unusable.
    """
    found: list[OutsideEvent] = []
    problems: list[EventProblem] = []
    refused: list[DeadLetter] = []
    for where, sent in placed:
        event = retained_event(sent, redactor)
        admitted = admit(event, sender, received_at, is_translated=False)
        if not isinstance(admitted, Problem):
            found.append(admitted)
        elif len(problems) < _MAX_ERRORS:
            location = where + admitted.where.removeprefix("$")
            problems.append(EventProblem(location, admitted.code.value, admitted.detail))
            raw = encode(event)
            refused.append(
                make_dead_letter(
                    *(admitted, raw),
                    source=EVENTS,
                    origin=EVENTS_ORIGIN,
                    received_at=received_at,
                    redacted=raw,
                    sender=sender.recorded_name,
                )
            )
    if problems:
        raise RejectedError(problems, refused)
    return found


def _split(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the position and the bytes of each event, in order.

    The position is `$` for one event, `$[0]` in an array, `line 1: $` in JSON lines. Raises
    RejectedError if an array is not valid JSON.
    """
    text = raw.strip()
    if text.startswith(b"["):
        try:
            items = load_json(text, max_values=_MAX_VALUES)
        except PayloadError as error:
            raise RejectedError(
                [EventProblem(error.where, error.code.value, error.detail)]
            ) from None
        for index, item in enumerate(items):
            yield f"$[{index}]", json.dumps(item).encode()
        return
    if _IS_LINES.match(text) is None:
        yield "$", text
        return
    number, counted = 1, 0
    for line in _LINE.finditer(text):
        number += text.count(b"\n", counted, line.start())
        counted = line.start()
        yield f"line {number}: $", line[0]


def translate(
    source: str,
    raw: bytes,
    origin: str,
    now: datetime,
    redactor: Redactor,
) -> Translation:
    """Return the events of a payload, and a dead letter for each part that is unusable.

    An unhandled exception of the translator becomes a dead letter with code `bug`; nothing is
    raised. `source` selects the translator; `origin` is written to the dead letters.
    """
    try:
        return TRANSLATORS[source](raw, origin=origin, received_at=now, redactor=redactor)
    except Exception as error:  # noqa: BLE001 - the handler's top: our bug loses no payload
        bug = PayloadError(DeadLetterCode.BUG, f"{type(error).__name__}: {error}")
        payload = DevicePayload(source, raw, origin, now, redactor)
        # Bytes that cannot be searched for secrets are not kept.
        with suppress(Exception):
            payload.keep(load_json(raw), READ_FIELDS[source])
        return payload.refuse(bug)
