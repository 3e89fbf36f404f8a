"""A shell for scenarios: workers on a real broker, without executors."""

from collections.abc import Sequence
from datetime import datetime

from schemas.dead_letters import DeadLetter
from schemas.decisions import DecisionRecord
from schemas.envelope import CloudEvent, JobIssuedEvent, decode
from schemas.topics import INVENTORY, ORDERS
from tests.kafka.workers import Workers


class KafkaShell:
    """Runs the steps of a scenario on workers and their topics."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def set_time(self, at: datetime) -> None:
        self._workers.set_clock(at)

    def accept(self, events: Sequence[CloudEvent]) -> None:
        self._workers.send(events)
        self._workers.wait_caught_up()

    def accept_bytes(self, raw: bytes) -> None:
        self._workers.producer.send(INVENTORY.name, key=b"anything", value=raw).get(timeout=30)
        self._workers.wait_caught_up()

    def settle(self) -> None:
        self._workers.wait_caught_up()

    def records(self) -> Sequence[DecisionRecord]:
        return self._workers.decisions()

    def issued_jobs(self) -> Sequence[JobIssuedEvent]:
        events = [decode(record.value) for record in self._workers.read(ORDERS.name)]
        return [event for event in events if isinstance(event, JobIssuedEvent)]

    def published_jobs(self) -> Sequence[JobIssuedEvent]:
        return self._workers.published()

    def dead_letters(self) -> Sequence[DeadLetter]:
        return self._workers.dead_letters()
