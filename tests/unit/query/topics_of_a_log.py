"""The records that a fleet would have in its topics, from the log of the embedded service."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.embedded.log import Log
from pipeline.query.time_merge import TopicRecord
from schemas.envelope import (
    AdvisoryEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    decode,
)
from schemas.topics import ADVISORIES, CONTROL, DEAD_LETTERS, DECISIONS, ORDERS, RESULTS
from tests.factories import topic_of
from tests.factories.sites import signed_control, signed_withdrawal


def topic_records(data_dir: Path) -> Iterator[TopicRecord]:
    """Yield the records in the order of the log, one ms apart, each topic with one partition."""
    next_offset: dict[str, int] = {}
    with Log.open(data_dir) as log:
        found = [*log.entries()]
        letters = log.dead_letters()
    for number, entry in enumerate(found):
        topic, raw = DECISIONS.name, entry.body
        if entry.kind == "event":
            event = decode(raw)
            if isinstance(event, JobSupersededEvent):
                topic, raw = ORDERS.name, signed_withdrawal(event)
            elif isinstance(event, JobIssuedEvent):
                topic = ORDERS.name
            elif isinstance(event, JobResultedEvent):
                topic = RESULTS.name
            elif isinstance(event, AdvisoryEvent):
                topic = ADVISORIES.name
            else:
                topic = topic_of(event)
            if topic == CONTROL.name:
                raw = signed_control(event)  # type: ignore[arg-type]
        yield _record(topic, next_offset, number, entry.key, raw)
    for letter in letters:
        yield _record(DEAD_LETTERS.name, next_offset, len(found), "", letter.body)


def _record(
    topic: str, next_offset: dict[str, int], stored_ms: int, key: str, raw: bytes
) -> TopicRecord:
    offset = next_offset.get(topic, 0)
    next_offset[topic] = offset + 1
    return TopicRecord(topic, 0, offset, stored_ms, key.encode(), raw)
