"""The loop of decisions: fold inputs, mark the affected Macs, decide for them, return `Changes`.

Both shells drive it. It does no I/O and has no key: a shell passes `sign`, and makes the returned
`Changes` durable before it acknowledges the inputs.

| call | folds | decides |
| --- | --- | --- |
| `apply` | a batch of inputs | nothing; marks the affected Macs |
| `apply_duplicate` | a duplicate of the Mac's last report, not decoded | nothing; marks the Mac |
| `decide_marked` | events that follow from the decisions | for the marked Macs |
| `advance` | events that follow from the decisions | also for Macs due by time or by the sweep |

Deciding for a Mac continues until nothing follows from it: a result or a withdrawal that ends its
job, its decision, the job issued, the decision to hold it for that job. Then the Macs that wait for
the freed capacity are decided, by deadline.

Invariant: if our code raises for an input or for a Mac, the state and `Changes` have either all of
a fold or decision, or nothing of it, and `Changes.rejections` names it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from pipeline.decide.admission import reject_reason
from pipeline.decide.queries import QueryNeed, query_needs
from pipeline.decide.situation import Situation
from pipeline.policy.file import policy_digest, read_policy
from pipeline.policy.model import Policy
from pipeline.reconcile.changes import Changes, Input, Rejection, bug_detail
from pipeline.reconcile.deciding import Deciding, Sign
from pipeline.reconcile.decision_queue import DecisionQueue, FreedSite
from pipeline.reconcile.failing_releases import FailingReleases
from pipeline.reconcile.folding import Folding
from pipeline.reconcile.hourly_jobs import HOUR_US
from pipeline.reconcile.last_decision import LastDecision, LastDecisions
from pipeline.reconcile.marking import Marking
from pipeline.reconcile.new_macs import NewMacs
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.reconcile.site_capacity import SiteCapacity
from pipeline.reconcile.site_sizes import SiteSizes
from pipeline.state.change import Change, merge_changes
from pipeline.state.device import from_us, to_us
from pipeline.state.fleet import Fleet
from pipeline.trust.identity import identity_problem
from schemas.dead_letters import DeadLetterCode, Problem
from schemas.decisions import Decision, DecisionRecord
from schemas.envelope import AdvisoryEvent, Event, is_device_event
from schemas.fast.report_peek import ReportPeek
from schemas.signed_payloads import PublicKeys

_NO_KEYS: Final[PublicKeys] = MappingProxyType({})


class Reconciler:
    """Decides for the Macs of one Fleet. The caller is the only writer.

    `sign` signs a job; without it the reconciler can only fold. `job_keys` and `approval_keys` are
    the public keys that admission trusts. `queue` has the Macs to decide; every Mac is swept each
    `sweep_every`. With `partitions` it has the Macs of one of so many partitions: it halts no
    action, and admits a part of the new Macs of a sender.
    Without `fast_paths` no value of an earlier evaluation is reused and every model is validated:
    slower, with the same decisions and bytes (docs/explanation/fast-paths.md). `last_decisions` is
    by UDID; `counts` has the numbers of Macs that follow from them, of which `exposed` and
    `findings` are two.
    """

    def __init__(
        self,
        fleet: Fleet | None = None,
        *,
        sign: Sign | None = None,
        job_keys: PublicKeys = _NO_KEYS,
        approval_keys: PublicKeys = _NO_KEYS,
        sweep_every: timedelta | None = None,
        partitions: int | None = None,
        fast_paths: bool = True,
    ) -> None:
        self.fleet = fleet or Fleet()
        self._job_keys = job_keys
        self._approval_keys = approval_keys
        self._in_force = PolicyInForce(self.fleet)
        self.counts = self._decided = LastDecisions()
        self.last_decisions: dict[str, LastDecision] = self._decided.by_udid
        self.exposed: Counter[tuple[str, str]] = self._decided.exposed
        self.findings: Counter[tuple[str, str]] = self._decided.findings
        self.capacity = SiteCapacity(has_whole_sites=partitions is None)
        # The hour in which the waiting Macs of all sites were last decided.
        self._assigned_hour = 0
        self.queue = DecisionQueue(self.fleet.macs, self.last_decisions, sweep_every)
        self._marking = Marking(
            self.fleet, self._in_force, self.last_decisions, self.capacity, self.queue
        )
        self._new_macs = NewMacs(self.fleet, self._in_force, partitions)
        self._failing_releases = FailingReleases(self.fleet, self._in_force)
        self._folding = Folding(
            self.fleet,
            self.capacity,
            SiteSizes(self.fleet, self._in_force),
            self._failing_releases,
            self._decided,
            self._marking,
            fast_paths=fast_paths,
        )
        self._deciding = Deciding(
            self.fleet,
            self._in_force,
            self.capacity,
            self._decided,
            self.queue,
            self._folding,
            sign,
            fast_paths=fast_paths,
        )

    def set_keys(self, *, jobs: PublicKeys, approvals: PublicKeys) -> None:
        """Admit jobs and approvals from now on that these keys signed."""
        self._job_keys, self._approval_keys = jobs, approvals

    # --- policy ---

    @property
    def policy(self) -> Policy | None:
        """The policy in force, or the one set by `override_policy`; None before the first policy.

        Raises PolicyError if the text in force is not a valid policy.
        """
        return self._in_force.policy

    @property
    def policy_digest(self) -> str | None:
        """The digest of the text of the policy that `policy` returns; None without a policy."""
        return self._in_force.digest

    def override_policy(self, text: str) -> None:
        """Decide by this policy instead of the policy in the log, for a replay with another policy.

        Raises PolicyError if the text is not a valid policy.
        """
        self._in_force.override(policy_digest(text), read_policy(text))

    # --- input ---

    def apply(
        self, inputs: Iterable[Input], now: datetime, changes: Changes | None = None
    ) -> Changes:
        """Fold a batch of inputs and mark the Macs that it affects; return all that changed.

        The changes are added to `changes` if it is given. An input that admission rejects, or on
        which our code raises, is a Rejection without any other effect. Nothing is decided: a Mac
        that several inputs of the batch affect is decided once, by `decide_marked`.
        """
        changes = Changes() if changes is None else changes
        broadcast_udids: dict[str, None] = {}
        given = list(inputs)
        if len(given) > 1:  # an event alone is no document, and these tests take time
            advisories = [one for one in given if isinstance(one.event, AdvisoryEvent)]
            if len(advisories) > 1 and self._apply_document(advisories, broadcast_udids, changes):
                given = [one for one in given if not isinstance(one.event, AdvisoryEvent)]
        for one in given:
            try:
                problem = self.objection(one.event)
                first = self._new_macs.counted(one.event)
                if problem is None and first is not None:
                    problem = self._new_macs.problem(first, now)
                if problem is None:
                    self._folding.apply_input(one, now, broadcast_udids, changes)
                    if first is not None:
                        self._new_macs.add(first, now)
                    continue
            except Exception as error:  # noqa: BLE001 - our bug: the other inputs are applied
                problem = Problem(DeadLetterCode.BUG, bug_detail("folding it", error))
            changes.rejections.append(Rejection(one.raw, *problem, one.event))
        if broadcast_udids:
            self.queue.add_batch(broadcast_udids)
        return changes

    def _apply_document(
        self, advisories: Sequence[Input], broadcast_udids: dict[str, None], changes: Changes
    ) -> bool:
        """Fold the advisory events of a document as one, and find the Macs that it affects once.

        Returns False, without an effect, if admission rejects one of them or our code raises: then
        each is folded alone.
        """
        before = self.fleet.advisories
        try:
            if any(self.objection(one.event) is not None for one in advisories):
                return False
            for one in advisories:
                assert isinstance(one.event, AdvisoryEvent)
                self.fleet.fold_advisory(one.event)
            if self.fleet.advisories is not before:
                change = self.fleet.advisory_change(before)
                broadcast_udids |= dict.fromkeys(self.affected(change))
                changes.broadcast["advisories"] = None
        except Exception:  # noqa: BLE001 - our bug: the event at fault is found one by one
            self.fleet.advisories = before
            return False
        changes.inputs.extend(advisories)
        return True

    def reject_reason(self, event: Event) -> str | None:
        """Return the reason for which admission rejects this event; None if it admits it."""
        problem = self.objection(event)
        return None if problem is None else problem.detail

    def objection(self, event: Event) -> Problem | None:
        """Return the problem for which admission rejects this event; None if it admits it."""
        if is_device_event(event):
            return identity_problem(event)
        wrong = reject_reason(event, jobs=self._job_keys, approvals=self._approval_keys)
        return None if wrong is None else Problem(DeadLetterCode.BAD_VALUE, wrong, "$.data")

    def apply_duplicate(self, peek: ReportPeek, now: datetime, changes: Changes) -> int | None:
        """Fold a report that repeats the Mac's last one except for its time and telemetry.

        Equals `apply` for the decoded report. Returns the time of the report in us; None, without
        an effect, if the report must be decoded and applied. If our code raises, the state is as
        before.
        """
        return self._folding.apply_duplicate(peek, now, changes)

    def fold(self, event: Event) -> Change:
        """Fold an event that was admitted before, and mark nothing: for replay and broadcasts.

        Returns the records changed and the Macs affected. Raises PolicyError for a policy that
        cannot be read; the policy in force stays.
        """
        return self._folding.fold(event)

    def affected(self, change: Change) -> list[str]:
        """Return the UDIDs of the Macs whose decision the change can affect, sorted.

        Empty without a policy.
        """
        return self._marking.affected(change)

    def queue_backlog(self) -> None:
        """Turn all marks into one batch, with all Macs that wait for capacity.

        For the end of a catch-up: a job that ended in it may have freed capacity.
        """
        waiting = [udid for udid, one in self.last_decisions.items() if one.wants_capacity]
        self.queue.queue_backlog(self.fleet.canonical_udid, waiting)

    def queue_broadcast(self, folded: Iterable[Change], offsets: Mapping[str, int]) -> None:
        """Queue the Macs that these changes of the broadcast state affect, as one batch.

        Once all of them are decided, `offsets` are in `Changes.offsets`.
        """
        known = self.fleet.devices
        affected = self.affected(merge_changes(folded))
        self.queue.add_batch({udid for udid in affected if udid in known}, offsets)

    # --- deciding ---

    def decide_marked(self, now: datetime, limit: int, changes: Changes | None = None) -> Changes:
        """Decide for the Macs that inputs marked; return all that changed.

        All Macs that events of single Macs marked are decided, and at most `limit` of those that
        broadcast events or `queue_backlog` queued. The events that follow from a decision, and the
        decisions that follow from them, are included.
        """
        changes = Changes() if changes is None else changes
        self._decide_marks(now, changes)
        for udid in self.queue.pop_batched(limit, changes):
            self._deciding.decide(udid, now, changes)
        return changes

    def advance(self, now: datetime, limit: int, changes: Changes | None = None) -> Changes:
        """Do due work: as `decide_marked`, then for Macs whose time has come, then the sweep.

        In a new hour the Macs that wait for a site's capacity come first. At most `limit` Macs are
        decided, besides those, and those that events of single Macs marked. `next_due_at` is not
        after `now` if work is left.
        """
        changes = Changes() if changes is None else changes
        self._decide_marks(now, changes)
        hour = to_us(now) // HOUR_US
        if hour != self._assigned_hour:  # also one before it: a clock can be set back
            self._assigned_hour = hour
            self.capacity.forget_hours(to_us(now))
            for site in self.capacity.sites_with_waiting():
                self._deciding.assign_capacity(site, now, changes)
        for udid in self.queue.pop_due(now, limit, changes):
            self._deciding.decide(udid, now, changes)
        return changes

    def next_due_at(self, now: datetime) -> datetime | None:
        """Return the time at which `advance` has work, not before `now`; None for never.

        Work is a marked Mac, a Mac whose time comes, the next sweep, and the next hour of a site at
        which Macs wait.
        """
        due_at = self.queue.next_due_at(now)
        if not self.capacity.sites_with_waiting():
            return due_at
        hour = to_us(now) // HOUR_US
        hour_at = now if hour != self._assigned_hour else from_us((hour + 1) * HOUR_US)
        return hour_at if due_at is None else min(due_at, hour_at)

    def _decide_marks(self, now: datetime, changes: Changes) -> None:
        for mark in self.queue.pop_marks():
            if isinstance(mark, FreedSite):
                self._deciding.assign_capacity(mark.site, now, changes)
            else:
                self._deciding.decide(mark, now, changes)

    def situation(self, udid: str, now: datetime) -> Situation:
        """Return the Situation of this Mac at `now`. The caller ensures that there is a policy."""
        return self._deciding.situation(udid, now)

    def query_needs(self, udid: str, now: datetime) -> tuple[QueryNeed, ...]:
        """Return the queries that the Mac needs; none without a policy."""
        return () if self.policy is None else query_needs(self.situation(udid, now))

    def record_of(self, decision: Decision, s: Situation) -> DecisionRecord:
        """Return the record of a decision of this Situation."""
        return self._deciding.record_of(decision, s)

    # --- after a restart, and counts ---

    def restore(self, udid: str, last: LastDecision) -> None:
        """Restore a Mac's last decision after a restart, with its timer and its wait for capacity.

        The Mac's state must be loaded before. A record that belongs to another Mac is ignored.
        """
        if self.fleet.canonical_udid(udid) is None:
            self._deciding.restore(udid, last)

    def recount_jobs(self) -> None:
        """Count all open jobs and failed updates again, after the job histories were loaded."""
        self.capacity.recount(self.fleet.job_histories)
        self._failing_releases.recount()

    @property
    def open_jobs(self) -> Counter[tuple[str, str]]:
        """The number of open jobs by site and action."""
        return self.capacity.open_jobs

    def count_overdue(self, now: datetime) -> Counter[str]:
        """Return the number of exposed Macs past their deadline, by site; visits every Mac.

        The key is an empty string for Macs without a site.
        """
        return self._decided.count_overdue(now)
