"""Folds events into the fleet: all of a fold, or nothing of it if our code raises."""

from datetime import datetime
from typing import Final, NamedTuple, get_args

from pipeline.policy.file import read_policy
from pipeline.reconcile.changes import Changes, DerivedRecord, Input, JobChange, JobProgress
from pipeline.reconcile.failing_releases import FailingReleases
from pipeline.reconcile.last_decision import LastDecisions
from pipeline.reconcile.marking import Marking
from pipeline.reconcile.site_capacity import SiteCapacity
from pipeline.reconcile.site_sizes import SiteSizes
from pipeline.state.change import NO_CHANGE, Change
from pipeline.state.device import FIRST_TELEMETRY, Device, from_us
from pipeline.state.fleet import Broadcast, Fleet
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.envelope import (
    AdvisoryEvent,
    AttemptsResetEvent,
    DeviceEvent,
    Event,
    HaltSetEvent,
    InventoryEvent,
    JobEvent,
    JobIssuedEvent,
    JobResultedEvent,
    PolicyChangedEvent,
    encode,
    is_device_event,
    is_job_event,
)
from schemas.fast.report_peek import ReportPeek
from schemas.results import Outcome
from schemas.routing import event_key

_EVENTS_OF_ONE_MAC: Final = frozenset((*get_args(DeviceEvent), *get_args(JobEvent)))


class _Saved(NamedTuple):
    """The state before a fold; `broadcast` is None for an event of one Mac."""

    key: str
    device: Device | None
    history: JobHistory
    broadcast: Broadcast | None


class Folding:
    """Folds events into one fleet, with the counts and the marks that follow from a fold.

    `failing_releases` are the counts of failed updates, `sizes` those of the Macs of each site.
    """

    def __init__(
        self,
        fleet: Fleet,
        capacity: SiteCapacity,
        sizes: SiteSizes,
        failing_releases: FailingReleases,
        last_decisions: LastDecisions,
        marking: Marking,
        *,
        fast_paths: bool,
    ) -> None:
        self._fleet = fleet
        self._capacity = capacity
        self.sizes = sizes
        self.failing_releases = failing_releases
        self._last_decisions = last_decisions
        self._marking = marking
        self._fast_paths = fast_paths

    def apply_input(
        self, one: Input, now: datetime, broadcast_udids: dict[str, None], changes: Changes
    ) -> None:
        """Fold one input and mark the Macs that it affects.

        The Macs that a broadcast event affects are added to `broadcast_udids` instead. If our code
        raises, the state is as before.
        """
        event = one.event
        saved = self._save(event)
        try:
            change, freed = self._fold(event)
            if one.peek is not None:
                assert type(event) is InventoryEvent  # `peek_report` returns None for others
                self._fleet.remember(event, one.peek)
            if change is not NO_CHANGE:
                self._marking.mark(change, freed, now, broadcast_udids, changes)
                families = self._count_failures(event, change)
                if families:
                    broadcast_udids |= dict.fromkeys(self.failing_releases.macs_of(families))
        except Exception:
            self._roll_back(event, saved)
            raise
        changes.inputs.append(one)
        if change is not NO_CHANGE:
            self._drop_merged(change, changes)
            self._note_changes(event, one.raw, saved, changes)

    def apply_duplicate(self, peek: ReportPeek, now: datetime, changes: Changes) -> int | None:
        """Fold a report that repeats the Mac's last one except for its time and telemetry.

        Equals `apply_input` for the decoded report. Returns the time of the report in us; None,
        without an effect, if the report must be decoded and applied. If our code raises, the state
        is as before.
        """
        applied = self._fleet.apply_duplicate(peek)
        if applied is None:
            return None
        before, after, us = applied
        udid = after.udid
        try:
            self._marking.mark_for_telemetry(udid, now, changes, after, us)
        except Exception:
            self._fleet.devices[udid] = before
            raise
        if after.inventory_days != before.inventory_days:
            changes.devices[udid] = None
        else:
            changes.telemetry[udid] = None
        return us

    def apply_derived(
        self, event: JobEvent, udid: str, freed: dict[str, None], changes: Changes
    ) -> bool:
        """Fold an event that follows from the state; return True if it changed the Mac's jobs.

        The sites where it ended a job are added to `freed`. If our code raises, the state is as
        before.
        """
        raw = encode(event, fast_paths=self._fast_paths)
        saved = self._save(event)
        try:
            change, sites = self._fold(event)
        except Exception:
            self._roll_back(event, saved)
            raise
        changes.records.append(DerivedRecord(udid, raw, event))
        if change is NO_CHANGE:
            return False
        families = self._count_failures(event, change)
        self._marking.mark_macs(self.failing_releases.macs_of(families), changes)
        self._note_changes(event, raw, saved, changes)
        freed |= dict.fromkeys(sites)
        return True

    def apply_halt(self, event: HaltSetEvent, changes: Changes) -> list[str]:
        """Fold a halt that Drydock itself sets; return the Macs that it affects, sorted.

        If our code raises, the state is as before.
        """
        raw = encode(event, fast_paths=self._fast_paths)
        saved = self._save(event)
        try:
            change, _ = self._fold(event)
        except Exception:
            self._roll_back(event, saved)
            raise
        changes.records.append(DerivedRecord(saved.key, raw, event))
        self._note_changes(event, raw, saved, changes)
        return self._marking.affected(change)

    def fold(self, event: Event) -> Change:
        """Fold an event that was admitted before, and mark nothing: for replay and broadcasts.

        Returns the records changed and the Macs affected. Raises PolicyError for a policy that
        cannot be read; the policy in force stays.
        """
        change = self._fold(event)[0]
        if change is not NO_CHANGE:
            self._count_failures(event, change)
        return change

    def _fold(self, event: Event) -> tuple[Change, tuple[str, ...]]:
        """Return the change, and the sites (sorted) where it ended a job.

        Also counts open jobs again. Raises PolicyError for a policy that cannot be read; then
        nothing is changed.
        """
        if type(event) is InventoryEvent:
            return self._count_macs(self._fleet.apply(event)), ()
        if is_job_event(event):
            udid = event_key(event)
            histories = self._fleet.job_histories
            before = histories.get(udid, ())
            change = self._fleet.apply(event)
            return change, self._capacity.count_changes(udid, before, histories.get(udid, ()))
        if isinstance(event, PolicyChangedEvent):
            read_policy(event.data.text)
        return self._count_macs(self._fleet.apply(event)), ()

    def _count_macs(self, change: Change) -> Change:
        """Count the confirmed Macs of the sites again after a change, and return it."""
        if change.affects_all:
            self.sizes.recount()
        elif change is not NO_CHANGE:
            self.sizes.count(change.udids, is_material=change.is_material)
        return change

    def _count_failures(self, event: Event, change: Change) -> tuple[str, ...]:
        """Count failed updates again; return the model families whose holds changed."""
        failing = self.failing_releases
        if is_device_event(event):
            is_material = change.is_material and bool(change.udids)
            return failing.note_report(change.udids[0]) if is_material else ()
        if is_job_event(event):
            return failing.count(event_key(event))
        return failing.recount_after_reset() if isinstance(event, AttemptsResetEvent) else ()

    # --- undoing ---

    def _save(self, event: Event) -> _Saved:
        """Return the state that folding the event can change, for `_roll_back`."""
        fleet, key = self._fleet, event_key(event)
        return _Saved(
            key,
            fleet.devices.get(key),
            fleet.job_histories.get(key, ()),
            None if type(event) in _EVENTS_OF_ONE_MAC else fleet.copy_broadcast(),
        )

    def _roll_back(self, event: Event, saved: _Saved) -> None:
        self._fleet.roll_back(*saved)
        if isinstance(event, JobEvent):
            self._capacity.recount(self._fleet.job_histories)
        self.failing_releases.recount()
        self.sizes.recount()

    # --- changes ---

    def _drop_merged(self, change: Change, changes: Changes) -> None:
        """Drop the decisions of changed records that are now part of a Mac."""
        if change.is_material:
            for name in change.udids:
                if (
                    name in self._last_decisions.by_udid
                    and self._fleet.canonical_udid(name) is not None
                ):
                    self._last_decisions.remove(name)
                    changes.last_decisions[name] = None

    def _note_changes(self, event: Event, raw: bytes, saved: _Saved, changes: Changes) -> None:
        """Add to `changes` all that the fold of an event changed."""
        if is_device_event(event):
            key, before = saved.key, saved.device
            after = self._fleet.devices.get(key)
            # Rows lack the data that recognises a duplicate: equal devices may differ in it.
            if after is not None and after is not before and after != before:
                is_report = type(event) is InventoryEvent  # it is no check-in
                is_telemetry = _is_telemetry(before, after, compare_checkins=not is_report)
                (changes.telemetry if is_telemetry else changes.devices)[key] = None
        elif is_job_event(event):
            self._note_job(event, raw, saved, changes)
        else:
            changes.broadcast[broadcast_part(event)] = None

    def _note_job(self, event: JobEvent, raw: bytes, saved: _Saved, changes: Changes) -> None:
        """Add to `changes` the change of the event's job; nothing if the job is unchanged."""
        job_id = event.data.job.job_id if isinstance(event, JobIssuedEvent) else event.data.job_id
        history = self._fleet.job_histories.get(saved.key, ())
        if history is not saved.history:
            changes.job_histories[saved.key] = None
        old, new = _find_job(saved.history, job_id), _find_job(history, job_id)
        if new is None or new is old:
            return
        if (old is not None and old.is_open) is not new.is_open:
            changes.job_changes.append(JobChange(saved.key, new, raw))
        if isinstance(event, JobResultedEvent):
            outcome, error = event.data.outcome, event.data.error_code
            changes.results.append(JobProgress(new.action, outcome, new.site, new.method, error))
            if new.outcome is Outcome.SUCCEEDED:
                duration = event.time - from_us(new.issued_us)
                changes.durations.append((new.action, duration.total_seconds()))


def _is_telemetry(before: Device | None, after: Device, *, compare_checkins: bool) -> bool:
    """Return True if only times and telemetry differ."""
    return (
        before is not None
        and before.values[:FIRST_TELEMETRY] == after.values[:FIRST_TELEMETRY]
        and (not compare_checkins or before.checkins == after.checkins)
        and before.inventory_days == after.inventory_days
    )


_BROADCAST_PARTS: Final = {
    "policy": "policy",
    "halt": "halts",
    "approval": "approvals",
    "attempts": "resets",
    "identity": "identities",
    "strike": "advisories",
}


def broadcast_part(event: Event) -> str:
    """Return the part of the broadcast state that a broadcast event changes."""
    if isinstance(event, AdvisoryEvent):
        return "advisories"
    return _BROADCAST_PARTS[event.type.split(".")[1]]


def _find_job(history: JobHistory, job_id: str) -> JobEntry | None:
    return next((entry for entry in history if entry.job_id == job_id), None)
