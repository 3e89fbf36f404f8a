"""What concerns all Macs: advisories, policy, halts, approvals, in the order of their topics.

One worker keeps one copy for all its partitions. What a partition has answered so far is a point
in these topics; it goes on from there after a crash. Pure.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline.decide.admission import reject_reason
from pipeline.state.fleet import NO_CHANGE, Change, Fleet
from schemas.dead_letters import DeadLetterCode
from schemas.envelope import AdvisoryEvent, Event, InvalidEvent, decode
from schemas.signed_payloads import PublicKeys
from schemas.topics import ADVISORIES, CONTROL

BROADCAST_TOPICS: Final = (ADVISORIES, CONTROL)
_MODELS: Final = {topic.name: topic.models for topic in BROADCAST_TOPICS}

Offsets = Mapping[str, int]
"""For each fact topic, the offset of the first record not yet answered."""


class BroadcastRejection(NamedTuple):
    """Why a record is no fact, and its bytes."""

    code: DeadLetterCode
    detail: str
    where: str
    raw: bytes


class BroadcastRecord(NamedTuple):
    """One record of a fact topic. `event` is None for an advisory, which the catalogue holds."""

    topic: str
    offset: int
    change: Change
    event: Event | None = None
    rejection: BroadcastRejection | None = None


class BroadcastState:
    """The facts so far. `log` has them in the order in which they were read."""

    def __init__(self, approvals: PublicKeys) -> None:
        self.fleet = Fleet()
        self.records: list[BroadcastRecord] = []
        self.next_offsets: dict[str, int] = {topic.name: 0 for topic in BROADCAST_TOPICS}
        self._approvals = approvals

    def fold_record(self, topic: str, offset: int, raw: bytes | None) -> BroadcastRecord | None:
        """Fold the next record of a topic; None for one that was taken before."""
        if offset < self.next_offsets[topic]:
            return None
        record = self._decode_record(topic, offset, raw or b"")
        self.records.append(record)
        self.next_offsets[topic] = offset + 1
        return record

    def advance_to(self, topic: str, offset: int) -> None:
        """Nothing more comes before this offset: the ends of transactions, and what a transaction
        took back, have offsets too and are no facts."""
        self.next_offsets[topic] = max(self.next_offsets[topic], offset)

    def records_after(self, offsets: Offsets) -> list[BroadcastRecord]:
        """The facts that this point has not reached."""
        return [record for record in self.records if record.offset >= offsets.get(record.topic, 0)]

    def _decode_record(self, topic: str, offset: int, raw: bytes) -> BroadcastRecord:
        try:
            event = decode(raw)
        except InvalidEvent as error:
            code = DeadLetterCode(error.code)
            return _reject(topic, offset, BroadcastRejection(code, error.detail, error.where, raw))
        if not isinstance(event, _MODELS[topic]):
            wrong: str | None = f"{event.type} does not belong here"
        else:
            wrong = reject_reason(event, jobs={}, approvals=self._approvals)
        if wrong is not None:
            return _reject(
                topic, offset, BroadcastRejection(DeadLetterCode.BAD_VALUE, wrong, "$.data", raw)
            )
        change = self.fleet.apply(event)
        return BroadcastRecord(
            topic, offset, change, None if isinstance(event, AdvisoryEvent) else event
        )


def _reject(topic: str, offset: int, rejection: BroadcastRejection) -> BroadcastRecord:
    return BroadcastRecord(topic, offset, NO_CHANGE, rejection=rejection)
