"""Marks the Macs whose decision an event can change, for `DecisionQueue`."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from pipeline.decide.needs.enrollment import mdm_silent_from_us
from pipeline.reconcile.changes import Changes
from pipeline.reconcile.decision_queue import DecisionQueue
from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.reconcile.site_capacity import SiteCapacity
from pipeline.state.change import Change
from pipeline.state.device import Device, to_us
from pipeline.state.fleet import Fleet
from pipeline.state.job_ends import infer_end


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
        # The last time and its microseconds: a batch of reports has one time.
        self._now: tuple[datetime | None, int] = (None, 0)
        # Saves time: no report up to this time shows that MDM is silent. Of Macs that were not
        # marked since.
        self._not_silent_until_us: dict[str, int] = {}

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
        self,
        udid: str,
        now: datetime,
        changes: Changes,
        merged: Device | None = None,
        newest_us: int = 0,
    ) -> None:
        """Mark the Mac if a report that changes only telemetry can change its decision.

        It can if the Mac has no decision, its decision depends on telemetry, its time to be decided
        has come, the time or a report ends its open job, or the report is so much later than the
        last MDM contact that MDM is silent. `merged` is the Mac's merged device and `newest_us` the
        time of its newest record in us, if the caller has them.
        """
        last = self._last_decisions.get(udid)
        known, now_us = self._now
        if known is not now:
            now_us = to_us(now)
            self._now = now, now_us
        if not (last is None or last.recheck_on_telemetry or 0 < last.recheck_us <= now_us):
            # The time of a report alone can end an open job, and can show that MDM is silent.
            entry = self._capacity.open_job_of(udid)
            device = merged or self._fleet.merged_device(udid)
            if entry is None or infer_end(entry, device, now_us) is None:
                newest_us = newest_us or device.newest_us
                if newest_us <= self._not_silent_until_us.get(udid, 0):
                    return
                if not self._shows_silence(udid, device, newest_us):
                    return
        self._mark(udid, changes)

    def _shows_silence(self, udid: str, device: Device, newest_us: int) -> bool:
        """Return True if the newest inventory report shows that MDM is silent."""
        policy = self._in_force.policy
        if policy is None:
            return False
        silent_from_us = mdm_silent_from_us(device, policy)
        self._not_silent_until_us[udid] = max(newest_us, silent_from_us)
        return 0 < silent_from_us < device.inventory_seen_us

    def mark_macs(self, udids: Iterable[str], changes: Changes) -> None:
        """Mark these Macs."""
        for udid in udids:
            self._mark(udid, changes)

    def affected(self, change: Change) -> list[str]:
        """Return the UDIDs of the Macs whose decision the change can affect, sorted.

        Empty without a policy.
        """
        if change.affects_all:
            self._not_silent_until_us.clear()  # the policy may have another `silent_after`
        policy = self._in_force.policy
        if policy is None:
            return []
        wanted = policy.upgrades.supported_lines
        supported = self._fleet.advisories.supported_lines if wanted == "auto" else wanted
        return self._fleet.affected(change, supported=supported, upgrades_to=policy.upgrades.to)

    def _mark(self, udid: str, changes: Changes) -> None:
        self._not_silent_until_us.pop(udid, None)
        self._queue.mark(udid)
        changes.marked[udid] = None

    def _is_relevant(self, change: Change) -> bool:
        """Return False if only a host name changed and the policy reads none."""
        policy = self._in_force.policy
        return not change.is_rename_only or policy is None or policy.reads_hostnames
