"""Dead letters of a worker: the reason and the bytes of a record that it cannot use. Pure."""

import json
from contextlib import suppress
from datetime import datetime
from typing import Final

from pipeline.processors.shard_output import OutgoingRecord
from schemas.dead_letters import DeadLetterReason, encode_dead_letter, make_dead_letter
from schemas.outline import outline
from schemas.routing import route_dead_letter
from schemas.topics import partition_of

SOURCE: Final = "/drydock/worker"


def sender_of(raw: bytes) -> str:
    """Return the sender in a record that cannot be used; empty if it has none."""
    with suppress(ValueError, RecursionError):
        event = json.loads(raw)
        if isinstance(event, dict):
            return str(event.get("sender", ""))
    return ""


def dead_letter_record(
    reason: DeadLetterReason,
    raw: bytes,
    *,
    origin: str,
    now: datetime,
    partition_count: int,
    is_proven: bool,
) -> OutgoingRecord:
    """Return the dead letter of the record `raw`, read at `now`, to publish.

    `origin` is `topic/partition/offset`, or the UDID if deciding failed. `partition_count` is that
    of the topic of dead letters. `is_proven`: a gateway, a feed or a worker made the record, so it
    was redacted before it was published and its bytes are kept; of others the outline is.
    """
    redacted = raw if is_proven else outline(raw)
    letter = make_dead_letter(
        reason, raw, source=SOURCE, origin=origin, received_at=now, redacted=redacted
    )
    topic, key = route_dead_letter(letter)
    partition = partition_of(key, partition_count)
    return OutgoingRecord(topic, partition, key.encode(), encode_dead_letter(letter))
