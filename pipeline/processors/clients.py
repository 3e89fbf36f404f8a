"""Clients of a worker outside its consumer group."""

from typing import Any

from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]
from aiokafka.structs import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]

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


async def fetch_committed(
    connection: KafkaConnection, group: str
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the committed offsets of a group, with the metadata of each commit.

    A partition without one is missing. Raises KafkaError if Kafka cannot be read, OSError or
    ssl.SSLError if a certificate or key file cannot be loaded.
    """
    admin = AIOKafkaAdminClient(**connection.aiokafka_options())
    try:
        await admin.start()
        found: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(
            group
        )
    finally:
        await admin.close()
    return {partition: one for partition, one in found.items() if one.offset >= 0}


async def fetch_partition_counts(connection: KafkaConnection) -> dict[str, int]:
    """Return the number of partitions of each topic that the login may see.

    Raises KafkaError if Kafka cannot be read, OSError or ssl.SSLError if a certificate or key file
    cannot be loaded.
    """
    admin = AIOKafkaAdminClient(**connection.aiokafka_options())
    try:
        await admin.start()
        described = await admin.describe_topics()
    finally:
        await admin.close()
    return {each["topic"]: len(each["partitions"]) for each in described}
