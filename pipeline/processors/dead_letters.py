"""Dead letters of a worker: the reason and the bytes of a record that it cannot use. Pure."""

from datetime import datetime
from typing import Final

from pipeline.processors.shard_output import OutgoingRecord
from schemas.dead_letters import DeadLetterReason, encode_dead_letter, make_dead_letter
from schemas.routing import route_dead_letter
from schemas.topics import partition_of

SOURCE: Final = "/drydock/worker"


def dead_letter_record(
    reason: DeadLetterReason, raw: bytes, *, origin: str, now: datetime, partition_count: int
) -> OutgoingRecord:
    """Return the dead letter of the record `raw`, read at `now`, to publish.

    `origin` is `topic/partition/offset`, or the UDID if deciding failed. `partition_count` is that
    of the topic of dead letters.
    """
    # Events were redacted before they were published: their bytes can be kept.
    letter = make_dead_letter(
        reason, raw, source=SOURCE, origin=origin, received_at=now, redacted=raw
    )
    topic, key = route_dead_letter(letter)
    partition = partition_of(key, partition_count)
    return OutgoingRecord(topic, partition, key.encode(), encode_dead_letter(letter))
