"""The loop of decisions: fold inputs, mark the affected Macs, decide for them, return `Changes`.

Both shells drive it. It does no I/O and has no key: a shell passes `sign`, and makes the returned
`Changes` durable before it acknowledges the inputs.

| call | folds | decides |
| --- | --- | --- |
| `apply` | a batch of inputs | nothing; marks the affected Macs |
| `apply_duplicate` | a duplicate of the Mac's last report, not decoded | nothing; marks the Mac |
| `decide_marked` | events that follow from the decisions | for the marked Macs |
| `advance` | events that follow from the decisions | also for Macs due by time or by the sweep |

Deciding for a Mac goes on until nothing follows from it: a result or a withdrawal that ends its
job, its decision, the job issued, the decision to hold it for that job. Then the Macs that wait for
the freed capacity are decided, by deadline.

Invariant: if our code raises for an input or for a Mac, the state and `Changes` have either all of
a fold or decision, or nothing of it, and `Changes.rejections` names it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pipeline.decide.admission import reject_reason
from pipeline.decide.decision import Evaluation, evaluate
from pipeline.decide.fast.after_send import reevaluate_after_send
from pipeline.decide.job import build_job
from pipeline.decide.job_events import issued_event, result_event, superseded_event
from pipeline.decide.situation import Situation, site_of
from pipeline.policy.file import policy_digest, read_policy
from pipeline.policy.model import Policy
from pipeline.reconcile.changes import Changes, DerivedRecord, Input, JobChange, Rejection
from pipeline.reconcile.decision_queue import DecisionQueue, FreedSite
from pipeline.reconcile.last_decision import LastDecision, fingerprint
from pipeline.reconcile.site_capacity import SiteCapacity
from pipeline.state.device import FIRST_TELEMETRY, Device, from_us, to_us
from pipeline.state.fleet import NO_CHANGE, Broadcast, Change, Fleet
from pipeline.state.jobs import JobEntry, JobHistory, extra_open_jobs, infer_result, open_job
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Decision, DecisionInputs, DecisionRecord, Verdict, encode_record
from schemas.envelope import (
    AdvisoryEvent,
    DeviceEvent,
    Event,
    InventoryEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    PolicyChangedEvent,
    encode,
)
from schemas.fast.models import construct_unchecked
from schemas.fast.report_peek import ReportPeek
from schemas.jobs import Job, JobIssued
from schemas.results import Outcome
from schemas.routing import event_key
from schemas.signed_payloads import PublicKeys

SOURCE: Final = "/drydock/decide"

Sign = Callable[[Job], JobIssued]
_JobEvent = JobIssuedEvent | JobSupersededEvent | JobResultedEvent
_OneMacEvent = DeviceEvent | _JobEvent
_NO_KEYS: Final[PublicKeys] = MappingProxyType({})
# More than the jobs of one Mac that can be open at once.
_MAX_STEPS: Final = 100


class _Saved(NamedTuple):
    """The state before a fold; `broadcast` is None for an event of one Mac."""

    key: str
    device: Device | None
    history: JobHistory
    broadcast: Broadcast | None


@dataclass(slots=True)
class _Progress:
    """Consequences of deciding for one Mac: sites with new capacity, and its jobs issued."""

    freed: dict[str, None] = field(default_factory=dict)
    issued: int = 0


class Reconciler:
    """Decides for the Macs of one Fleet. The caller is the only writer.

    `sign` signs a job; without it the reconciler can only fold. `job_keys` and `approval_keys` are
    the public keys that admission trusts. `queue` has the Macs to decide; every Mac is swept each
    `sweep_every`. Without `fast_paths` no value of an earlier evaluation is reused and every model
    is validated: slower, with the same decisions and bytes (docs/explanation/fast-paths.md).
    """

    def __init__(
        self,
        fleet: Fleet | None = None,
        *,
        sign: Sign | None = None,
        job_keys: PublicKeys = _NO_KEYS,
        approval_keys: PublicKeys = _NO_KEYS,
        sweep_every: timedelta | None = None,
        fast_paths: bool = True,
    ) -> None:
        self.fleet = fleet or Fleet()
        self._sign = sign
        self._job_keys = job_keys
        self._approval_keys = approval_keys
        self._fast_paths = fast_paths
        self.last_decisions: dict[str, LastDecision] = {}
        self.exposed: Counter[tuple[str, str]] = Counter()
        self.queue = DecisionQueue(self.fleet.macs, self.last_decisions, sweep_every)
        self.capacity = SiteCapacity()
        # Records whose decisions were dropped and are in no `Changes` yet.
        self._dropped_decisions: dict[str, None] = {}
        # The detail of the last dead letter of a Mac that has not been decided since.
        self._failing: dict[str, str] = {}
        self._parsed_policy: tuple[str, Policy] | None = None
        self._policy_override: tuple[str, Policy] | None = None
        # The last evaluation, if it sent a job: the next one is mostly of the same Mac.
        self._last_sent: tuple[Situation, Evaluation] | None = None
        # A Mac and its wire form: two records in a row are mostly of the same.
        self._last_wire: tuple[Device, dict[str, Any]] | None = None

    # --- policy ---

    @property
    def policy(self) -> Policy | None:
        """The policy in force, or the one set by `override_policy`; None before the first policy.

        Raises PolicyError if the text in force is not a valid policy.
        """
        if self._policy_override is not None:
            return self._policy_override[1]
        changed = self.fleet.policy
        if changed is None:
            return None
        if self._parsed_policy is None or self._parsed_policy[0] != changed.text:
            self._parsed_policy = (changed.text, read_policy(changed.text))
        return self._parsed_policy[1]

    @property
    def policy_digest(self) -> str | None:
        """The digest of the text of the policy that `policy` returns; None without a policy."""
        if self._policy_override is not None:
            return self._policy_override[0]
        return None if self.fleet.policy is None else self.fleet.policy.digest

    def override_policy(self, text: str) -> None:
        """Decide by this policy instead of the policy in the log, for a replay with another policy.

        Raises PolicyError if the text is not a valid policy.
        """
        self._policy_override = (policy_digest(text), read_policy(text))

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
        for one in inputs:
            code, where = DeadLetterCode.BAD_VALUE, "$.data"
            try:
                detail = self.reject_reason(one.event)
                if detail is None:
                    self._apply(one, now, broadcast_udids, changes)
                    continue
            except Exception as error:  # noqa: BLE001 - our bug: the other inputs are applied
                code, where = DeadLetterCode.BUG, ""
                detail = f"folding it failed: {_text_of(error)}"
            changes.rejections.append(Rejection(one.raw, code, detail, where, one.event))
        if broadcast_udids:
            self.queue.add_batch(broadcast_udids)
        return changes

    def reject_reason(self, event: Event) -> str | None:
        """Return the reason for which admission rejects this event; None if it admits it."""
        return reject_reason(event, jobs=self._job_keys, approvals=self._approval_keys)

    def _apply(
        self, one: Input, now: datetime, broadcast_udids: dict[str, None], changes: Changes
    ) -> None:
        """Fold one input and mark the Macs that it affects.

        The Macs that a broadcast event affects are added to `broadcast_udids` instead.

        If our code raises, the state is as before.
        """
        event = one.event
        saved = self._save(event)
        try:
            change, freed = self._fold(event)
            if one.peek is not None and type(event) is InventoryEvent:
                self.fleet.remember(event, one.peek)
            if change is not NO_CHANGE:
                self._mark(change, freed, now, broadcast_udids, changes)
        except Exception:
            self._roll_back(event, saved)
            raise
        changes.inputs.append(one)
        if change is not NO_CHANGE:
            self._note_changes(event, one.raw, saved, changes)

    def apply_duplicate(self, peek: ReportPeek, now: datetime, changes: Changes) -> int | None:
        """Fold a report that repeats the Mac's last one except for its time and telemetry.

        Equals `apply` for the decoded report. Returns the time of the report in us; None, without
        an effect, if the report must be decoded and applied. If our code raises, the state is as
        before.
        """
        applied = self.fleet.apply_duplicate(peek)
        if applied is None:
            return None
        before, after, us = applied
        udid = after.udid
        try:
            if self.telemetry_matters(udid, now, after):
                self.queue.mark(udid)
                changes.marked[udid] = None
        except Exception:
            self.fleet.devices[udid] = before
            raise
        if after.inventory_days != before.inventory_days:
            changes.devices[udid] = None
        else:
            changes.telemetry[udid] = None
        return us

    def _mark(
        self,
        change: Change,
        freed: tuple[str, ...],
        now: datetime,
        broadcast_udids: dict[str, None],
        changes: Changes,
    ) -> None:
        """Mark the Macs that a change affects, then the sites where it ended a job.

        A change of telemetry only, or of a host name that the policy does not read, marks the Mac
        only if it can change the Mac's decision.
        """
        if not change.udids:
            broadcast_udids |= dict.fromkeys(self.affected(change))
            return
        if change.is_material and self._is_relevant(change):
            marked = self.affected(change)
        else:
            udid = change.udids[0]
            marked = [udid] if self.telemetry_matters(udid, now) else []
        for udid in marked:
            self.queue.mark(udid)
            changes.marked[udid] = None
        for site in freed:
            self.queue.mark_site(site)

    def _is_relevant(self, change: Change) -> bool:
        """Return False if only a host name changed and the policy reads none."""
        policy = self.policy
        return not change.is_rename_only or policy is None or policy.reads_hostnames

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
        self.queue.add_batch(
            {udid for change in folded for udid in self.affected(change) if udid in known}, offsets
        )

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
            self._decide(udid, now, changes)
        return changes

    def advance(self, now: datetime, limit: int, changes: Changes | None = None) -> Changes:
        """Do due work: as `decide_marked`, then for Macs whose time has come, then the sweep.

        At most `limit` Macs are decided, besides those that events of single Macs marked.
        `next_due_at` is not after `now` if work is left.
        """
        changes = Changes() if changes is None else changes
        self._decide_marks(now, changes)
        for udid in self.queue.pop_due(now, limit, changes):
            self._decide(udid, now, changes)
        return changes

    def next_due_at(self, now: datetime) -> datetime | None:
        """Return the time at which `advance` has work, not before `now`; None for never.

        Work is a marked Mac, a Mac whose time comes, and the next sweep.
        """
        return self.queue.next_due_at(now)

    def _decide_marks(self, now: datetime, changes: Changes) -> None:
        for mark in self.queue.pop_marks():
            if isinstance(mark, FreedSite):
                self._assign_capacity(mark.site, now, changes)
            else:
                self._decide(mark, now, changes)

    def _decide(self, udid: str, now: datetime, changes: Changes) -> int:
        """Decide for one Mac with all that follows from it; return the number of jobs issued to it.

        Events that end its jobs are folded first: the Mac's reports, the time or the decision end
        a job. Then freed capacity is assigned. Without a policy, and for a record that belongs to
        another Mac, nothing is done. An exception is a Rejection; the last decision stays.
        """
        if self.policy is None or self.fleet.canonical_udid(udid) is not None:
            return 0
        progress = _Progress()
        try:
            self._decide_to_end(udid, now, progress, changes)
        except Exception as error:  # noqa: BLE001 - one Mac's bug must not hold up the others
            self._reject_decision(udid, error, changes)
        for site in progress.freed:
            self._assign_capacity(site, now, changes)
        return progress.issued

    def _decide_to_end(
        self, udid: str, now: datetime, progress: "_Progress", changes: Changes
    ) -> None:
        for _ in range(_MAX_STEPS):
            if not self._step(udid, now, progress, changes):
                return
        raise AssertionError(f"the jobs of {udid} change without end")

    def _step(self, udid: str, now: datetime, progress: "_Progress", changes: Changes) -> bool:
        """Fold the next event that ends a job of the Mac, or else decide for it.

        A decision is kept if it differs from the last one or sends a job. Returns True if the
        Mac's jobs changed: then it must be decided again.
        """
        last, situation = self.last_decisions.get(udid), self.situation(udid, now)
        entry = situation.open_job
        if entry is not None:
            for extra in extra_open_jobs(situation.job_history):
                event = superseded_event(extra, udid, entry.job_id, SOURCE, now)
                if self._fold_derived(event, udid, progress, changes):
                    return True
            result = infer_result(entry, situation.device, udid, now)
            if result is not None:
                settled = result_event(result, SOURCE, now)
                if self._fold_derived(settled, udid, progress, changes):
                    return True
        found = self._evaluate(situation)
        decision = found.decision
        if decision.supersedes is not None and entry is not None:
            by = decision.job_id or decision.reason.value
            event = superseded_event(entry, udid, by, SOURCE, now)
            if self._fold_derived(event, udid, progress, changes):
                return True
        digest = fingerprint(decision)
        sends = decision.decision is Verdict.SEND
        # A job that was ordered before and is in no job history was lost: it is sent again.
        if last is not None and last.fingerprint == digest and not sends:
            return False
        # All that can raise comes first: then either all of it is in `changes`, or nothing.
        issued = self._issue(situation, decision, now) if sends else None
        record = self.record_of(decision, situation)
        body = encode_record(record, fast_paths=self._fast_paths)
        self._remember_decision(found, digest)
        self._failing.pop(udid, None)
        changes.records.append(DerivedRecord(udid, body, record))
        changes.last_decisions[udid] = None
        self._last_sent = (situation, found) if sends and self._fast_paths else None
        if issued is None:
            return False
        progress.issued += 1
        return self._fold_derived(issued, udid, progress, changes)

    def _issue(self, s: Situation, decision: Decision, now: datetime) -> JobIssuedEvent:
        """Return the event that issues the signed job of a decision to send."""
        assert self._sign is not None, "a reconciler without `sign` only folds"
        job = build_job(s, decision, fast_paths=self._fast_paths)
        return issued_event(self._sign(job), SOURCE, now)

    def _assign_capacity(self, site: str, now: datetime, changes: Changes) -> None:
        """Decide for Macs that wait for the site, while it has capacity.

        The Mac with the first deadline is decided first, a Mac without a deadline last. A Mac that
        is decided leaves the queue. Nothing without a policy, or if the policy lacks the site.
        """
        policy = self.policy
        if policy is None or site not in policy.sites:
            return
        free = policy.sites[site].max_jobs - self.capacity.site_jobs[site]
        while free > 0:
            udid = self.capacity.pop_waiting(site, self.last_decisions)
            if udid is None:
                return
            free -= self._decide(udid, now, changes)

    # --- folding ---

    def _fold_derived(
        self, event: _JobEvent, udid: str, progress: "_Progress", changes: Changes
    ) -> bool:
        """Fold an event that follows from the state; return True if it changed the Mac's jobs.

        If our code raises, the state is as before.
        """
        raw = encode(event, fast_paths=self._fast_paths)
        saved = self._save(event)
        try:
            change, freed = self._fold(event)
        except Exception:
            self._roll_back(event, saved)
            raise
        changes.records.append(DerivedRecord(udid, raw, event))
        if change is NO_CHANGE:
            return False
        self._note_changes(event, raw, saved, changes)
        progress.freed |= dict.fromkeys(freed)
        return True

    def _save(self, event: Event) -> "_Saved":
        """Return the state that folding the event can change, for `_roll_back`."""
        fleet, key = self.fleet, event_key(event)
        return _Saved(
            key,
            fleet.devices.get(key),
            fleet.job_histories.get(key, ()),
            None if isinstance(event, _OneMacEvent) else fleet.copy_broadcast(),
        )

    def _roll_back(self, event: Event, saved: "_Saved") -> None:
        self.fleet.roll_back(*saved)
        if isinstance(event, _JobEvent):
            self.recount_jobs()

    def _note_changes(self, event: Event, raw: bytes, saved: "_Saved", changes: Changes) -> None:
        """Add to `changes` all that the fold of an event changed."""
        key, before = saved.key, saved.device
        after = self.fleet.devices.get(key)
        # Devices that differ only in the data that recognises a duplicate are equal: rows lack it.
        if after is not None and after is not before and after != before:
            (changes.telemetry if _is_telemetry(before, after) else changes.devices)[key] = None
        if self._dropped_decisions:
            changes.last_decisions |= self._dropped_decisions
            self._dropped_decisions.clear()
        if isinstance(event, _JobEvent):
            self._note_job(event, raw, saved, changes)
        elif saved.broadcast is not None:
            changes.broadcast[_broadcast_part(event)] = None

    def _note_job(self, event: _JobEvent, raw: bytes, saved: "_Saved", changes: Changes) -> None:
        """Add to `changes` the change of the event's job; nothing if the job is unchanged."""
        job_id = event.data.job.job_id if isinstance(event, JobIssuedEvent) else event.data.job_id
        history = self.fleet.job_histories.get(saved.key, ())
        if history is not saved.history:
            changes.job_histories[saved.key] = None
        old, new = _find_job(saved.history, job_id), _find_job(history, job_id)
        if new is None or new is old:
            return
        if (old is not None and old.is_open) is not new.is_open:
            changes.job_changes.append(JobChange(new.site, raw))
        if isinstance(event, JobResultedEvent):
            changes.results.append((new.action, event.data.outcome))
            if new.outcome is Outcome.SUCCEEDED:
                duration = event.time - from_us(new.issued_us)
                changes.durations.append((new.action, duration.total_seconds()))

    def _reject_decision(self, udid: str, error: Exception, changes: Changes) -> None:
        """Add a Rejection for a Mac for which deciding raised, with its state.

        Nothing if the Mac failed with the same error before, without a decision since.
        """
        detail = f"deciding failed: {_text_of(error)}"
        if self._failing.get(udid) != detail:
            self._failing[udid] = detail
            raw = json.dumps(self.fleet.merged_device(udid).to_wire()).encode()
            changes.rejections.append(Rejection(raw, DeadLetterCode.BUG, detail, udid=udid))

    def fold(self, event: Event) -> Change:
        """Fold an event that was admitted before, and mark nothing: for replay and broadcasts.

        Returns the records changed and the Macs affected. Raises PolicyError for a policy that
        cannot be read; the policy in force stays.
        """
        return self._fold(event)[0]

    def _fold(self, event: Event) -> tuple[Change, tuple[str, ...]]:
        """Return the change, and the sites (sorted) where it ended a job.

        Also counts open jobs again, and drops decisions of records that are now part of a Mac.
        Raises PolicyError for a policy that cannot be read; then nothing is changed.
        """
        if type(event) is InventoryEvent:
            change = self.fleet.apply(event)
            if not change.is_material:
                return change, ()
            return self._drop_merged(change), ()
        if isinstance(event, PolicyChangedEvent):
            read_policy(event.data.text)
        elif isinstance(event, JobIssuedEvent | JobSupersededEvent | JobResultedEvent):
            udid = event_key(event)
            histories = self.fleet.job_histories
            before = histories.get(udid, ())
            change = self.fleet.apply(event)
            return change, self.capacity.count_changes(udid, before, histories.get(udid, ()))
        return self._drop_merged(self.fleet.apply(event)), ()

    def _drop_merged(self, change: Change) -> Change:
        """Return `change` itself; drop the decisions of its records that are now part of a Mac."""
        if not change.lines and not change.affects_all:
            for name in change.udids:
                if name in self.last_decisions and self.fleet.canonical_udid(name) is not None:
                    self._drop_decision(name)
        return change

    def affected(self, change: Change) -> list[str]:
        """Return the UDIDs of the Macs whose decision the change can affect, sorted.

        Empty without a policy.
        """
        policy = self.policy
        if policy is None:
            return []
        wanted = policy.upgrades.supported_lines
        supported = self.fleet.advisories.supported_lines if wanted == "auto" else wanted
        return self.fleet.affected(change, supported=supported, upgrades_to=policy.upgrades.to)

    # --- one Mac ---

    def _evaluate(self, s: Situation) -> Evaluation:
        """Return the evaluation of this Situation.

        Only the gate `job_open` is evaluated again if the last decision sent a job, and that job,
        now open, is the only difference of the Situations.
        """
        if self._last_sent is not None:
            (before, evaluation), self._last_sent = self._last_sent, None
            if _differs_by_open_job(s, before, evaluation.decision.job_id):
                return reevaluate_after_send(s, evaluation)
        return evaluate(s, fast_paths=self._fast_paths)

    def situation(self, udid: str, now: datetime) -> Situation:
        """Return the Situation of this Mac at `now`. The caller ensures that there is a policy."""
        policy = self.policy
        assert policy is not None
        device, history = self.fleet.merged_device(udid), self.fleet.job_histories.get(udid, ())
        site = site_of(device, policy)
        own_job = open_job(history)
        found = Situation(
            device,
            self.fleet.advisories,
            policy,
            now,
            history,
            self.fleet.halts(),
            self.fleet.approvals(udid),
            self.capacity.count_others(site, own_job),
        )
        if self._fast_paths:
            # The values that the Situation's own properties would compute.
            settings = None if site is None else policy.sites[site]
            found.__dict__.update(site_name=site, site=settings, open_job=own_job)
        return found

    def record_of(self, decision: Decision, s: Situation) -> DecisionRecord:
        """Return the record of a decision of this Situation.

        Its inputs suffice to compute the decision again, with the policy and the catalogue of its
        digests.
        """
        values = {
            "now": s.now,
            "device": self._wire_of(s.device),
            "job_history": [entry.to_wire() for entry in s.job_history],
            "policy_digest": self.policy_digest,
            "catalog_digest": s.advisories.digest,
            "halts": tuple([halt.model_dump_json() for halt in s.halts]),
            "approvals": tuple([one.model_dump(mode="json") for one in s.approvals]),
            "site_open_jobs": s.site_open_jobs,
        }
        inputs = (
            construct_unchecked(DecisionInputs, values)
            if self._fast_paths
            else DecisionInputs(**values)
        )
        return DecisionRecord(decision=decision, inputs=inputs)

    def _wire_of(self, device: Device) -> dict[str, Any]:
        """Return the device as JSON values; with `fast_paths` those of the last device are kept."""
        if not self._fast_paths:
            return device.to_wire()
        if self._last_wire is None or self._last_wire[0] is not device:
            self._last_wire = device, device.to_wire()
        return self._last_wire[1]

    def restore(self, udid: str, last: LastDecision) -> None:
        """Restore a Mac's last decision after a restart, with its timer and its wait for capacity.

        The Mac's state must be loaded before. A record that belongs to another Mac is ignored.
        """
        if self.fleet.canonical_udid(udid) is not None:
            return
        self._count_exposed(self.last_decisions.get(udid), last)
        self.last_decisions[udid] = last
        self._await(udid, last)

    def _await(self, udid: str, last: LastDecision) -> None:
        """Let the Mac be decided again at its time, and when its site has capacity."""
        if last.recheck_us:
            self.queue.set_timer(udid, last.recheck_us)
        self.capacity.wait(udid, last)

    def recount_jobs(self) -> None:
        """Count all open jobs again, after the job histories were loaded."""
        self.capacity.recount(self.fleet.job_histories)

    @property
    def open_jobs(self) -> Counter[tuple[str, str]]:
        """The number of open jobs by site and action."""
        return self.capacity.open_jobs

    def count_overdue(self, now: datetime) -> Counter[str]:
        """Return the number of exposed Macs past their deadline, by site; visits every Mac.

        The key is an empty string for Macs without a site.
        """
        now_us = to_us(now)
        return Counter(
            last.site or ""
            for last in self.last_decisions.values()
            if last.severity is not None and 0 < last.deadline_us <= now_us
        )

    # --- bookkeeping ---

    def telemetry_matters(self, udid: str, now: datetime, merged: Device | None = None) -> bool:
        """Return True if a report with nothing but telemetry can change the Mac's decision.

        True if the Mac has no decision, its decision depends on telemetry, its time to be decided
        has come, or the time or a report ends its open job. `merged` is the Mac's merged device, if
        the caller has it.
        """
        last = self.last_decisions.get(udid)
        if last is None or last.recheck_on_telemetry:
            return True
        if 0 < last.recheck_us <= to_us(now):
            return True
        # The time of a report alone can end an open job.
        if not self.capacity.has_open_job(udid):
            return False
        entry = open_job(self.fleet.job_histories[udid])
        return entry is not None and (
            infer_result(entry, merged or self.fleet.merged_device(udid), udid, now) is not None
        )

    def _remember_decision(self, found: Evaluation, digest: bytes) -> None:
        """Keep the evaluation as the Mac's last decision, with its timer and its queue entry."""
        decision = found.decision
        deadline, next_at = decision.deadline_at, decision.next_eligible_at
        last = LastDecision(
            digest,
            decision.decision,
            decision.reason,
            0 if next_at is None else to_us(next_at),
            decision.site,
            decision.severity if decision.cves else None,
            0 if deadline is None else to_us(deadline),
            found.recheck_on_telemetry,
            found.waits_for_capacity,
        )
        self._count_exposed(self.last_decisions.get(decision.udid), last)
        self.last_decisions[decision.udid] = last
        self._await(decision.udid, last)

    def _drop_decision(self, udid: str) -> None:
        """Remove the decision of a record that has become part of a Mac."""
        self._count_exposed(self.last_decisions.pop(udid, None), None)
        self._dropped_decisions[udid] = None

    def _count_exposed(self, old: LastDecision | None, new: LastDecision | None) -> None:
        """Move a Mac in the counts of `exposed` from its old decision to its new one."""
        if (
            old is not None
            and new is not None
            and old[_SITE_AND_SEVERITY] == new[_SITE_AND_SEVERITY]
        ):
            return
        for last, sign in ((old, -1), (new, 1)):
            if last is not None and last.severity is not None:
                self.exposed[last.site or "", last.severity.value] += sign


# The fields `site` and `severity` of LastDecision.
_SITE_AND_SEVERITY: Final = slice(4, 6)

_ALL_BUT_HISTORY: Final = attrgetter(
    "device", "advisories", "policy", "now", "halts", "approvals", "site_open_jobs"
)


def _differs_by_open_job(s: Situation, before: Situation, job_id: str | None) -> bool:
    """Return True if the Situation is `before` plus the open job `job_id` as its newest job."""
    if not s.job_history or s.job_history[-1].job_id != job_id or not s.job_history[-1].is_open:
        return False
    return s.job_history[:-1] == before.job_history and _ALL_BUT_HISTORY(s) == _ALL_BUT_HISTORY(
        before
    )


def _is_telemetry(before: Device | None, after: Device) -> bool:
    """Return True if only times and telemetry differ."""
    return (
        before is not None
        and before.values[:FIRST_TELEMETRY] == after.values[:FIRST_TELEMETRY]
        and before.checkins == after.checkins
        and before.inventory_days == after.inventory_days
    )


def _broadcast_part(event: Event) -> str:
    """Return the part of the broadcast state that a broadcast event changes."""
    if isinstance(event, AdvisoryEvent):
        return "advisories"
    return {"policy": "policy", "halt": "halts", "approval": "approvals"}[event.type.split(".")[1]]


def _find_job(history: JobHistory, job_id: str) -> JobEntry | None:
    return next((entry for entry in history if entry.job_id == job_id), None)


def _text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
