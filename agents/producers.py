"""How executors let go of a Kafka producer."""

import contextlib
import threading
from typing import Any, Final

from kafka.errors import KafkaError  # type: ignore[import-untyped]

# By then kafka-python has given up whatever was under way: executors' limits are at most half.
_CLOSE_TIMEOUT_S: Final = 60.0


def close_in_background(producer: Any) -> None:
    """Close a producer without waiting for it, whatever state it is in.

    While records are under way, `close` of kafka-python 3.0.12 raises, and its thread and sockets
    stay for good; so it is given the time that it needs, beside everything else.
    """

    def close() -> None:
        with contextlib.suppress(KafkaError):
            producer.close(timeout=_CLOSE_TIMEOUT_S)

    threading.Thread(target=close, daemon=True, name="closing").start()
