"""Admission of the events that were translated from one payload."""

import base64
from datetime import datetime

from pipeline.ingest.translation import Translation
from pipeline.trust.admission import admit
from pipeline.trust.senders import Sender
from schemas.dead_letters import DeadLetter, Problem, make_dead_letter
from schemas.envelope import AdvisoryEvent, DeviceEvent, Event


def admit_translation(
    done: Translation,
    raw: bytes,
    sender: Sender,
    *,
    source: str,
    origin: str,
    received_at: datetime,
) -> Translation:
    """Return the translation of the payload `raw` with its admitted events.

    A refused event becomes a dead letter with the payload's redacted bytes, as far as the event has
    them. Every dead letter has the sender.
    """
    events: list[Event] = []
    refused: list[DeadLetter] = []
    for event in done.events:
        assert isinstance(event, DeviceEvent | AdvisoryEvent), event.type
        admitted = admit(event, sender, received_at, is_translated=True)
        if not isinstance(admitted, Problem):
            events.append(admitted)
            continue
        kept = None if event.rawbase64 is None else base64.b64decode(event.rawbase64)
        refused.append(
            make_dead_letter(
                admitted,
                raw,
                source=source,
                origin=origin,
                received_at=received_at,
                redacted=kept,
                sender=sender.recorded_name,
            )
        )
    letters = [one.model_copy(update={"sender": sender.recorded_name}) for one in done.dead_letters]
    return Translation(tuple(events), (*letters, *refused))
