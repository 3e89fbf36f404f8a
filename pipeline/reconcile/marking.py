"""Marks the Macs whose decision an event can change, for `DecisionQueue`."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from pipeline.reconcile.changes import Changes
from pipeline.reconcile.decision_queue import DecisionQueue
from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.reconcile.site_capacity import SiteCapacity
from pipeline.state.device import Device, to_us
from pipeline.state.fleet import Change, Fleet
from pipeline.state.jobs import infer_result, open_job


class Marking:
    """Adds Macs to the queue after a fold. It changes only the queue."""

    def __init__(
        self,
        fleet: Fleet,
        in_force: PolicyInForce,
        last_decisions: Mapping[str, LastDecision],
        capacity: SiteCapacity,
        queue: DecisionQueue,
    ) -> None:
        self._fleet = fleet
        self._in_force = in_force
        self._last_decisions = last_decisions
        self._capacity = capacity
        self._queue = queue

    def mark(
        self,
        change: Change,
        freed: tuple[str, ...],
        now: datetime,
        broadcast_udids: dict[str, None],
        changes: Changes,
    ) -> None:
        """Mark the Macs that a change affects, then the sites where it ended a job.

        The Macs that a broadcast event affects are added to `broadcast_udids` instead. A change of
        telemetry only, or of a host name that the policy does not read, marks the Mac only if it
        can change the Mac's decision.
        """
        if not change.udids:
            broadcast_udids |= dict.fromkeys(self.affected(change))
            return
        if change.is_material and self._is_relevant(change):
            for udid in self.affected(change):
                self._mark(udid, changes)
        else:
            self.mark_for_telemetry(change.udids[0], now, changes)
        for site in freed:
            self._queue.mark_site(site)

    def mark_for_telemetry(
        self, udid: str, now: datetime, changes: Changes, merged: Device | None = None
    ) -> None:
        """Mark the Mac if a report that changes only telemetry can change its decision.

        It can if the Mac has no decision, its decision depends on telemetry, its time to be decided
        has come, or the time or a report ends its open job. `merged` is the Mac's merged device, if
        the caller has it.
        """
        last = self._last_decisions.get(udid)
        if not (last is None or last.recheck_on_telemetry or 0 < last.recheck_us <= to_us(now)):
            # The time of a report alone can end an open job.
            if not self._capacity.has_open_job(udid):
                return
            entry = open_job(self._fleet.job_histories[udid])
            device = merged or self._fleet.merged_device(udid)
            if entry is None or infer_result(entry, device, udid, now) is None:
                return
        self._mark(udid, changes)

    def mark_macs(self, udids: Iterable[str], changes: Changes) -> None:
        """Mark these Macs."""
        for udid in udids:
            self._mark(udid, changes)

    def affected(self, change: Change) -> list[str]:
        """Return the UDIDs of the Macs whose decision the change can affect, sorted.

        Empty without a policy.
        """
        policy = self._in_force.policy
        if policy is None:
            return []
        wanted = policy.upgrades.supported_lines
        supported = self._fleet.advisories.supported_lines if wanted == "auto" else wanted
        return self._fleet.affected(change, supported=supported, upgrades_to=policy.upgrades.to)

    def _mark(self, udid: str, changes: Changes) -> None:
        self._queue.mark(udid)
        changes.marked[udid] = None

    def _is_relevant(self, change: Change) -> bool:
        """Return False if only a host name changed and the policy reads none."""
        policy = self._in_force.policy
        return not change.is_rename_only or policy is None or policy.reads_hostnames
