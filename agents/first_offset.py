"""The offset from which an agent reads a partition of its job topic."""

from typing import Any

from kafka import TopicPartition  # type: ignore[import-untyped]

from agents.metrics import AgentMetrics
from runtime.offset_gaps import COMMIT_METADATA, find_gap
from schemas import logkeys as key


def first_offset(
    consumer: Any,
    topic_partition: TopicPartition,
    timeout_ms: int,
    metrics: AgentMetrics,
    log: Any,
) -> int:
    """Return the committed offset, or the begin of the log if it is not ours or there is none.

    The journal knows the orders that arrive again. Logs and counts records that were deleted before
    an agent read them, and an offset that another program committed. Raises KafkaError.
    """
    keys = {key.TOPIC: topic_partition.topic, key.PARTITION: topic_partition.partition}
    found = consumer.committed(topic_partition, metadata=True, timeout_ms=timeout_ms)
    begin: int = consumer.beginning_offsets([topic_partition], timeout_ms=timeout_ms)[
        topic_partition
    ]
    if found is None:
        return begin
    end: int = consumer.end_offsets([topic_partition], timeout_ms=timeout_ms)[topic_partition]
    committed: int = found.offset
    is_own = found.metadata == COMMIT_METADATA
    if not is_own:
        metrics.count_moved_offset()
        log.error("committed offset was moved by another program", **keys, **{key.COUNT: 0})
    gap = find_gap(kept=None, committed=committed, metadata=found.metadata, begin=begin, end=end)
    if gap is None:
        return committed if is_own else begin
    if gap.is_cut:
        message = "topic ends before the committed offset: was it created again?"
    else:
        metrics.count_lost_records(topic_partition.topic, gap.lost)
        message = "records lost: they were deleted or skipped"
    log.error(message, **keys, **{key.COUNT: gap.lost})
    return begin
