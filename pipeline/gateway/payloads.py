"""Turns a request's body into events: translates payloads, decodes and checks events."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final, NamedTuple

from pipeline.gateway.endpoint import HttpError
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS
from pipeline.ingest.translation import PayloadError, Translation
from pipeline.trust.admission import OutsideEvent, admit
from pipeline.trust.senders import EVENTS, Sender
from schemas.dead_letters import DeadLetter, DeadLetterCode, Problem, make_dead_letter
from schemas.envelope import AdvisoryEvent, DeviceEvent, InvalidEvent, decode, encode

EVENTS_ORIGIN: Final = "v1/events"
_MAX_ERRORS: Final = 100


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


def read_events(raw: bytes) -> list[PlacedEvent]:
    """Return the CloudEvents of a body, in order: one, a JSON array of them, or JSON lines.

    An empty array gives an empty list. Raises RejectedError with the first 100 problems; an empty
    body is one. An event of a type that only Drydock itself publishes is a problem too.
    """
    found: list[PlacedEvent] = []
    problems: list[EventProblem] = []
    for where, text in _split(raw):
        try:
            event = decode(text)
        except InvalidEvent as error:
            problems.append(
                EventProblem(where + error.where.removeprefix("$"), error.code, error.detail)
            )
            continue
        if isinstance(event, DeviceEvent | AdvisoryEvent):
            found.append(PlacedEvent(where, event))
        else:
            detail = f"{event.type} is not accepted from senders"
            problems.append(
                EventProblem(f"{where}.type", DeadLetterCode.UNKNOWN_TYPE.value, detail)
            )
    if problems:
        raise RejectedError(problems[:_MAX_ERRORS])
    return found


def admit_events(
    placed: Sequence[PlacedEvent], sender: Sender, received_at: datetime
) -> list[OutsideEvent]:
    """Return the events as they are stored, in order.

    Raises RejectedError with the first 100 problems if the sender may not submit one of them, or an
    identity is unusable; HttpError (413) for more events than the sender may send at once.
    """
    limit = sender.limits.events_per_request
    if limit is not None and len(placed) > limit:
        raise HttpError(413, f"{len(placed)} events; {sender.name} may send {limit} at once")
    found: list[OutsideEvent] = []
    problems: list[EventProblem] = []
    refused: list[DeadLetter] = []
    for where, event in placed:
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


def _split(raw: bytes) -> list[tuple[str, bytes]]:
    """Return the position and the bytes of each event, in order.

    The position is `$` for one event, `$[0]` in an array, `line 1: $` in JSON lines. Raises
    RejectedError if an array is not valid JSON.
    """
    text = raw.strip()
    if text.startswith(b"["):
        try:
            items = load_json(text)
        except PayloadError as error:
            raise RejectedError(
                [EventProblem(error.where, error.code.value, error.detail)]
            ) from None
        return [(f"$[{index}]", json.dumps(item).encode()) for index, item in enumerate(items)]
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith(b"{") for _, line in lines):
        return [(f"line {number}: $", line) for number, line in lines]
    return [("$", text)]


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
        bug = Problem(DeadLetterCode.BUG, f"{type(error).__name__}: {error}")
        letter = make_dead_letter(
            bug,
            raw,
            source=source,
            origin=origin,
            received_at=now,
            redacted=_redacted(raw, redactor),
        )
        return Translation(dead_letters=(letter,))


def _redacted(raw: bytes, redactor: Redactor) -> bytes | None:
    """Return the redacted bytes; None if redaction fails, for example if it is not JSON."""
    try:
        return redactor.json(load_json(raw))
    except Exception:  # noqa: BLE001 - bytes that may hold secrets are not kept
        return None
