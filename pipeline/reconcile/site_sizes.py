"""The confirmed Macs of each site, of which the jobs an hour of the site are a share.

The counts follow from the folded reports and the policy alone, so that a replay of the log has
them too. On Kafka each partition counts its own Macs.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from pipeline.decide.confirmation import confirmed_name
from pipeline.decide.situation import site_of
from pipeline.policy.model import Policy
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.state.fleet import Fleet

# A site, and the name under which a Mac is confirmed.
_CountedAs = tuple[str, str]
_NOT_COUNTED: Final[_CountedAs] = ("", "")
_NO_NAMES: Final[Counter[str]] = Counter()


class SiteSizes:
    """Counts for one fleet. The caller calls `count` after each change of Macs.

    Macs that are confirmed by one serial number count once: at most one of them has it.
    """

    def __init__(self, fleet: Fleet, in_force: PolicyInForce) -> None:
        self._fleet = fleet
        self._in_force = in_force
        self._counted_by: Policy | None = None
        self._counted_as: dict[str, _CountedAs] = {}
        self._names: dict[str, Counter[str]] = {}

    def macs_of(self, site: str | None) -> int:
        """Return the number of confirmed Macs of a site; 0 without a policy."""
        policy = self._in_force.policy
        if policy is not self._counted_by:
            self._recount(policy)
        return len(self._names.get(site or "", _NO_NAMES))

    def recount(self) -> None:
        """Count again before the next use: Macs were loaded, or identities were settled."""
        self._counted_by = None

    def count(self, udids: Iterable[str], *, is_material: bool) -> None:
        """Count these records again; without `is_material`, only those not counted by UDID."""
        policy = self._counted_by
        if policy is None or policy is not self._in_force.policy:
            return  # the next use counts all
        for udid in udids:
            if not is_material and self._counted_as.get(udid, _NOT_COUNTED)[1] == udid:
                continue
            self._put(udid, self._count_as(udid, policy))

    def _recount(self, policy: Policy | None) -> None:
        self._counted_as.clear()
        self._names.clear()
        self._counted_by = policy
        if policy is not None:
            for udid in self._fleet.macs():
                self._put(udid, self._count_as(udid, policy))

    def _count_as(self, udid: str, policy: Policy) -> _CountedAs | None:
        """Return where the Mac counts; None for a record that is no Mac, or is not confirmed."""
        fleet = self._fleet
        if udid not in fleet.devices or fleet.canonical_udid(udid) is not None:
            return None
        device = fleet.merged_device(udid)
        if device.is_partial or device.retired or fleet.is_forgotten(udid):
            return None
        site = site_of(device, policy)
        name = None if site is None else confirmed_name(device, policy, site)
        return None if site is None or name is None else (site, name)

    def _put(self, udid: str, counted_as: _CountedAs | None) -> None:
        old = self._counted_as.get(udid)
        if old == counted_as:
            return
        if old is not None:
            names = self._names[old[0]]
            names[old[1]] -= 1
            if not names[old[1]]:
                del names[old[1]]
            del self._counted_as[udid]
        if counted_as is not None:
            self._counted_as[udid] = counted_as
            self._names.setdefault(counted_as[0], Counter())[counted_as[1]] += 1
