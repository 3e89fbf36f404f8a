"""The demo's story in steps of simulated time, played against one form of Drydock.

A form gets the events of one moment one by one and finishes the work for each before the next.
So the outcome does not depend on the concurrency of the form.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.simulated import SiteRates
from pipeline.demo.scenario import (
    ADVISORY_AT,
    ENDS_AT,
    EXPLOITED_AT,
    STARTS_AT,
    policy_text,
    releases,
)
from pipeline.embedded.control_events import approval_granted
from pipeline.policy.file import read_policy
from schemas.decisions import Decision
from schemas.envelope import AdvisoryEvent, ApprovalGrantedEvent, DeviceEvent

STEP: Final = timedelta(minutes=15)
MARKS: Final = {"26.2 released": ADVISORY_AT, "two CVEs exploited": EXPLOITED_AT}
_APPROVES_EVERY: Final = timedelta(days=1)
_APPROVAL_LASTS: Final = timedelta(days=2)
_APPROVER: Final = "demo approver"

OutsideEvent = DeviceEvent | AdvisoryEvent | ApprovalGrantedEvent
"""An event from outside Drydock: of a Mac, of Apple, or of a person."""


@dataclass(frozen=True, slots=True)
class FleetSample:
    """The state of a run at the simulated time `now`.

    `exposed` are exposed Macs by (site, severity), `open_jobs` are jobs by (site, action).
    """

    now: datetime
    exposed: dict[tuple[str, str], int]
    open_jobs: dict[tuple[str, str], int]


class Form(Protocol):
    """One form of Drydock, with the simulated Macs at its sites and the demo's policy in force.

    Every call returns only after all work at the present simulated time is done.
    """

    def advance_to(self, now: datetime) -> Sequence[DeviceEvent]:
        """Set the simulated time; return the Macs' events up to it, in order of time."""

    def ingest(self, events: Sequence[OutsideEvent]) -> None:
        """Accept events from outside, at most one per Mac, and do the work that follows."""

    def awaiting_approval(self) -> Sequence[Decision]:
        """Return the decisions that wait for an approval."""

    def sample(self, now: datetime) -> FleetSample:
        """Return the counts of exposed Macs and open jobs, with `now` as their time."""


def play(
    form: Form, approvals: Ed25519PrivateKey, step: timedelta = STEP, until: datetime = ENDS_AT
) -> Generator[FleetSample]:
    """Play the story and yield a FleetSample after each step. `approvals` is the approver's key.

    Once a simulated day, every decision that waits for an approval gets one.
    """
    feed = deque(releases())
    for number in range(steps(step, until)):
        now = STARTS_AT + number * step
        events = form.advance_to(now)
        while feed and feed[0].time <= now:
            form.ingest([feed.popleft()])
        for wave in waves(events):
            form.ingest(wave)
        if (now - STARTS_AT) % _APPROVES_EVERY == timedelta(0):
            for decision in form.awaiting_approval():
                form.ingest(
                    [approval_granted(decision, _APPROVER, now, _APPROVAL_LASTS, approvals)]
                )
        yield form.sample(now)


def steps(step: timedelta = STEP, until: datetime = ENDS_AT) -> int:
    """Return the number of samples that `play` yields with this step and end."""
    return int((until - STARTS_AT) / step) + 1


def waves(events: Iterable[DeviceEvent]) -> list[list[DeviceEvent]]:
    """Return the events in groups with at most one event per Mac; each Mac's order is kept.

    The n-th group has the n-th event of each Mac that has so many.
    """
    found: list[list[DeviceEvent]] = []
    counts: dict[str, int] = {}
    for event in events:
        turn = counts.get(event.subject, 0)
        counts[event.subject] = turn + 1
        if turn == len(found):
            found.append([])
        found[turn].append(event)
    return found


def site_lines() -> dict[str, SiteRates]:
    """Return the network line of each site by the site's name, from the demo's policy."""
    return {
        name: SiteRates(uplink_mbps=site.uplink_mbps, cache=site.cache)
        for name, site in read_policy(policy_text()).sites.items()
    }
