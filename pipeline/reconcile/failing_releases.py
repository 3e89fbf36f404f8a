"""Releases that fail on a whole model family: the Macs of the family on which the update failed.

| event | effect |
| --- | --- |
| the last update of a Mac to a release ended as `install_failed` | the Mac counts |
| a later update to it succeeds, or an operator resets the attempts | the Mac no longer counts |
| a Mac of the family reports the release, or a later one of its line | the release is proven |

A release that is not proven is held for the family from the policy's `hold_family_after` Macs on.
A newer release has counts of its own. On Kafka each partition counts its own Macs, as it counts the
open jobs of a site.
"""

from collections.abc import Iterator
from typing import Final

from pipeline.decide.family_hold import family_hold
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from pipeline.state.hardware import family_of
from pipeline.state.jobs import JobHistory
from schemas.events.control import HaltSet
from schemas.ids import advisory_id
from schemas.jobs import Action
from schemas.macos import OSVersion
from schemas.results import ErrorCode, Outcome

_UPDATES: Final = frozenset({Action.UPDATE, Action.UPGRADE})
# A model family and a release.
_Key = tuple[str, OSVersion]
_NONE: Final[frozenset[_Key]] = frozenset()


class FailingReleases:
    """Counts for one fleet. The caller calls `count` after each change of a Mac's jobs."""

    def __init__(self, fleet: Fleet, in_force: PolicyInForce) -> None:
        self._fleet = fleet
        self._in_force = in_force
        self._failing: dict[_Key, set[str]] = {}
        self._keys_of: dict[str, frozenset[_Key]] = {}
        self._proven: set[_Key] = set()

    def recount_after_reset(self) -> tuple[str, ...]:
        """Count the jobs of all Macs again; return the families whose holds changed, sorted."""
        before = self._held()
        self.recount()
        return _families(before ^ self._held())

    def recount(self) -> None:
        """Count the jobs of all Macs again, after they were loaded. It reads no policy."""
        self._failing.clear()
        self._keys_of.clear()
        self._proven.clear()
        for udid, history in self._fleet.job_histories.items():
            self._count(udid, history)

    def count(self, udid: str) -> tuple[str, ...]:
        """Count the Mac's jobs again; return the families whose holds changed, sorted."""
        history = self._fleet.job_histories.get(udid, ())
        if udid not in self._keys_of and not _has_failed(history):
            return ()
        before = self._held()
        self._count(udid, history)
        return _families(before ^ self._held())

    def note_report(self, udid: str) -> tuple[str, ...]:
        """Note the version of a Mac that reported; return the families whose holds changed."""
        if not self._failing:
            return ()
        device, before = self._fleet.merged_device(udid), self._held()
        self._proven |= {key for key in self._failing if _proves(device, key)}
        return _families(before ^ self._held())

    def holds(self, device: Device) -> tuple[HaltSet, ...]:
        """Return the holds on releases for the Mac's model family, sorted by release."""
        if not self._failing:
            return ()
        family = family_of(device.model)
        return tuple(
            family_hold(
                advisory_id("macOS", str(version)),
                family=held_family,
                failed=len(self._failing[held_family, version]),
            )
            for held_family, version in sorted(self._held())
            if held_family == family
        )

    def macs_of(self, families: tuple[str, ...]) -> Iterator[str]:
        """Yield the UDIDs of the Macs of these families."""
        for udid in self._fleet.macs() if families else ():
            if family_of(self._fleet.devices[udid].model) in families:
                yield udid

    def _held(self) -> frozenset[_Key]:
        policy = self._in_force.policy
        limit = None if policy is None else policy.thresholds.hold_family_after
        if limit is None or not self._failing:
            return _NONE
        return frozenset(
            key
            for key, udids in self._failing.items()
            if len(udids) >= limit and key not in self._proven
        )

    def _count(self, udid: str, history: JobHistory) -> None:
        for key in self._keys_of.pop(udid, _NONE):
            self._failing[key].discard(udid)
            if not self._failing[key]:
                del self._failing[key]
                self._proven.discard(key)
        if not _has_failed(history):
            return
        device = self._fleet.merged_device(udid)
        family = family_of(device.model)
        if family is None:
            return
        failing = _failing_versions(self._fleet.job_history_of(device))
        keys = frozenset((family, version) for version in failing)
        if keys:
            self._keys_of[udid] = keys
        for key in keys:
            if key not in self._failing:
                self._failing[key] = set()
                if any(_proves(one, key) for one in self._fleet.devices.values()):
                    self._proven.add(key)
            self._failing[key].add(udid)


def _has_failed(history: JobHistory) -> bool:
    return any(entry.error_code is ErrorCode.INSTALL_FAILED for entry in history)


def _failing_versions(history: JobHistory) -> frozenset[OSVersion]:
    """Return the releases to which the Mac's last ended update failed to install."""
    last = {
        entry.version: entry
        for entry in history
        if entry.action in _UPDATES and not entry.is_open and entry.outcome is not Outcome.REHEARSED
    }
    return frozenset(
        version
        for version, entry in last.items()
        if version is not None and entry.failed and entry.error_code is ErrorCode.INSTALL_FAILED
    )


def _proves(device: Device, key: _Key) -> bool:
    family, version = key
    running = device.os_version
    return (
        running is not None
        and running.line == version.line
        and running >= version
        and family_of(device.model) == family
    )


def _families(keys: frozenset[_Key]) -> tuple[str, ...]:
    return tuple(sorted({family for family, _ in keys}))
