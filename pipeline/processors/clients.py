"""Consumers of this worker's own, beside the one that is a member of its group."""

from typing import Any

from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]

from pipeline.connection import aiokafka_options
from schemas.connection import KafkaConnection


def make_reader(connection: KafkaConnection) -> Any:
    """A consumer without a group, that reads what it is pointed at and commits nothing."""
    return AIOKafkaConsumer(
        **aiokafka_options(connection),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=250,
    )
