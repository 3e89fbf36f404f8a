"""The means by which an executor acts on the Macs of its site, and the limits of this."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from agents.destructive_lock import DestructiveLock
from agents.mac import Mac
from agents.preflight import Limits
from agents.verification import Refusal
from schemas.jobs import Job


@dataclass(frozen=True, slots=True)
class SiteAccess:
    """Access to the Macs of one site.

    `mac_for` returns the Mac of a job, in the form that its method needs. `refusal` returns the
    reason not to give the job's order, None if it may be given; it is asked before each order.
    Without another one, no Mac is erased or reinstalled. `withdraw_order` withdraws the order of an
    attempt that has ended, by its `order_marker`. It returns None, and is called again, while a
    server or the Mac has something of the order, else a text about an answer that came late, or "".
    It raises UnreachableError if that is unknown. Without it the Macs keep no orders.
    """

    mac_for: Callable[[Job], Mac]
    refusal: Callable[[Job], Refusal | None] = DestructiveLock().refuse
    limits: Limits = field(default_factory=Limits)
    withdraw_order: Callable[[Job, str], str | None] | None = None

    @classmethod
    def simulated(cls, mac_for: Callable[[Job], Mac]) -> Self:
        """Return the access to simulated Macs, without a lock."""
        return cls(mac_for, lambda _: None)
