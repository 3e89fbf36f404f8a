"""Tampering inside Kafka: records of the topics published again, some much later, and poison."""

import heapq
import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from runtime.kafka import KafkaConnection
from schemas.topics import CHECKINS, DISPATCH, INVENTORY, ORDERS, RESULTS, jobs_topic
from tests.chaos import poison
from tests.chaos.evidence import Input

_POLL_MS: Final = 200
_CONFIRMED_S: Final = 150.0
# Jobs and results are few, so a larger share (_SHARE) of them is repeated.
_SHARES: Final = {INVENTORY.name: 0.02, CHECKINS.name: 0.02}
_SHARE: Final = 0.08
_LATEST_S: Final = 40.0


class Tamperer:
    """A thread that repeats records of the topics and adds `poison_count` unusable ones."""

    def __init__(
        self,
        connection: KafkaConnection,
        sites: Sequence[str],
        *,
        seed: int,
        poison_count: int,
        lasts_s: float,
    ) -> None:
        self.unusable_inputs: list[Input] = []
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._connection = connection
        self._topics = [
            *(topic.name for topic in (INVENTORY, CHECKINS, ORDERS, RESULTS, DISPATCH)),
            *map(jobs_topic, sites),
        ]
        self._random = Random(seed)
        self._poison_at_s = sorted(self._random.uniform(0, lasts_s) for _ in range(poison_count))
        self._heap: list[tuple[float, int, str, bytes | None, bytes | None]] = []
        self._sent: list[tuple[bool, Any]] = []
        self._numbers = count()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="echo")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, with all its records confirmed. Raises the error that ended it early."""
        self._ending.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with (
                KafkaConsumer(**self._connection.consumer_options()) as consumer,
                KafkaProducer(**self._connection.producer_options()) as producer,
            ):
                self._tamper(consumer, producer)
        except BaseException as error:  # noqa: BLE001 - `stop` raises it
            self.error = error

    def _tamper(self, consumer: Any, producer: Any) -> None:
        partitions = [
            TopicPartition(topic, number)
            for topic in self._topics
            for number in consumer.partitions_for_topic(topic)
        ]
        consumer.assign(partitions)
        consumer.seek_to_end(*partitions)
        began_s = time.monotonic()
        while not self._ending.is_set():
            self._consume(consumer)
            now = time.monotonic()
            while self._heap and self._heap[0][0] <= now:
                _, _, topic, key, value = heapq.heappop(self._heap)
                self.counts["repeated"] += 1
                self._sent.append((False, producer.send(topic, key=key, value=value)))
            while self._poison_at_s and self._poison_at_s[0] <= now - began_s:
                self._poison_at_s.pop(0)
                self._send_poison(producer)
        for poisoned, sent in self._sent:
            metadata = sent.get(timeout=_CONFIRMED_S)
            if poisoned:
                self.unusable_inputs.append(
                    Input("record", f"{metadata.topic}/{metadata.partition}/{metadata.offset}")
                )

    def _consume(self, consumer: Any) -> None:
        try:
            seen = consumer.poll(timeout_ms=_POLL_MS)
        except KafkaError:
            return
        now = time.monotonic()
        for partition, records in seen.items():
            for record in records:
                if self._random.random() < _SHARES.get(partition.topic, _SHARE):
                    late_s = self._random.choice((0.0, 2.0, _LATEST_S)) * self._random.random()
                    # Repeats are consumed and can be repeated again, by ever smaller shares.
                    repeat = (partition.topic, record.key, record.value)
                    heapq.heappush(self._heap, (now + late_s, next(self._numbers), *repeat))

    def _send_poison(self, producer: Any) -> None:
        self.counts["poison"] += 1
        poisoned = poison.record(self._random, self.counts["poison"])
        sent = producer.send(poisoned.topic, key=poisoned.key.encode(), value=poisoned.value)
        self._sent.append((True, sent))
