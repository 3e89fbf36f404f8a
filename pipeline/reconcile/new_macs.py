"""New Macs of one sender in an hour: any sender of reports can invent Macs without end.

| report | counts | refused above `blast_radius.new_macs_per_hour` |
| --- | --- | --- |
| of the MDM channel, an operator, or Drydock itself | no | no |
| about a Mac that is known | no | no |
| of another sender, about a Mac that the list `confirmed` of a site has by UDID | yes | no |
| of another sender, about the first Mac with a serial number that such a list has | yes | no |
| of another sender, about any other Mac | yes | yes |

A listed serial number admits one Mac, since any number of invented Macs can have it.

A refused report changes nothing, and other reports of the sender, about known Macs, count. The hour
is that of the receipt. On Kafka each partition counts for itself, by the time at which the gateway
received the report, so a backlog counts like the reports did. After a restart a count begins anew.

UDIDs spread over the partitions by chance. So a partition admits more than its part of the number:
five standard deviations, with which fewer than one hour in 10,000 has an honest report refused for
the default of 1,000 Macs in 32 partitions. There a sender of invented Macs brings up at most 1,920.
"""

from collections import Counter
from datetime import datetime
from math import ceil, sqrt
from typing import Final

from pipeline.policy.blast_radius import BlastRadius
from pipeline.policy.model import Policy
from pipeline.reconcile.hourly_jobs import HOUR_US
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.state.device import to_us
from pipeline.state.fleet import Fleet
from schemas.dead_letters import DeadLetterCode, Problem
from schemas.envelope import Event, InventoryEvent
from schemas.routing import device_key

# What a sender outside the MDM channel reports as; no other event is one that it may submit.
_LIMITED_SOURCES: Final = frozenset({"osquery", "munki", "other"})
_DEFAULT: Final = BlastRadius()
_KEPT_HOURS: Final = 48
_DEVIATIONS: Final = 5


def limit_of_partition(limit: int, partitions: int) -> int:
    """Return the new Macs that one partition admits, so that `limit` Macs of a fleet pass.

    The number of a partition is nearly Poisson-distributed: its variance is its mean.
    """
    share = limit / partitions
    return min(limit, ceil(share + _DEVIATIONS * sqrt(share)))


class NewMacs:
    """Counts for one fleet, or for the Macs of one of `partitions` of a fleet."""

    def __init__(self, fleet: Fleet, in_force: PolicyInForce, partitions: int | None) -> None:
        self._fleet = fleet
        self._in_force = in_force
        self._partitions = partitions
        self._counts: Counter[tuple[str, int]] = Counter()
        self._forgotten_at = 0
        # The listed serial numbers that have admitted their Mac, which may report another one now.
        self._used_serials: set[str] = set()

    def __len__(self) -> int:
        """Return the number of counts: one for each sender and hour, of the last two days."""
        return len(self._counts)

    def counted(self, event: Event) -> InventoryEvent | None:
        """Return the event if it is a report that counts once it is folded, else None."""
        if (
            type(event) is InventoryEvent
            and event.data.source in _LIMITED_SOURCES
            and event.sender is not None
            and not self._is_known(event)
        ):
            return event
        return None

    def problem(self, event: InventoryEvent, now: datetime) -> Problem | None:
        """Return the problem of a report that counts, if its sender has too many; else None."""
        policy = self._in_force.policy
        limits = _DEFAULT if policy is None else policy.blast_radius
        limit = limits.new_macs_per_hour
        if limit is None:
            return None
        if self._partitions is not None:
            limit = limit_of_partition(limit, self._partitions)
        if self._counts[self._key(event, now)] < limit:
            return None
        if policy is not None and self._is_listed(event, policy):
            return None
        detail = (
            f"{event.sender} has reported as many new Macs in this hour as the policy admits"
            " (blast_radius.new_macs_per_hour); a later report counts"
        )
        return Problem(DeadLetterCode.TOO_MANY_NEW, detail, "$.data.udid")

    def add(self, event: InventoryEvent, now: datetime) -> None:
        """Count a report that was folded, and that `counted` returned before.

        Old counts are forgotten once in each hour of `now`, as a search for them reads all.
        """
        self._counts[self._key(event, now)] += 1
        policy, serial = self._in_force.policy, event.data.serial
        if policy is not None and serial is not None and _has_serial(policy, serial):
            self._used_serials.add(serial)
        hour = to_us(now) // HOUR_US
        if hour != self._forgotten_at:
            self._forgotten_at = hour
            for key in [key for key in self._counts if key[1] < hour - _KEPT_HOURS]:
                del self._counts[key]

    def _is_listed(self, event: InventoryEvent, policy: Policy) -> bool:
        """Return True if a site lists the Mac by UDID, or is its first of a listed serial."""
        udid, serial = event.data.udid, event.data.serial
        if udid is not None and any(one.confirmed.has_udid(udid) for one in policy.sites.values()):
            return True
        return (
            serial is not None
            and serial not in self._used_serials
            and not self._fleet.udids_with_serial(serial)
            and _has_serial(policy, serial)
        )

    def _is_known(self, event: InventoryEvent) -> bool:
        if device_key(event) in self._fleet.devices:
            return True
        serial = event.data.serial
        return event.data.udid is None and serial is not None and bool(self._fleet.find(serial))

    def _key(self, event: InventoryEvent, now: datetime) -> tuple[str, int]:
        received = now if self._partitions is None else event.receivedat or now
        return event.sender or "", to_us(received) // HOUR_US


def _has_serial(policy: Policy, serial: str) -> bool:
    return any(site.confirmed.has_serial(serial) for site in policy.sites.values())
