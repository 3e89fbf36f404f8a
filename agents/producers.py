"""Closing of Kafka producers without waiting."""

import contextlib
import threading
from typing import Any, Final

from kafka.errors import KafkaError  # type: ignore[import-untyped]

# At least twice the delivery timeout of the agent's producers: no record is under way after it.
_CLOSE_TIMEOUT_S: Final = 60.0


def close_in_background(producer: Any) -> None:
    """Close a producer in a new thread; returns at once, in any state of the producer.

    kafka-python 3.0.12: `close` with a timeout that is too short for the records under way raises,
    and the producer's thread and sockets stay forever. So `close` gets 60 s; a KafkaError after
    that is ignored.
    """

    def close() -> None:
        with contextlib.suppress(KafkaError):
            producer.close(timeout=_CLOSE_TIMEOUT_S)

    threading.Thread(target=close, daemon=True, name="closing").start()
