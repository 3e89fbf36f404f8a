"""Input and output of the reconcile loop: `Input`, and `Changes`, which a shell makes durable.

A shell does not decide anything from a `Changes`: it persists all of it, then acknowledges the
inputs. It ignores the parts that its storage does not need: Kafka already has the input events,
and SQLite reads the open jobs of a site from the job histories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.state.jobs import JobEntry
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    Event,
    HaltSetEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
)
from schemas.fast.report_peek import ReportPeek
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome

# The `source` of the events that the loop derives.
SOURCE: Final = "/drydock/decide"


class Input(NamedTuple):
    """An event from outside, and its encoded bytes.

    With `peek`, the peek at these bytes, a duplicate of the report is recognised undecoded.
    """

    event: Event
    raw: bytes
    peek: ReportPeek | None = None


class DerivedRecord(NamedTuple):
    """A decision, or an event that follows from the state, with its key (a UDID) and its bytes.

    An event is an issued job, a withdrawal, an inferred result, or a halt that Drydock itself sets
    (its key is the scope), and is folded already.
    """

    key: str
    body: bytes
    value: DecisionRecord | JobIssuedEvent | JobSupersededEvent | JobResultedEvent | HaltSetEvent


class JobChange(NamedTuple):
    """The bytes of an event that opened or ended a job of this Mac, and the job after it."""

    udid: str
    job: JobEntry
    raw: bytes


class JobProgress(NamedTuple):
    """A result that changed a job, with the values by which it is counted."""

    action: Action
    outcome: Outcome
    site: str
    method: Method
    error_code: ErrorCode | None


class Rejection(NamedTuple):
    """Bytes to store as a dead letter, with the reason (a DeadLetterReason).

    `udid` is None if `raw` is an input that admission rejects or on which our code raised; it is
    then without effect. Else deciding raised for this Mac, and `raw` is its state as JSON.
    """

    raw: bytes
    code: DeadLetterCode
    detail: str
    where: str = ""
    event: Event | None = None
    udid: str | None = None


@dataclass(slots=True)
class Changes:
    """Everything that one step changed. Persist all of it, then acknowledge the inputs.

    - `inputs`: inputs that are folded, in their order
    - `records`: decisions and derived events, in the order in which they were made; all follow
      from the state after `inputs`
    - `job_changes`: each event, of both kinds, that opened or ended a job, in order
    - `rejections`: become dead letters
    - `devices`, `job_histories`: keys of the device records and job histories that changed
    - `telemetry`: keys of device records of which only times and telemetry changed; a later report
      or a sweep corrects each decision that the loss of such a change affects
    - `last_decisions`: Macs whose last decision changed; one that the reconciler lacks was dropped
    - `marked`: Macs that inputs marked; one is decided when `DecisionQueue.is_undecided` is False
    - `broadcast`: changed parts of the broadcast state, as named by `Fleet.broadcast_to_wire`
    - `offsets`: of `Reconciler.queue_broadcast`, once all Macs of its batch are decided
    - `results`: each result that changed a job
    - `durations`: action of each succeeded job, and its seconds from issue to success

    The dicts with None are ordered sets.
    """

    inputs: list[Input] = field(default_factory=list)
    records: list[DerivedRecord] = field(default_factory=list)
    job_changes: list[JobChange] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    devices: dict[str, None] = field(default_factory=dict)
    telemetry: dict[str, None] = field(default_factory=dict)
    job_histories: dict[str, None] = field(default_factory=dict)
    last_decisions: dict[str, None] = field(default_factory=dict)
    marked: dict[str, None] = field(default_factory=dict)
    broadcast: dict[str, None] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    results: list[JobProgress] = field(default_factory=list)
    durations: list[tuple[Action, float]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """True if nothing has to be made durable."""
        return not (
            self.inputs
            or self.records
            or self.rejections
            or self.devices
            or self.telemetry
            or self.job_histories
            or self.last_decisions
            or self.broadcast
            or self.offsets
        )

    @property
    def decisions(self) -> list[DecisionRecord]:
        """The decisions in `records`, in order."""
        return [one.value for one in self.records if isinstance(one.value, DecisionRecord)]

    @property
    def events(self) -> list[Event]:
        """The input events, then the derived ones, each in order."""
        derived = [one.value for one in self.records if not isinstance(one.value, DecisionRecord)]
        return [*(one.event for one in self.inputs), *derived]

    def raise_offsets(self, offsets: Mapping[str, int]) -> None:
        """Raise each offset to the given one, if it is lower."""
        for topic, offset in offsets.items():
            self.offsets[topic] = max(offset, self.offsets.get(topic, 0))


def bug_detail(step: str, error: Exception) -> str:
    """Return the detail of a Rejection because our code raised this error in a step."""
    return f"{step} failed: {type(error).__name__}: {error}"
