"""Inputs of transactions: from a feed document, and from the bytes of a dead letter."""

import base64
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pipeline.embedded.log import StoredDeadLetter
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import AcceptedInput, WriteRequest
from pipeline.gateway.payloads import translate
from pipeline.ingest.feed_review import REFUSALS, review
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS
from pipeline.ingest.translation import Translation
from schemas.dead_letters import DeadLetter
from schemas.envelope import InvalidEvent, decode
from schemas.feeds import FeedSource, FeedState


def feed(source: FeedSource, raw: bytes, *, accept_losses: bool = False) -> WriteRequest:
    """Return the request that stores the new entries of a whole feed document.

    New releases and CVEs are found by comparison with the stored state of the feed. A refused
    document gives no events; only its new dead letters are stored. The response has `outcome`, the
    numbers `events` and `dead_letters`, and for a refused document the reason as `refused`.
    `accept_losses` accepts a document that lacks many earlier entries.
    """
    name = f"feed:{source}"

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        state = _feed_state(source, service.store.setting(name))
        reviewed = review(
            raw,
            state,
            origin=f"feed/{source}",
            now=now,
            fixed=service.reconciler.fleet.advisories.cves,
            accept_losses=accept_losses,
        )
        response: dict[str, Any] = {
            "outcome": reviewed.outcome.value,
            "events": len(reviewed.events),
            "dead_letters": len(reviewed.dead_letters),
        }
        if reviewed.outcome in REFUSALS:
            response["refused"] = reviewed.detail
        settings = (
            {} if reviewed.state == state else {name: reviewed.state.model_dump_json().encode()}
        )
        return AcceptedInput(
            reviewed.events, reviewed.dead_letters, settings=settings, response=response
        )

    return prepare


def _feed_state(source: FeedSource, kept: bytes | None) -> FeedState:
    """Return the stored state; an empty one if none is stored or it cannot be read."""
    try:
        return FeedState(source=source) if kept is None else FeedState.model_validate_json(kept)
    except ValidationError:
        # Stored by another version. An empty state publishes the whole feed again; folding a
        # repeat changes nothing.
        return FeedState(source=source)


def retranslate(letter: StoredDeadLetter, now: datetime, redactor: Redactor) -> Translation:
    """Return the events of a dead letter's bytes, translated by today's code.

    Of a webhook's payload the parts that are still unusable are dead letters of the translation.
    Raises ValueError if the bytes were not kept, or those of another dead letter are still not an
    event.
    """
    dead_letter = DeadLetter.model_validate_json(letter.body)
    if dead_letter.raw is None:
        raise ValueError("its bytes were not kept")
    raw = base64.b64decode(dead_letter.raw)
    if dead_letter.source in TRANSLATORS:
        return translate(dead_letter.source, raw, dead_letter.origin, now, redactor)
    try:
        return Translation(events=(decode(raw),))
    except InvalidEvent as error:
        raise ValueError(f"it is not an event: {error}") from None
