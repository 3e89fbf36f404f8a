"""From what was posted to what is made durable in one transaction."""

import base64
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pipeline.embedded.log import SetAside
from pipeline.embedded.service import Service
from pipeline.embedded.worker import Input, Prepare
from pipeline.gateway.intake import read_events, translate
from pipeline.ingest.judging import REFUSALS, judge
from pipeline.ingest.outcome import Translation
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS
from schemas.dead_letters import DeadLetter
from schemas.envelope import InvalidEvent, decode
from schemas.feeds import FeedSource, FeedState


def webhook(source: str, raw: bytes, redactor: Redactor) -> Prepare:
    """A webhook's payload. Its sender will not repeat it: what cannot be used is set aside."""

    def prepare(_: Service, now: datetime) -> Input:
        origin = f"webhook/{source}"
        return _input(translate(source, raw, origin, now, redactor))

    return prepare


def feed(source: FeedSource, raw: bytes, *, accept_losses: bool = False) -> Prepare:
    """A whole advisory feed. What it says anew is told from all that it said so far, which is
    kept; a document that is not believed changes nothing."""
    name = f"feed:{source}"

    def prepare(service: Service, now: datetime) -> Input:
        state = _feed_state(source, service.store.fact(name))
        judged = judge(
            raw,
            state,
            origin=f"feed/{source}",
            now=now,
            fixed=service.engine.fleet.advisories.cves,
            accept_losses=accept_losses,
        )
        answer: dict[str, Any] = {
            "outcome": judged.outcome.value,
            "events": len(judged.events),
            "dead_letters": len(judged.dead_letters),
        }
        if judged.outcome in REFUSALS:
            answer["refused"] = judged.detail
        kept = {} if judged.state == state else {name: judged.state.model_dump_json().encode()}
        return Input(judged.events, judged.dead_letters, notes=kept, answer=answer)

    return prepare


def _feed_state(source: FeedSource, kept: bytes | None) -> FeedState:
    try:
        return FeedState(source=source) if kept is None else FeedState.model_validate_json(kept)
    except ValidationError:
        # Another version's: to tell all of it again does no harm.
        return FeedState(source=source)


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
