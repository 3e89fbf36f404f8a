"""The state of all Macs of one partition (embedded: of all partitions), and the broadcast state.

`Fleet` holds the folded state, and indexes with which the work for an event depends on the number
of Macs that it affects, not on the number of all Macs. It makes no decisions and does no I/O.

A Mac can have several records: under its UDID, its enrollment id, and `serial:` with its serial
number. The record under the UDID is canonical; `merged_device` joins the others to it.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from pipeline.state.advisories import Advisories
from pipeline.state.change import NO_CHANGE, Change, changed_builds, changed_lines
from pipeline.state.compact.duplicates import (
    apply_duplicate,
    forget_report,
    remember_newest_report,
    remember_report,
)
from pipeline.state.controls import ControlEvent, Controls, approved
from pipeline.state.device import BESIDE_NAMES, FIRST_TELEMETRY, Device, to_us
from pipeline.state.device_folds import FOLDS, merge
from pipeline.state.identities import Identities, aliases
from pipeline.state.identity import Identity
from pipeline.state.jobs import JobHistory, add_job, add_result, reset_attempts, supersede_job
from pipeline.state.line_index import LineIndex
from pipeline.state.strikes import acts_of
from schemas.envelope import (
    AdvisoryCorrectedEvent,
    AdvisoryEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AttemptsResetEvent,
    DeviceEvent,
    Event,
    IdentitySettledEvent,
    InventoryEvent,
    JobEvent,
    JobIssuedEvent,
    JobSupersededEvent,
    StrikeClearedEvent,
    StrikeSetEvent,
    is_job_event,
)
from schemas.events.control import (
    ApprovalGranted,
    HaltScope,
    HaltSet,
    IdentitySettled,
    PolicyChanged,
)
from schemas.fast.report_peek import ReportPeek
from schemas.ids import SERIAL_SUBJECT_PREFIX
from schemas.routing import device_key

_ADVISORIES: Final = (
    AdvisoryPublishedEvent,
    AdvisorySeverityRaisedEvent,
    AdvisoryNarrowedEvent,
    AdvisoryCorrectedEvent,
    AdvisoryRetractedEvent,
)


class Broadcast(NamedTuple):
    """Catalogue, controls and settled identities: the state that concerns all Macs."""

    advisories: Advisories
    controls: Controls
    settlements: dict[str, tuple[int, IdentitySettled]]


class Fleet:
    """The state of many Macs. Mutable, with one writer; the values in it are immutable."""

    def __init__(self, advisories: Advisories | None = None) -> None:
        self.advisories = advisories or Advisories()
        self.devices: dict[str, Device] = {}
        self.job_histories: dict[str, JobHistory] = {}
        self._controls = Controls()
        self._lines = LineIndex()
        self._identities = Identities(self.devices)
        # The record after the last fold, if it is the only one of its Mac, and True if the event
        # was newer than all before.
        self._only_record: tuple[Device, bool] | None = None

    # --- folding ---

    def apply(self, event: Event) -> Change:
        """Fold one event, and return the change of the state; NO_CHANGE if there is none.

        Events applied twice, or in any order, give the same state, except that a result or
        withdrawal changes nothing before its job was issued.
        """
        apply = FOLDS.get(type(event))
        if apply is not None:
            return self._apply_device(event, apply)  # type: ignore[arg-type]
        if is_job_event(event):
            return self._apply_job(event)
        if isinstance(event, _ADVISORIES):
            return self._apply_advisory(event)
        return self._apply_control(event)  # type: ignore[arg-type]

    def remember(self, event: InventoryEvent, peek: ReportPeek) -> None:
        """Remember a report, so that `apply_duplicate` recognises a duplicate of it.

        Call it right after the report was folded, with the peek at the report's bytes. It has no
        effect for a Mac that is unknown or has several records, and if the event's subject is not
        the Mac's key.
        """
        udid = device_key(event)
        device = self.devices.get(udid)
        if device is None or event.subject != udid:
            return
        known, is_newest = self._only_record or (None, False)
        if known is device and is_newest:
            self.devices[udid] = remember_newest_report(peek, device)
        elif known is device or self._identities.is_only_record(device):
            self.devices[udid] = remember_report(event, peek, device)

    def apply_duplicate(self, peek: ReportPeek) -> tuple[Device, Device, int] | None:
        """Fold a report that repeats the remembered one, except for its time and telemetry.

        Returns the Mac's state before, its state after, and the report's time in us. None, without
        an effect, if the report must be decoded: the Mac is unknown, the report is no duplicate, it
        is not newer, its time or telemetry is invalid, or an event has changed the Mac's values
        since.
        """
        device = self.devices.get(peek.subject)
        again = None if device is None else apply_duplicate(peek, device)
        if device is None or again is None:
            return None
        after, us = again
        self.devices[after.udid] = after
        return device, after, us

    def _apply_device(
        self, event: DeviceEvent, apply: Callable[[Device, Any, int], Device]
    ) -> Change:
        udid = device_key(event)
        kept = self.devices.get(udid)
        old = Device(udid) if kept is None else kept
        us = to_us(event.time)
        new = apply(old, event.data, us)
        self._only_record = None
        if new is old:
            return NO_CHANGE
        checked_in = type(event) is not InventoryEvent and new.checkins != old.checkins
        # A version that is reported again without a build makes the build unknown, as no value.
        derived = checked_in or new.build != old.build
        is_material = derived or (
            new.values is not old.values
            and new.values[:FIRST_TELEMETRY] != old.values[:FIRST_TELEMETRY]
        )
        if kept is not None and new.values[BESIDE_NAMES] == old.values[BESIDE_NAMES]:
            only_name = is_material and not derived
            if (only_name or not is_material) and self._identities.is_only_record(new):
                self.devices[udid] = new
                self._only_record = new, us > old.newest_us
                return Change((udid,), is_material=is_material, is_rename_only=only_name)
        renamed = old.serial != new.serial or old.enrollment_id != new.enrollment_id
        names = {*aliases(old), *aliases(new), udid} if renamed else set()
        names.update(self._identities.related(old))
        udids = {self.canonical_udid(name) for name in names}
        self.put(new)
        names.update(self._identities.related(new))
        canonical = self.canonical_udid(udid) or udid
        if not names:
            self._forget_report(canonical)
            # Of a Mac with several records, a newer time alone can let another record's value win.
            is_joined = not self._identities.is_only_record(new)
            return Change((canonical,), is_material=is_material or is_joined)
        # A record moves from one Mac to another, or Macs share an identifier: the decisions of all
        # of them can change.
        udids.update(self.canonical_udid(name) for name in names)
        known = {one for one in (*udids, *names) if one in self.devices}
        for one in known:
            self._forget_report(one)
        return Change((canonical, *sorted(known - {canonical})), is_material=True)

    def _forget_report(self, udid: str) -> None:
        """Forget the last report: in a repeat of it, more than times may differ from the state."""
        device = self.devices.get(udid)
        if device is not None:
            self.devices[udid] = forget_report(device)

    def _apply_advisory(self, event: AdvisoryEvent) -> Change:
        before = self.advisories
        return self.advisory_change(before) if self.fold_advisory(event) else NO_CHANGE

    def fold_advisory(self, event: AdvisoryEvent) -> bool:
        """Fold an event into the catalogue; return True if it changed.

        The Macs that it affects follow from `advisory_change`, once for all events of a batch.
        """
        before, self.advisories = self.advisories, self.advisories.apply(event)
        return self.advisories is not before

    def advisory_change(self, before: Advisories) -> Change:
        """Return the change of the catalogue since it was `before`."""
        after = self.advisories
        # The releases that Macs of every line can run and get offered depend on these.
        if (before.supported_lines, before.newest_major, before.listed_device_ids) != (
            after.supported_lines,
            after.newest_major,
            after.listed_device_ids,
        ):
            return Change(affects_all=True)
        return Change(lines=changed_lines(before, after), builds=changed_builds(before, after))

    def _apply_job(self, event: JobEvent) -> Change:
        if isinstance(event, JobIssuedEvent):
            udid = event.data.job.udid
            old = self.job_histories.get(udid, ())
            new = add_job(old, event.data.job)
        elif isinstance(event, JobSupersededEvent):
            udid = event.data.udid
            old = self.job_histories.get(udid, ())
            new = supersede_job(old, event.data.job_id, to_us(event.time))
        else:
            udid = event.data.udid
            old = self.job_histories.get(udid, ())
            new = add_result(old, event.data, to_us(event.time))
        if new == old:
            return NO_CHANGE
        self.job_histories[udid] = new
        return Change((udid,), is_material=True)

    def _apply_control(
        self,
        event: ControlEvent | IdentitySettledEvent | StrikeSetEvent | StrikeClearedEvent,
    ) -> Change:
        us = to_us(event.time)
        if isinstance(event, StrikeSetEvent | StrikeClearedEvent):
            before = self.advisories
            self.advisories = before.with_strikes(acts_of(event.data, us))
            return NO_CHANGE if self.advisories is before else self.advisory_change(before)
        if isinstance(event, IdentitySettledEvent):
            return self._apply_settlement(event.data, us)
        if not self._controls.fold(event, us):
            return NO_CHANGE
        if isinstance(event, ApprovalGrantedEvent | ApprovalDeniedEvent):
            udid, _ = approved(event)
            return Change((self.canonical_udid(udid) or udid,), is_material=True)
        if isinstance(event, AttemptsResetEvent) and event.data.scope.device is not None:
            known = self.find(event.data.scope.device)
            # A broadcast state without devices knows no serial numbers.
            if known is not None:
                return Change((known,), is_material=True)
        return Change(affects_all=True)

    def _apply_settlement(self, settled: IdentitySettled, us: int) -> Change:
        keys = [one for one in (settled.device, settled.other) if one is not None]
        keys += [SERIAL_SUBJECT_PREFIX + one for one in keys]
        before = self._identities.related_to(keys)
        if not self._identities.settlements.add(settled, us):
            return NO_CHANGE
        concerned = before | self._identities.related_to(keys)
        for one in concerned:
            self._forget_report(one)
        # A broadcast state without devices does not know the Macs that are related.
        if not concerned:
            return Change(tuple(sorted(keys)), affects_all=True)
        return Change(tuple(sorted(concerned)), is_material=True)

    def put(self, device: Device) -> None:
        """Store a record under `device.udid` in place of the old one, and update the indexes."""
        old = self.devices.get(device.udid)
        self.devices[device.udid] = device
        self._lines.put(old, device)
        self._identities.add(old, device)

    # --- undoing a fold that raised ---

    def copy_broadcast(self) -> "Broadcast":
        """Return a copy of the state that concerns all Macs, for `roll_back`."""
        return Broadcast(
            self.advisories,
            self._controls.snapshot(),
            dict(self._identities.settlements.by_key),
        )

    def roll_back(
        self, key: str, device: Device | None, history: JobHistory, broadcast: "Broadcast | None"
    ) -> None:
        """Restore the record and the job history of `key`, and the broadcast state if given.

        The values are those before `apply`, which raised or after which the caller raised.
        """
        if device is not None:
            self.put(device)
        elif key in self.devices:
            self._remove(self.devices[key])
        if history:
            self.job_histories[key] = history
        else:
            self.job_histories.pop(key, None)
        if broadcast is not None:
            self.advisories, self._controls, settled = broadcast
            self._identities.settlements.by_key = settled

    def _remove(self, device: Device) -> None:
        """Remove a record that was never stored before, also from the indexes."""
        udid = device.udid
        del self.devices[udid]
        self._lines.remove(device)
        self._identities.remove(device)

    # --- queries ---

    def merged_device(self, udid: str) -> Device:
        """Return the Mac's state, joined with the records that belong to it under other keys.

        Forgotten reports are left out. A Device without values for a UDID without a record. The
        stored records do not change.
        """
        device = self._identities.view(udid)
        if device is None:
            return Device(udid)
        if self._identities.is_only_record(device):
            return device
        joined, names = device, list(aliases(device))
        for name in names:  # the loop extends `names`: a joined record can have further keys
            other = self._identities.view(name)
            if other is not None and self.canonical_udid(name) == udid:
                joined = merge(joined, other)
                names += [one for one in aliases(other) if one not in names and one != udid]
        return joined

    def macs(self) -> Iterator[str]:
        """Return an iterator over the keys of all Macs: records that belong to no other one.

        A forgotten Mac that has not reported since is left out.
        """
        return (
            udid
            for udid in self.devices
            if self.canonical_udid(udid) is None and not self.is_forgotten(udid)
        )

    def is_forgotten(self, udid: str) -> bool:
        """Return True if an operator chose to forget all that this Mac reported."""
        return self._identities.is_forgotten(udid)

    def identity(self, device: Device) -> Identity:
        """Return the identity of a Mac among the others; `device` is its `merged_device`."""
        return self._identities.identity(device)

    def udids_with_serial(self, serial: str) -> tuple[str, ...]:
        """Return the UDIDs of the Macs with this serial number that no other Mac replaced."""
        return self._identities.udids_with_serial(serial)

    def find(self, name: str) -> str | None:
        """Return the key of the Mac with this UDID, serial number or enrollment id, or None."""
        upper = name.strip().upper()
        for key in (name, upper, SERIAL_SUBJECT_PREFIX + upper):
            udid = self.canonical_udid(key)
            if udid is not None:
                return udid
            if key in self.devices:
                return key
        return None

    def affected(
        self, change: Change, *, supported: tuple[str, ...], upgrades_to: str | None
    ) -> list[str]:
        """Return the UDIDs of the Macs whose decision this change can have changed, sorted.

        Sorted, so that Macs get their site's capacity in the same order after a restart.
        `supported` and `upgrades_to` are those of `LineIndex.concerned`. A Mac without a record is
        left out.
        """
        if change.affects_all:
            # A Mac that was forgotten is none of `macs`, but its decision changes.
            return sorted({*self.macs(), *(one for one in change.udids if one in self.devices)})
        lines = self._lines.concerned(
            change,
            self.advisories.version_of_build,
            supported=supported,
            upgrades_to=upgrades_to,
        )
        found = dict.fromkeys(change.udids) | lines
        # Skip a Mac that never reported, although a job or an approval names it.
        return sorted({self.canonical_udid(udid) or udid for udid in found if udid in self.devices})

    def halts(self) -> tuple[HaltSet, ...]:
        """Return the halts that were not cleared, sorted by scope; expired ones are included."""
        return self._controls.halts

    def halt_changed_us(self, scope: HaltScope) -> int:
        """Return the time, in us since 1970, at which this scope was halted or resumed last.

        0 if it never was.
        """
        return self._controls.halt_changed_us(scope)

    def halts_in_force(self, now: datetime) -> tuple[HaltSet, ...]:
        """Return the halts in force at `now`, sorted by scope."""
        return tuple(one for one in self.halts() if one.until is None or one.until > now)

    def approvals(self, udid: str) -> tuple[ApprovalGranted, ...]:
        """Return the approvals for this Mac that were not denied later, sorted by job id.

        Expired ones are included.
        """
        return self._controls.approvals(udid)

    def job_history_of(self, device: Device) -> JobHistory:
        """Return the jobs of this Mac, with `reset` in those that operators reset."""
        history = self.job_histories.get(device.udid, ())
        resets = self._controls.resets
        if not history or not resets:
            return history
        return reset_attempts(history, resets, device)

    @property
    def policy(self) -> PolicyChanged | None:
        """The policy in force; None before the first."""
        return self._controls.policy

    def canonical_udid(self, key: str) -> str | None:
        """Return the UDID of the Mac to which the record `key` belongs.

        None if the record is itself a Mac, if no Mac has this serial number or enrollment id, or if
        several have it.
        """
        return self._identities.canonical_udid(key)

    # --- persistence of the broadcast state ---

    def broadcast_to_wire(self) -> dict[str, Any]:
        """Return the state that concerns all Macs as JSON values, for `load_broadcast`.

        It has the catalogue, halts, approvals, policy, resets and settled identities, with their
        times.
        """
        return {
            "advisories": self.advisories.to_wire(),
            **self._controls.to_fields(),
            "identities": {
                key: [us, settled.model_dump(mode="json")]
                for key, (us, settled) in sorted(self._identities.settlements.by_key.items())
            },
        }

    def load_broadcast(self, wire: Mapping[str, Any]) -> None:
        """Load the state that `broadcast_to_wire` wrote, into a Fleet without broadcast state.

        A state without resets or settled identities was written before they existed.
        """
        self.advisories = Advisories.from_wire(wire["advisories"])
        self._controls.load(wire)
        for us, settled in wire.get("identities", {}).values():
            self._identities.settlements.add(IdentitySettled.model_validate(settled), us)
