"""Plain consumers for comparison with the worker: `python -m tests.bench.kafka_loops KIND`.

Each decodes the same models, keeps its state in memory, writes changed state to a compacted topic,
publishes jobs, and commits after the brokers have confirmed both. `faust` is an ordinary Faust
agent with a table.
"""

import argparse
import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any, Final

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]
from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]

from runtime.kafka import ENVIRONMENT_PREFIX, KafkaConnection
from schemas.topics import INVENTORY
from tests.bench.kafka_rule import rule

KINDS: Final = ("aiokafka", "kafka-python", "faust")
_AT_ONCE: Final = 2_000


def group_of(kind: str) -> str:
    """Return the consumer group of a plain consumer."""
    return f"bench-{kind}"


def jobs_of(kind: str) -> str:
    """Return the topic of its jobs."""
    return f"bench.{kind}.jobs"


def state_of(kind: str) -> str:
    """Return its changelog topic; the name is the one that Faust derives from group and table."""
    return f"{group_of(kind)}-macs-changelog"


async def aiokafka_loop(connection: KafkaConnection) -> None:
    """Consume with `getmany`; await every send of a batch before its commit."""
    kind, options = "aiokafka", connection.aiokafka_options()
    consumer = AIOKafkaConsumer(
        INVENTORY.name,
        **options,
        group_id=group_of(kind),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6_000,
    )
    producer = AIOKafkaProducer(**options, acks="all", enable_idempotence=True, linger_ms=5)
    kept: dict[str, bytes] = {}
    async with consumer, producer:
        while True:
            sent = []
            found = await consumer.getmany(timeout_ms=500, max_records=_AT_ONCE)
            for record in (record for records in found.values() for record in records):
                udid, state, job = rule(record.value, kept)
                if state is not None:
                    kept[udid] = state
                    sent.append(await producer.send(state_of(kind), state, key=record.key))
                if job is not None:
                    sent.append(await producer.send(jobs_of(kind), job, key=record.key))
            for each in sent:
                await each
            if found:
                await consumer.commit()


def kafka_python_loop(connection: KafkaConnection) -> None:
    """Consume with `poll`; wait for every send of a batch before its commit."""
    kind = "kafka-python"
    options = connection.consumer_options(group_of(kind)) | {"session_timeout_ms": 6_000}
    producer = KafkaProducer(**connection.producer_options())
    kept: dict[str, bytes] = {}
    with contextlib.closing(KafkaConsumer(INVENTORY.name, **options)) as consumer:
        while True:
            sent = []
            found: Mapping[Any, Any] = consumer.poll(timeout_ms=500, max_records=_AT_ONCE)
            for record in (record for records in found.values() for record in records):
                udid, state, job = rule(record.value, kept)
                if state is not None:
                    kept[udid] = state
                    sent.append(producer.send(state_of(kind), state, key=record.key))
                if job is not None:
                    sent.append(producer.send(jobs_of(kind), job, key=record.key))
            for each in sent:
                each.get(timeout=30)
            if found:
                consumer.commit()


def faust_agent(connection: KafkaConnection) -> None:
    """Run an agent with a table; await the delivery of each job."""
    kind = "faust"
    app = faust.App(
        group_of(kind),
        broker=f"kafka://{connection.bootstrap}",
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=4,
        broker_session_timeout=6,
        broker_heartbeat_interval=2,
        broker_commit_interval=1.0,
        web_enabled=False,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
    )
    reports = app.topic(INVENTORY.name, key_type=bytes, value_type=bytes, value_serializer="raw")
    jobs = app.topic(jobs_of(kind), key_type=bytes, value_type=bytes, value_serializer="raw")
    macs: Any = app.Table("macs", key_type=str, value_type=bytes, partitions=4)

    @app.agent(reports)
    async def outdated(stream: Any) -> None:
        async for raw in stream:
            udid, state, job = rule(raw, macs)
            if state is not None:
                macs[udid] = state
            if job is not None:
                await (await jobs.send(key=udid.encode(), value=job))

    faust.Worker(app, loglevel="ERROR", redirect_stdouts=False).execute_from_commandline()


def main() -> None:
    """Run one plain consumer until SIGTERM."""
    options = argparse.ArgumentParser()
    options.add_argument("kind", choices=KINDS)
    kind = options.parse_args().kind
    connection = KafkaConnection(bootstrap=os.environ[f"{ENVIRONMENT_PREFIX}BOOTSTRAP"])
    if kind == "faust":
        faust_agent(connection)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        if kind == "aiokafka":
            asyncio.run(aiokafka_loop(connection))
        else:
            kafka_python_loop(connection)


if __name__ == "__main__":
    main()
