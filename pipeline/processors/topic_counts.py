"""The topics of a Kafka cluster and their numbers of partitions."""

from collections.abc import Mapping
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

from pipeline.processors.app import SUBSCRIBED
from pipeline.processors.broadcast import BROADCAST_TOPICS
from pipeline.processors.device_shard import DEVICE_TOPICS
from runtime.kafka import KafkaConnection
from runtime.logs import Log
from runtime.retry import QUICK, async_retrying
from schemas import logkeys as key
from schemas.topics import DEAD_LETTERS, DECISIONS, DISPATCH, DISPATCH_STATE, STATE

_TIMEOUT_S: Final = 10.0
_REQUIRED_TOPICS: Final = (
    *SUBSCRIBED,
    *BROADCAST_TOPICS,
    STATE,
    DISPATCH_STATE,
    DECISIONS,
    DEAD_LETTERS,
)


async def fetch_topics(connection: KafkaConnection, log: Log) -> dict[str, int]:
    """Return the numbers of partitions of all topics of the cluster, by name.

    A topic that does not exist is missing in the result. A KafkaError is logged and the request
    repeated, because aiokafka 0.14.0 asks any broker of its list, also one that is down; it is
    raised if no broker can be reached, or after 10 s.
    """

    def warn(error: Exception) -> None:
        log.warning("cannot read topics, trying again", **{key.DETAIL: repr(error)})

    retry = async_retrying(QUICK, KafkaError, within_s=_TIMEOUT_S, on_failure=warn)
    admin = AIOKafkaAdminClient(**connection.aiokafka_options())
    try:
        await admin.start()
        described: list[dict[str, Any]] = await retry(admin.describe_topics)
    finally:
        await admin.close()
    return {each["topic"]: len(each["partitions"]) for each in described}


def topic_problem(counts: Mapping[str, int]) -> str | None:
    """Return why a worker cannot start with these topics; None if it can.

    A topic that it needs is missing, or topics have unequal numbers of partitions. `counts` are
    those of `fetch_topics`.
    """
    missing = [topic.name for topic in _REQUIRED_TOPICS if topic.name not in counts]
    if missing:
        return f"no topic {', '.join(missing)}: run `drydock topics apply`"
    for alike in ((*DEVICE_TOPICS, STATE), (DISPATCH, DISPATCH_STATE)):
        if len({counts[topic.name] for topic in alike}) > 1:
            names = ", ".join(topic.name for topic in alike)
            return f"these topics need the same number of partitions: {names}; see `drydock topics`"
    return None
