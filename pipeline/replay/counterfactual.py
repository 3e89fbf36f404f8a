"""Comparison of recorded decisions with those that another policy gives.

Each recorded decision is computed again from its own recorded inputs with the other policy. Every
Mac is also decided at the end of the period, so that Macs without a recorded decision in it are
compared too. The consequences of a different decision (an earlier job, an earlier report) are not
followed: that needs a simulation.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from pipeline.decide.decision import decide
from pipeline.decide.recomputation import recompute
from pipeline.policy.file import PolicyError, policy_digest, read_policy
from pipeline.policy.model import Policy
from pipeline.reconcile.reconciler import Reconciler
from pipeline.replay.log import (
    UNREADABLE,
    LogContents,
    LogEntry,
    LogReader,
    UnreadableLog,
    read_event,
    read_record,
    read_start,
)
from schemas.decisions import Decision, DecisionRecord, Verdict

_PROGRESS_EVERY: Final = 1000
# The fields that matter to a Mac and its operators. Gates, evidence and job ids are not compared.
COMPARED: Final = (
    "decision",
    "action",
    "method",
    "target",
    "reason",
    "site",
    "erases",
    "deadline_at",
    "next_eligible_at",
)


class ChangeKind(StrEnum):
    """The kind of difference between a recorded decision and the other policy's."""

    ADDED = "added"  # only the other policy sends a job
    REMOVED = "removed"  # only the recorded policy sent a job
    CHANGED = "changed"  # both send a job or neither does, and other fields differ


@dataclass(frozen=True, slots=True)
class DecisionChange:
    """One decision that differs.

    `seq` is the log's entry of the recorded decision; None for the comparison at the end of the
    period. `recorded` is None if no policy was in force. `fields` are the fields of COMPARED that
    differ, all of them without a recorded decision.
    """

    seq: int | None
    at: datetime
    kind: ChangeKind
    fields: tuple[str, ...]
    recorded: Decision | None
    alternative: Decision

    @property
    def site(self) -> str | None:
        """The recorded site; the site of the alternative decision if none was recorded."""
        return (
            self.alternative.site
            if self.recorded is None
            else self.recorded.site or self.alternative.site
        )

    @property
    def action(self) -> str | None:
        """The action that is added, removed or changed; None if neither decision has one."""
        sides = [self.alternative, self.recorded]
        if self.kind is ChangeKind.REMOVED:
            sides.reverse()
        actions = (side.action for side in sides if side is not None and side.action is not None)
        found = next(actions, None)
        return None if found is None else found.value


@dataclass(frozen=True, slots=True)
class CounterfactualDiff:
    """All differences, and the number of recorded decisions and of Macs that were compared.

    `policy_digest` is that of the other policy. Macs are compared at the end of the period.
    """

    policy_digest: str
    decisions: int
    macs: int
    changes: tuple[DecisionChange, ...]

    @property
    def by_mac(self) -> dict[str, Counter[ChangeKind]]:
        """The number of differences of each kind by UDID, sorted, of each Mac with a difference."""
        found: dict[str, Counter[ChangeKind]] = {}
        for change in self.changes:
            found.setdefault(change.alternative.udid, Counter())[change.kind] += 1
        return dict(sorted(found.items()))

    @property
    def by_site_and_action(self) -> dict[tuple[str, str], Counter[ChangeKind]]:
        """The number of differences by site and action, sorted; `-` if a decision has none."""
        found: dict[tuple[str, str], Counter[ChangeKind]] = {}
        for change in self.changes:
            key = (change.site or "-", change.action or "-")
            found.setdefault(key, Counter())[change.kind] += 1
        return dict(sorted(found.items()))


def counterfactual(
    log: LogReader,
    policy_text: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    udid: str | None = None,
    site: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
    fast_paths: bool = True,
) -> CounterfactualDiff:
    """Return the differences that this policy makes, for one Mac, for one site, or for all.

    Recorded decisions with `since` <= time < `until` are compared; then each Mac is decided by both
    policies at `until`, or at the last time of the log. `progress` is called with the `seq`
    reached. Raises PolicyError if `policy_text` or the policy of an event in the log is not valid,
    and UnreadableLog if another part of the log cannot be read.
    """
    policy = read_policy(policy_text)
    contents = LogContents(log)
    changes: list[DecisionChange] = []
    decisions = 0
    reconciler = Reconciler(read_start(log), fast_paths=fast_paths)
    reconciler.recount_jobs()
    last_seq, end = log.last_seq(until), log.last_at() if until is None else until
    for entry in log.entries(after=log.start_seq()):
        if entry.seq > last_seq:
            break
        if entry.seq % _PROGRESS_EVERY == 0:
            progress(entry.seq)
        if entry.kind == "event":
            reconciler.fold(read_event(entry))
        elif (
            (since is None or entry.at >= since)
            and (until is None or entry.at < until)
            and udid in (None, entry.key)
        ):
            record = read_record(entry)
            if site in {None, record.decision.site}:
                decisions += 1
                changes += _recorded_change(entry, record, policy, contents, fast_paths=fast_paths)
    progress(last_seq)
    macs = 0
    if end is not None:
        for recorded, alternative in _at_end(
            reconciler, policy_text, end, udid, fast_paths=fast_paths
        ):
            if site in {None, alternative.site, None if recorded is None else recorded.site}:
                macs += 1
                changes += _change(None, end, recorded, alternative)
    return CounterfactualDiff(policy_digest(policy_text), decisions, macs, tuple(changes))


def _recorded_change(
    entry: LogEntry,
    record: DecisionRecord,
    policy: Policy,
    contents: LogContents,
    *,
    fast_paths: bool,
) -> Iterator[DecisionChange]:
    """Return an iterator with the change of one recorded decision, empty if no field differs.

    Raises UnreadableLog if its recorded inputs or its catalogue cannot be read.
    """
    try:
        catalogue = contents.catalogue(record.inputs.catalog_digest)
        alternative = recompute(record, policy, catalogue, fast_paths=fast_paths)
    except UNREADABLE as error:
        raise UnreadableLog(f"entry {entry.seq} cannot be decided on again: {error}") from error
    return _change(entry.seq, entry.at, record.decision, alternative)


def _at_end(
    reconciler: Reconciler, policy_text: str, end: datetime, udid: str | None, *, fast_paths: bool
) -> Iterator[tuple[Decision | None, Decision]]:
    """Yield each Mac's decision at `end` under the policy in force, and under the other one.

    The first is None if no policy was in force. Raises UnreadableLog if that policy is not valid.
    """
    alternative = Reconciler(reconciler.fleet, fast_paths=fast_paths)
    alternative.override_policy(policy_text)
    alternative.recount_jobs()
    try:
        in_force = reconciler.policy is not None
    except PolicyError as error:
        raise UnreadableLog(f"the policy in force cannot be used: {error}") from error
    for one in reconciler.fleet.macs():
        if udid in (None, one):
            recorded = None
            if in_force:
                recorded = decide(reconciler.situation(one, end), fast_paths=fast_paths)
            yield recorded, decide(alternative.situation(one, end), fast_paths=fast_paths)


def _change(
    seq: int | None, at: datetime, recorded: Decision | None, alternative: Decision
) -> Iterator[DecisionChange]:
    """Yield one change if the decisions differ in a field of COMPARED, else nothing."""
    fields = tuple(
        field
        for field in COMPARED
        if recorded is None or getattr(recorded, field) != getattr(alternative, field)
    )
    if not fields:
        return
    sent = recorded is not None and recorded.decision is Verdict.SEND
    sends = alternative.decision is Verdict.SEND
    kind = ChangeKind.CHANGED
    if sent is not sends:
        kind = ChangeKind.ADDED if sends else ChangeKind.REMOVED
    yield DecisionChange(seq, at, kind, fields, recorded, alternative)
