"""Consumers of a worker outside its consumer group."""

from typing import Any

from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]

from runtime.kafka import KafkaConnection


def make_reader(connection: KafkaConnection) -> Any:
    """Return an aiokafka consumer, not started and without a group; it commits no offset.

    The caller starts it and assigns partitions. It reads committed records only, from the beginning
    unless the caller seeks. Raises OSError or ssl.SSLError if a certificate or key file cannot be
    loaded.
    """
    return AIOKafkaConsumer(
        **connection.aiokafka_reader_options(),
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=250,
    )
