"""The private names of Faust and its client that the batch consumer overrides or calls.

If a test fails, Faust or aiokafka changed: compare `pipeline/processors/batch_consumer.py` with the
new source, run the integration tests of the workers, then pin the new version here.
"""

import inspect
from importlib.metadata import version
from types import CodeType
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]
from faust.app.base import App
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.base import Transport
from faust.transport.conductor import Conductor
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.consumer import Fetcher
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from pipeline.processors.batch_consumer import BatchConsumer


def test_versions_are_the_pinned_ones() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka") == "0.14.0"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_drain_messages", ["self", "fetcher"]),
        ("_wait_next_records", ["self", "timeout"]),
        ("_commit", ["self", "offsets"]),
        ("wait_empty", ["self"]),
        ("_get_active_partitions", ["self"]),
        ("_new_consumer_thread", ["self"]),
        ("perform_seek", ["self"]),
        ("position", ["self", "tp"]),
        ("seek_to_committed", ["self"]),
        ("seek_wait", ["self", "partitions"]),
        ("earliest_offsets", ["self", "partitions"]),
        ("assignment", ["self"]),
        ("on_partitions_revoked", ["self", "revoked"]),
        ("on_partitions_assigned", ["self", "assigned", "generation_id"]),
        ("pause_partitions", ["self", "tps"]),
        ("resume_partitions", ["self", "tps"]),
        ("verify_event_path", ["self", "now", "tp"]),
    ],
)
def test_consumer_has_the_methods_that_are_overridden_or_called(
    name: str, parameters: list[str]
) -> None:
    method = inspect.unwrap(getattr(Consumer, name))
    assert list(inspect.signature(method).parameters) == parameters


def names_in(code: CodeType) -> set[str]:
    """Return the names that the code uses, inner functions included."""
    inner = [constant for constant in code.co_consts if inspect.iscode(constant)]
    return set(code.co_names).union(*(names_in(each) for each in inner))


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (Fetcher.__dict__["_fetcher"], {"_drain_messages"}),
        (
            App._on_partitions_revoked,
            {"_consumer_wait_empty", "stop_flow", "on_partitions_revoked"},
        ),
        (App._consumer_wait_empty, {"wait_empty", "stream_wait_empty"}),
        (App._stop_consumer, {"_stop_fetcher", "_consumer_wait_empty"}),
        (App._on_partitions_assigned, {"pause_partitions", "on_partitions_assigned"}),
        (Recovery._resume_streams, {"resume_partitions", "perform_seek", "resume_flow"}),
        (BaseConsumer.on_partitions_revoked, {"_on_partitions_revoked"}),
        (BaseConsumer.verify_all_partitions_active, {"verify_event_path"}),
        (Transport.create_consumer, {"Consumer"}),
        (BaseConsumer.perform_seek, {"seek_to_committed"}),
        (AIOKafkaConsumerThread._create_worker_consumer, {"table_standby_replicas", "assignor"}),
        (AIOKafkaConsumerThread.on_start, {"_consumer", "start"}),
        (AIOKafkaConsumerThread.commit, {"_commit", "call_thread"}),
        (AIOKafkaConsumerThread._commit, {"_ensure_consumer", "commit", "OffsetAndMetadata"}),
        (AIOKafkaConsumer.start, {"_fetch_max_wait_ms"}),
        (Conductor._update_indices, {"_topics", "topics", "acks"}),
        (Conductor._subscriber, {"wait_until_tables_registered", "subscribe"}),
        (TableManager.on_start, {"sleep", "should_stop", "_update_channels", "recovery", "start"}),
        (TableManager._update_channels, {"_tables_registered"}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_faust_calls_the_overridden_names(function: Any, wanted: set[str]) -> None:
    plain = inspect.unwrap(getattr(function, "fun", function))
    assert wanted <= names_in(plain.__code__)


def test_consumer_has_the_flags_that_the_pump_reads() -> None:
    assert BaseConsumer.flow_active is True
    assert isinstance(BatchConsumer.consumer_stopped_errors, tuple)
    assert issubclass(BatchConsumer, Consumer)
