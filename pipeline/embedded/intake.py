"""From what was posted to what is made durable in one transaction."""

import base64
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pipeline.embedded.log import SetAside
from pipeline.embedded.service import Service
from pipeline.embedded.worker import Input, Prepare
from pipeline.gateway.intake import read_events, translate
from pipeline.ingest.outcome import Translation
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import DIFF_TRANSLATORS, TRANSLATORS
from schemas.dead_letters import DeadLetter
from schemas.envelope import InvalidEvent, decode

FEED_SOURCES: Final = ("sofa", "gdmf", "kev")


def webhook(source: str, raw: bytes, redactor: Redactor) -> Prepare:
    """A webhook's payload. Its sender will not repeat it: what cannot be used is set aside."""

    def prepare(_: Service, now: datetime) -> Input:
        origin = f"webhook/{source}"
        return _input(translate(source, raw, origin, now, redactor))

    return prepare


def feed(source: str, raw: bytes, redactor: Redactor) -> Prepare:
    """A whole advisory feed. What it says anew is told from what it said last, which is kept."""
    name = f"feed:{source}"

    def prepare(service: Service, now: datetime) -> Input:
        previous = service.store.fact(name) if source in DIFF_TRANSLATORS else None
        done = translate(source, raw, f"feed/{source}", now, redactor, previous=previous)
        # One that could not be read in full must not be what the next is compared with.
        notes = {name: raw} if source in DIFF_TRANSLATORS and not done.dead_letters else {}
        made = _input(done)
        return replace(made, notes=notes)

    return prepare


def events(raw: bytes) -> Prepare:
    """CloudEvents: one, a JSON array of them, or JSON lines. All are taken, or none.

    Raises RejectedError when prepared, with the place of each that cannot be.
    """

    def prepare(_: Service, __: datetime) -> Input:
        found = read_events(raw)
        return Input(events=found, answer={"events": len(found), "dead_letters": 0})

    return prepare


def again(letter: SetAside, now: datetime, redactor: Redactor) -> Translation:
    """What a dead letter gives now: the code that set it aside may have been mended.

    Raises ValueError where no bytes were kept or nothing translates its source.
    """
    said = DeadLetter.model_validate_json(letter.body)
    if said.raw is None:
        raise ValueError("its bytes were not kept")
    raw = base64.b64decode(said.raw)
    if said.source in TRANSLATORS:
        return translate(said.source, raw, said.origin, now, redactor)
    try:
        return Translation(events=(decode(raw),))
    except InvalidEvent as error:
        raise ValueError(f"it is no event: {error}") from None


def _input(done: Translation) -> Input:
    answer: dict[str, Any] = {"events": len(done.events), "dead_letters": len(done.dead_letters)}
    return Input(done.events, done.dead_letters, answer=answer)
