"""The topics of a run, read as the same log lines that the embedded form writes."""

import json
from collections import Counter
from datetime import datetime
from typing import Final

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from pipeline.demo.outcome import LogEntry, RunOutcome
from runtime.kafka import KafkaConnection
from schemas.topics import ADVISORIES, CHECKINS, CONTROL, DECISIONS, INVENTORY, ORDERS, RESULTS

_EVENT_TOPICS: Final = (INVENTORY, CHECKINS, ADVISORIES, CONTROL, ORDERS, RESULTS)
_TOPICS: Final = tuple(topic.name for topic in (*_EVENT_TOPICS, DECISIONS))


class Reading:
    """A reader of the topics from their beginning.

    `outcome` is the outcome of the run so far; `records` counts the records read from each topic.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self.outcome = RunOutcome()
        self.records: Counter[str] = Counter()
        self._known: set[tuple[str, str]] = set()
        self._consumer = KafkaConsumer(**connection.consumer_options())
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in _TOPICS
            for partition in self._consumer.partitions_for_topic(topic)
        ]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def read_on(self) -> None:
        """Read all records that the topics have now."""
        ends = self._consumer.end_offsets(self._partitions)
        lines: list[LogEntry] = []
        while any(self._consumer.position(partition) < end for partition, end in ends.items()):
            for place, records in self._consumer.poll(timeout_ms=1000).items():
                self.records[place.topic] += len(records)
                read = _decision if place.topic == DECISIONS.name else self._event
                lines += [line for record in records if (line := read(record.value))]
        # The sort is stable, so a topic keeps its order; a job is issued before it ends.
        for line in sorted(lines, key=lambda one: (one.at, b"job.issued" not in one.body)):
            self.outcome.read_line(line)

    def _event(self, raw: bytes) -> LogEntry | None:
        """Return the line of an event, None for a repeat of an event that was read before."""
        event = json.loads(raw)
        name = event["source"], event["id"]
        if name in self._known:
            return None
        self._known.add(name)
        return LogEntry("event", datetime.fromisoformat(event["time"]), raw)


def _decision(raw: bytes) -> LogEntry:
    return LogEntry("decision", datetime.fromisoformat(json.loads(raw)["inputs"]["now"]), raw)
