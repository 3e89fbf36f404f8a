"""Broadcast records (advisories and events of operators), folded in the order of their topics.

A worker has one `BroadcastState` for all its partitions. Each partition keeps, by topic, the offset
up to which it has decided for its Macs again (`Offsets`); after a crash it continues from there.

Invariant: every record before `next_offsets[topic]` is folded into `fleet`, once, and is in
`records`; a record that cannot be used is there too, with its rejection and without an event. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from pipeline.decide.admission import reject_reason
from pipeline.state.change import NO_CHANGE, Change
from pipeline.state.fleet import Fleet
from pipeline.trust.stamps import Stamps
from schemas.dead_letters import DeadLetterCode, Problem
from schemas.envelope import (
    AdvisoryEvent,
    ApprovalGrantedEvent,
    Event,
    HaltSetEvent,
    InvalidEvent,
    decode,
)
from schemas.signed_payloads import PublicKeys
from schemas.signed_records import AUTOMATIC_HALT_RECORD, CONTROL_RECORD, verify_record
from schemas.signing import SignatureError
from schemas.topics import ADVISORIES, CONTROL, HALTS

BROADCAST_TOPICS: Final = (ADVISORIES, CONTROL, HALTS)
_MODELS: Final = {topic.name: topic.models for topic in BROADCAST_TOPICS}

_SIGNED_INSIDE: Final = ApprovalGrantedEvent
_NO_KEYS: Final[PublicKeys] = MappingProxyType({})
NO_STAMP: Final = Problem(DeadLetterCode.UNSTAMPED, "no gateway or feed stamped it", "$.stamp")

Offsets = Mapping[str, int]
"""For each broadcast topic, the offset of the first record not yet decided by."""


class BroadcastRejection(NamedTuple):
    """The reason for which a broadcast record cannot be used, and its bytes.

    `where` is the JSON path of the invalid part of the record, or empty.
    """

    code: DeadLetterCode
    detail: str
    where: str
    raw: bytes


class BroadcastRecord(NamedTuple):
    """One folded record of a broadcast topic.

    `event` is None for an advisory, which is in the catalogue of the fleet, and for a rejected
    record.
    """

    topic: str
    offset: int
    change: Change
    event: Event | None = None
    rejection: BroadcastRejection | None = None


class Shortage(NamedTuple):
    """Records that a broadcast topic has lost: how many, and a sentence for a person."""

    lost: int
    detail: str


class BroadcastLog(NamedTuple):
    """Begin and end of the log of a broadcast topic, and the offset up to which it was read."""

    begin: int
    end: int
    read_end: int


def find_shortage(topic: str, log: BroadcastLog, kept_end: int) -> Shortage | None:
    """Return the lost records of a broadcast topic; None if its records can be complete.

    `kept_end` is the highest offset that an epoch row has. A log with records that begins later can
    be complete: a newer policy replaces older ones.
    """
    known_end = max(log.read_end, kept_end)
    if log.begin == log.end and known_end > 0:
        return Shortage(known_end, f"{topic} is empty; it had records up to offset {known_end}")
    if log.end < log.read_end:
        detail = f"{topic} ends at offset {log.end}; this worker has read up to {log.read_end}"
        return Shortage(log.read_end - log.end, detail)
    return None


@dataclass(frozen=True, slots=True)
class BroadcastAdmission:
    """The keys with which records of the broadcast topics are admitted; see BroadcastState."""

    approvals: PublicKeys
    stamps: Stamps | None = None
    control: PublicKeys | None = None
    jobs: PublicKeys = field(default_factory=dict)

    def admit(self, topic: str, raw: bytes) -> Event | BroadcastRejection:
        """Return the event of a record, or the reason for which it cannot be used."""
        if topic == ADVISORIES.name and self.stamps is not None and not self.stamps.is_valid(raw):
            return BroadcastRejection(*NO_STAMP, raw)
        try:
            event = decode(raw)
        except InvalidEvent as error:
            return BroadcastRejection(error.code, error.detail, error.where, raw)
        unsigned = self._signature_problem(topic, event, raw)
        if unsigned is not None:
            return BroadcastRejection(*unsigned, raw)
        if not isinstance(event, _MODELS[topic]):
            wrong: str | None = f"{event.type} does not belong here"
        elif isinstance(event, HaltSetEvent) and event.data.is_automatic != (topic == HALTS.name):
            wrong = "a halt of an operator, or of Drydock itself, in the topic of the other"
        else:
            wrong = reject_reason(event, jobs={}, approvals=self.approvals)
        if wrong is not None:
            return BroadcastRejection(DeadLetterCode.BAD_VALUE, wrong, "$.data", raw)
        return event

    def _signature_problem(self, topic: str, event: Event, raw: bytes) -> Problem | None:
        """Return the problem of a control event that no trusted key signed; None without one."""
        if topic == ADVISORIES.name or self.control is None or isinstance(event, _SIGNED_INSIDE):
            return None
        try:
            if topic == HALTS.name:
                verify_record(raw, AUTOMATIC_HALT_RECORD, self.jobs)
            else:
                verify_record(raw, CONTROL_RECORD, self.control)
        except SignatureError as error:
            return Problem(DeadLetterCode.UNSIGNED, str(error), "$.signature")
        return None


class BroadcastState:
    """All broadcast records so far, in the order in which they were read, and their fold.

    With `stamps` an advisory without a valid stamp is rejected. With `control` a control event is
    rejected that none of these keys signed, or none of `jobs` for a halt that Drydock itself sets.
    An approval has the signature of its approver instead.
    """

    def __init__(
        self,
        approvals: PublicKeys,
        stamps: Stamps | None = None,
        control: PublicKeys | None = None,
        jobs: PublicKeys = _NO_KEYS,
    ) -> None:
        self.fleet = Fleet()
        self.records: list[BroadcastRecord] = []
        self.next_offsets: dict[str, int] = {topic.name: 0 for topic in BROADCAST_TOPICS}
        self._admission = BroadcastAdmission(approvals, stamps, control, jobs)

    def fold_record(self, topic: str, offset: int, raw: bytes | None) -> BroadcastRecord | None:
        """Fold a record of a broadcast topic; return it, or None if its offset was passed before.

        A record that cannot be used changes nothing in `fleet`, and is returned with its
        `rejection`. Both kinds are appended to `records`. `raw` None counts as an empty value.
        """
        if offset < self.next_offsets[topic]:
            return None
        record = self._decode_record(topic, offset, raw or b"")
        self.records.append(record)
        self.next_offsets[topic] = offset + 1
        return record

    def advance_to(self, topic: str, offset: int) -> None:
        """Raise the topic's next offset to `offset`, if it is lower; adds no record.

        Transaction markers and aborted records occupy offsets, and are not read.
        """
        self.next_offsets[topic] = max(self.next_offsets[topic], offset)

    def records_after(self, offsets: Offsets) -> list[BroadcastRecord]:
        """Return the records of each topic from its offset on, in the order of their reading.

        All records of a topic that is missing in `offsets`.
        """
        return [record for record in self.records if record.offset >= offsets.get(record.topic, 0)]

    def _decode_record(self, topic: str, offset: int, raw: bytes) -> BroadcastRecord:
        """Return the record, applied to `fleet`; or with a rejection and without a change."""
        event = self._admission.admit(topic, raw)
        if isinstance(event, BroadcastRejection):
            return BroadcastRecord(topic, offset, NO_CHANGE, rejection=event)
        change = self.fleet.apply(event)
        return BroadcastRecord(
            topic, offset, change, None if isinstance(event, AdvisoryEvent) else event
        )
