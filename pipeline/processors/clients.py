"""Consumers of a worker outside its consumer group."""

from typing import Any

from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]

from pipeline.connection import aiokafka_options
from schemas.connection import KafkaConnection


def make_reader(connection: KafkaConnection) -> Any:
    """Return a consumer without a group; the caller assigns partitions. It commits no offset.

    It reads committed records only, from the beginning unless the caller seeks.
    """
    return AIOKafkaConsumer(
        **aiokafka_options(connection),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=250,
    )
