"""Producer of an agent: it publishes results and dead letters and waits for their confirmation."""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from kafka import KafkaProducer  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from agents.producers import close_in_background
from runtime.clock_skew import ClockSkew
from runtime.kafka import KafkaConnection
from schemas.dead_letters import DeadLetter, encode_dead_letter
from schemas.envelope import JobResultedEvent, encode
from schemas.topics import DEAD_LETTERS, RESULTS, headers_of

Message = tuple[str, bytes, bytes]


class NotConfirmedError(Exception):
    """Kafka did not confirm a record and may have it or not. A repeat sends equal bytes."""


class ResultProducer:
    """Idempotent producer shared by all threads of the process.

    `skew` is measured with each confirmed record.
    """

    def __init__(
        self, connection: KafkaConnection, skew: ClockSkew, timeout_s: float = 30.0
    ) -> None:
        self._skew = skew
        self._timeout_s = timeout_s
        self._options = connection.producer_options(timeout_s=timeout_s)
        self._lock = threading.Lock()
        self._producer: Any = None

    def publish_results(self, events: Iterable[JobResultedEvent]) -> None:
        """Publish results, in order for each Mac; returns when Kafka confirmed all of them.

        Raises NotConfirmedError if any of them is not confirmed.
        """
        self._send_confirmed([(RESULTS.name, e.subject.encode(), encode(e)) for e in events])

    def publish_dead_letter(self, letter: DeadLetter) -> None:
        """Publish a dead letter; returns when Kafka confirmed it.

        Raises NotConfirmedError otherwise.
        """
        body = encode_dead_letter(letter)
        self._send_confirmed([(DEAD_LETTERS.name, letter.raw_sha256.encode(), body)])

    def close(self) -> None:
        """Close the connection in the background; a later publication opens a new one."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            close_in_background(producer)

    def _send_confirmed(self, messages: Sequence[Message]) -> None:
        """Send (topic, key, value) messages and wait until Kafka confirmed all of them.

        Raises NotConfirmedError if any of them is not confirmed; the next call uses a new producer.
        """
        if not messages:
            return
        try:
            producer = self._get_producer()
            sent_at = time.time()
            sent = [
                producer.send(topic, key=key, value=value, headers=headers_of(topic))
                for topic, key, value in messages
            ]
            for each in sent:
                found = each.get(timeout=self._timeout_s)
            self._skew.observe(sent_at, time.time(), found.timestamp)
        except (KafkaError, AssertionError) as error:
            # Use a new producer: one with a lost epoch can never send again.
            self.close()
            raise NotConfirmedError(str(error) or type(error).__name__) from error

    def _get_producer(self) -> Any:
        """Return the open producer, or a new one. Raises KafkaError if Kafka does not respond."""
        with self._lock:
            if self._producer is None:
                self._producer = KafkaProducer(**self._options)
            return self._producer
