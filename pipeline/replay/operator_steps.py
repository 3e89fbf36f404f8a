"""Decisions about a Mac's jobs: the policy in force, halts, resumes and approvals."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import Final

from pipeline.replay.log import LogEntry, LogReader, read_event
from schemas.envelope import (
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    Event,
    HaltClearedEvent,
    HaltSetEvent,
    PolicyChangedEvent,
)
from schemas.events.control import HaltScope
from schemas.jobs import Action

_POLICY_KEY: Final = "policy"


@dataclass(frozen=True, slots=True)
class PutInForce:
    """A policy that was put in force at `at`; `seq` is the number of its entry in the log."""

    seq: int
    at: datetime
    digest: str
    text: str
    by: str
    why: str | None


class Step(StrEnum):
    """The kind of a person's decision about jobs."""

    HALTED = "halted"
    RESUMED = "resumed"
    APPROVED = "approved"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class OperatorStep:
    """A halt, a resume, an approval or a denial, with its author and reason.

    `scope` is the scope of the halt or the id of the job, `until` the end of the halt or of the
    approval. `why` is empty without a reason.
    """

    seq: int
    at: datetime
    step: Step
    scope: str
    by: str
    why: str
    until: datetime | None = None


def read_policies(log: LogReader) -> list[PutInForce]:
    """Return the policies of the log in the order of their times; of one time, of their entries."""
    found = []
    for entry in log.entries(key=_POLICY_KEY, kind="event"):
        event = read_event(entry)
        if isinstance(event, PolicyChangedEvent):
            data = event.data
            found.append(
                PutInForce(entry.seq, event.time, data.digest, data.text, data.by, data.why)
            )
    return sorted(found, key=lambda one: (one.at, one.seq))


def policy_of(log: LogReader, digest: str | None, last_seq: int) -> PutInForce | None:
    """Return the newest policy with this digest up to an entry; None if the log has it no more."""
    found = [one for one in read_policies(log) if one.digest == digest and one.seq <= last_seq]
    return found[-1] if found else None


def operator_steps(
    log: LogReader,
    about_mac: Iterable[LogEntry],
    sites: Iterable[str],
    actions: Iterable[Action],
    advisories: Iterable[str],
    counts: Callable[[LogEntry], bool],
) -> Iterator[OperatorStep]:
    """Yield the counted halts and resumes that cover a Mac, and its approvals, in their order.

    `about_mac` are the events of the Mac. A halt covers it if it is of everything, of one of the
    sites or one of the actions there, or of one of the advisories.
    """
    scopes = [
        HaltScope(everything=True),
        *(HaltScope(site=site) for site in sorted(sites)),
        *(HaltScope(site=site, action=one) for site, one in product(sites, actions)),
        *(HaltScope(advisory_id=advisory) for advisory in sorted(advisories)),
    ]
    found = [entry for scope in scopes for entry in log.entries(kind="event", key=scope.key)]
    found = [entry for entry in (*found, *about_mac) if entry.type in _TYPES and counts(entry)]
    for entry in sorted(found, key=lambda one: one.seq):
        step = _step(entry, read_event(entry))
        if step is not None:
            yield step


_TYPES: Final = frozenset(
    model.model_fields["type"].default
    for model in (HaltSetEvent, HaltClearedEvent, ApprovalGrantedEvent, ApprovalDeniedEvent)
)


def _step(entry: LogEntry, event: Event) -> OperatorStep | None:
    seq, at = entry.seq, entry.at
    match event:
        case HaltSetEvent(data=halt):
            return OperatorStep(seq, at, Step.HALTED, halt.scope.key, halt.by, halt.why, halt.until)
        case HaltClearedEvent(data=cleared):
            why = cleared.why or ""
            return OperatorStep(seq, at, Step.RESUMED, cleared.scope.key, cleared.by, why)
        case ApprovalGrantedEvent(data=granted):
            one = granted.approval
            return OperatorStep(
                seq, at, Step.APPROVED, one.job_id, one.by, one.why or "", one.expires_at
            )
        case ApprovalDeniedEvent(data=denied):
            return OperatorStep(seq, at, Step.DENIED, denied.job_id, denied.by, denied.why)
        case _:
            return None
