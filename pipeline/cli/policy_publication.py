"""Put a policy in force for a fleet on Kafka: publish it to the control topic.

Every worker reads that topic itself and decides again for its Macs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.cli.control_topic import FAULTS, Fleet, publish, read_control
from pipeline.embedded.control_events import policy_changed
from pipeline.processors.broadcast import BroadcastState
from runtime.retry import QUICK, RetryPolicy, retrying
from schemas.envelope import PolicyChangedEvent
from schemas.events.control import PolicyChanged
from schemas.signed_payloads import PublicKeys
from schemas.signed_records import signer_of
from schemas.signing import key_id
from schemas.topics import CONTROL


@dataclass(frozen=True, slots=True)
class Publication:
    """The change that puts a policy in force.

    `event` is the event to publish; None if the policy is in force already. `previous` is the
    digest of the policy in force before; None if there is none.
    """

    event: PolicyChangedEvent | None
    previous: str | None


def publication(
    control: Iterable[bytes],
    keys: PublicKeys,
    signer: str,
    wanted: PolicyChanged,
    now: datetime,
) -> Publication:
    """Return the change that puts this policy in force, given the records of the control topic.

    Records that none of `keys` signed do not count. A policy that is in force is published again if
    another key than `signer` signed it: that key may be retired. The event's time is `now`, or
    just after the newest policy if the clock of its sender is ahead of ours: the event with the
    later time wins. Pure.
    """
    broadcast, newest, signed_by = BroadcastState({}, control=keys), now, None
    for offset, raw in enumerate(control):
        record = broadcast.fold_record(CONTROL.name, offset, raw)
        if record is not None and isinstance(record.event, PolicyChangedEvent):
            newest = max(newest, record.event.time + timedelta(microseconds=1))
            if record.event.data == broadcast.fleet.policy:
                signed_by = signer_of(raw)
    previous = None if broadcast.fleet.policy is None else broadcast.fleet.policy.digest
    if previous == wanted.digest and signed_by == signer:
        return Publication(None, previous)
    return Publication(policy_changed(wanted.text, wanted.by, newest, wanted.why), previous)


def put_in_force(
    fleet: Fleet, wanted: PolicyChanged, wait_s: float, *, retry: RetryPolicy = QUICK
) -> Publication:
    """Publish the policy unless it is in force; return the change once it is in the topic.

    While Kafka or the topic is away it retries for `wait_s` seconds; then it raises one of FAULTS.
    """
    signer = key_id(fleet.key.public_key())

    def publish_once() -> Publication:
        control = read_control(fleet.settings)
        found = publication(control, fleet.trusted, signer, wanted, datetime.now(UTC))
        if found.event is not None:
            publish(fleet, found.event)
        return found

    return retrying(retry, FAULTS, within_s=wait_s)(publish_once)
