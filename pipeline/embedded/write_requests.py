"""Inputs of transactions: from a feed document, and from the bytes of a dead letter."""

import base64
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pipeline.embedded.log import StoredDeadLetter
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import AcceptedInput, WriteRequest
from pipeline.embedded.store import Store
from pipeline.gateway.payloads import translate
from pipeline.ingest.feed_review import REFUSALS, review
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS
from pipeline.ingest.translation import Translation
from pipeline.trust.admission import admit
from pipeline.trust.senders import EVENTS, Sender
from pipeline.trust.translated import admit_translation
from schemas.dead_letters import DeadLetter, Problem
from schemas.envelope import AdvisoryEvent, DeviceEvent, InvalidEvent, decode
from schemas.feeds import FeedSource, FeedState


def feed(
    source: FeedSource, raw: bytes, sender: Sender, *, accept_losses: bool = False
) -> WriteRequest:
    """Return the request that stores the new entries of a whole feed document.

    New releases and CVEs are found by comparison with the stored state of the feed. A refused
    document gives no events; only its new dead letters are stored. The response has `outcome`, the
    numbers `events` and `dead_letters`, `document_at` (the date inside the newest accepted
    document, if it is known), and for a refused document the reason as `refused`.
    `sender` is the login that delivered it. `accept_losses` accepts a document that lacks many
    earlier entries.
    """
    name = f"feed:{source}"

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        state = _feed_state(source, service.store, name)
        reviewed = review(
            raw,
            state,
            origin=f"feed/{source}",
            now=now,
            fixed=service.reconciler.fleet.advisories.cves,
            accept_losses=accept_losses,
        )
        admitted = admit_translation(
            Translation(reviewed.events, reviewed.dead_letters),
            raw,
            sender,
            source=source,
            origin=f"feed/{source}",
            received_at=now,
        )
        response: dict[str, Any] = {
            "outcome": reviewed.outcome.value,
            "events": len(admitted.events),
            "dead_letters": len(admitted.dead_letters),
        }
        if reviewed.state.document_at is not None:
            response["document_at"] = reviewed.state.document_at.isoformat()
        if reviewed.outcome in REFUSALS:
            response["refused"] = reviewed.detail
        settings = (
            {} if reviewed.state == state else {name: reviewed.state.model_dump_json().encode()}
        )
        return AcceptedInput(
            admitted.events, admitted.dead_letters, settings=settings, response=response
        )

    return prepare


def _feed_state(source: FeedSource, store: Store, name: str) -> FeedState:
    """Return the stored state; an empty one if none is stored or it cannot be read."""
    try:
        kept = store.setting(name)
        return FeedState(source=source) if kept is None else FeedState.model_validate_json(kept)
    except ValueError:
        # Damaged, or stored by another version. An empty state publishes the whole feed again;
        # folding a repeat changes nothing.
        return FeedState(source=source)


def retranslate(
    letter: StoredDeadLetter,
    now: datetime,
    redactor: Redactor,
    sender_of: Callable[[str], Sender | None],
) -> Translation:
    """Return the events of a dead letter's bytes, translated and admitted by today's code.

    They are admitted as those of the sender that delivered them, at the time of the first receipt.
    `sender_of` returns the sender of a name. Of a webhook's payload the parts that are still
    unusable are dead letters of the translation. Raises ValueError if the bytes were not kept, its
    sender is unknown or may not submit them, or those of another dead letter are still not an
    event.
    """
    dead_letter = DeadLetter.model_validate_json(letter.body)
    if dead_letter.raw is None:
        raise ValueError("its bytes were not kept")
    raw, source = base64.b64decode(dead_letter.raw), dead_letter.source
    # Without a sender: a dead letter of a version before 0.1.0, or of an event of Drydock's own.
    sender = sender_of(source if dead_letter.sender is None else dead_letter.sender)
    received_at = dead_letter.received_at or now
    if source in TRANSLATORS and sender is None:
        raise ValueError(f"no sender {dead_letter.sender!r} is configured")
    if source in TRANSLATORS and sender is not None:
        return admit_translation(
            translate(source, raw, dead_letter.origin, received_at, redactor),
            raw,
            sender,
            source=source,
            origin=dead_letter.origin,
            received_at=received_at,
        )
    try:
        event = decode(raw)
    except InvalidEvent as error:
        raise ValueError(f"it is not an event: {error}") from None
    if not isinstance(event, DeviceEvent | AdvisoryEvent):
        return Translation(events=(event,))
    if sender is None:
        raise ValueError(f"no sender {dead_letter.sender!r} is configured")
    # An event that was stored has passed this check before, with Drydock's own source.
    admitted = admit(event, sender, received_at, is_translated=source != EVENTS)
    if isinstance(admitted, Problem):
        raise ValueError(f"{admitted.where}: {admitted.detail}")
    return Translation(events=(admitted,))
