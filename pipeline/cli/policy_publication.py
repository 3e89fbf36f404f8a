"""Put a policy in force for a fleet on Kafka: publish it to the control topic.

Every worker reads that topic itself and decides again for its Macs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.cli.control_topic import FAULTS, publish, read_control
from pipeline.embedded.control_events import policy_changed
from pipeline.policy.file import policy_digest
from pipeline.processors.broadcast import BroadcastState
from runtime.kafka import KafkaSettings
from runtime.retry import QUICK, RetryPolicy, retrying
from schemas.envelope import PolicyChangedEvent
from schemas.topics import CONTROL


@dataclass(frozen=True, slots=True)
class Publication:
    """The change that puts a policy in force.

    `event` is the event to publish; None if the policy is in force already. `previous` is the
    digest of the policy in force before; None if there is none.
    """

    event: PolicyChangedEvent | None
    previous: str | None


def publication(control: Iterable[bytes], text: str, by: str, now: datetime) -> Publication:
    """Return the change that puts this policy in force, given the records of the control topic.

    The event's time is `now`, or just after the newest policy if the clock of its sender is ahead
    of ours: the event with the later time wins. Pure.
    """
    broadcast, newest = BroadcastState(approvals={}), now
    for offset, raw in enumerate(control):
        record = broadcast.fold_record(CONTROL.name, offset, raw)
        if record is not None and isinstance(record.event, PolicyChangedEvent):
            newest = max(newest, record.event.time + timedelta(microseconds=1))
    previous = None if broadcast.fleet.policy is None else broadcast.fleet.policy.digest
    known = previous == policy_digest(text)
    return Publication(None if known else policy_changed(text, by, newest), previous)


def put_in_force(
    settings: KafkaSettings,
    text: str,
    by: str,
    wait_s: float,
    *,
    retry: RetryPolicy = QUICK,
) -> Publication:
    """Publish the policy unless it is in force; return the change once it is in the topic.

    While Kafka or the topic is away it retries for `wait_s` seconds; then it raises one of FAULTS.
    """

    def publish_once() -> Publication:
        found = publication(read_control(settings), text, by, datetime.now(UTC))
        if found.event is not None:
            publish(settings, found.event)
        return found

    return retrying(retry, FAULTS, within_s=wait_s)(publish_once)
