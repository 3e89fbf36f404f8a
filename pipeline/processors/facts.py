"""What concerns all Macs: advisories, policy, halts, approvals, in the order of their topics.

One worker keeps one copy for all its partitions. What a partition has answered so far is a point
in these topics; it goes on from there after a crash. Pure.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline.decide.admission import objection
from pipeline.state.fleet import NO_CHANGE, Change, Fleet
from schemas.dead_letters import DeadLetterCode
from schemas.envelope import AdvisoryEvent, Event, InvalidEvent, decode
from schemas.orders import PublicKeys
from schemas.topics import ADVISORIES, CONTROL

FACT_TOPICS: Final = (ADVISORIES, CONTROL)
_MODELS: Final = {topic.name: topic.models for topic in FACT_TOPICS}

Point = Mapping[str, int]
"""For each fact topic, the offset of the first record not yet answered."""


class Refusal(NamedTuple):
    """Why a record is no fact, and its bytes."""

    code: DeadLetterCode
    detail: str
    where: str
    raw: bytes


class Fact(NamedTuple):
    """One record of a fact topic. `event` is None for an advisory, which the catalogue holds."""

    topic: str
    offset: int
    change: Change
    event: Event | None = None
    refusal: Refusal | None = None


class Facts:
    """The facts so far. `log` has them in the order in which they were read."""

    def __init__(self, approvals: PublicKeys) -> None:
        self.fleet = Fleet()
        self.log: list[Fact] = []
        self.ends: dict[str, int] = {topic.name: 0 for topic in FACT_TOPICS}
        self._approvals = approvals

    def take(self, topic: str, offset: int, raw: bytes | None) -> Fact | None:
        """Fold the next record of a topic; None for one that was taken before."""
        if offset < self.ends[topic]:
            return None
        fact = self._read(topic, offset, raw or b"")
        self.log.append(fact)
        self.ends[topic] = offset + 1
        return fact

    def pass_to(self, topic: str, offset: int) -> None:
        """Nothing more comes before this offset: the ends of transactions, and what a transaction
        took back, have offsets too and are no facts."""
        self.ends[topic] = max(self.ends[topic], offset)

    def after(self, point: Point) -> list[Fact]:
        """The facts that this point has not reached."""
        return [fact for fact in self.log if fact.offset >= point.get(fact.topic, 0)]

    def _read(self, topic: str, offset: int, raw: bytes) -> Fact:
        try:
            event = decode(raw)
        except InvalidEvent as error:
            code = DeadLetterCode(error.code)
            return _refused(topic, offset, Refusal(code, error.detail, error.where, raw))
        if not isinstance(event, _MODELS[topic]):
            wrong: str | None = f"{event.type} does not belong here"
        else:
            wrong = objection(event, jobs={}, approvals=self._approvals)
        if wrong is not None:
            return _refused(topic, offset, Refusal(DeadLetterCode.BAD_VALUE, wrong, "$.data", raw))
        change = self.fleet.apply(event)
        return Fact(topic, offset, change, None if isinstance(event, AdvisoryEvent) else event)


def _refused(topic: str, offset: int, refusal: Refusal) -> Fact:
    return Fact(topic, offset, NO_CHANGE, refusal=refusal)
