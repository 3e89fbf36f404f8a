"""The demo's story, step by simulated step, told to Drydock in whichever form it runs.

What happens at one moment is told one thing at a time, and each is followed to its end before the
next: so what comes of it does not hang on how a form does many things at once.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.simulated import SiteLine
from pipeline.decide.policy_file import read_policy
from pipeline.demo.scenario import (
    ADVISORY_AT,
    ENDS_AT,
    EXPLOITED_AT,
    STARTS_AT,
    policy_text,
    releases,
)
from pipeline.embedded.control_events import approval_granted
from schemas.decisions import Decision
from schemas.envelope import AdvisoryEvent, ApprovalGrantedEvent, DeviceEvent

STEP: Final = timedelta(minutes=15)
MARKS: Final = {"26.2 released": ADVISORY_AT, "two CVEs exploited": EXPLOITED_AT}
_LOOKS_EVERY: Final = timedelta(days=1)
_APPROVAL_LASTS: Final = timedelta(days=2)
_APPROVER: Final = "demo approver"

OutsideEvent = DeviceEvent | AdvisoryEvent | ApprovalGrantedEvent
"""What the outside says: Macs, Apple, people."""


@dataclass(frozen=True, slots=True)
class FleetSample:
    """Where a run is: the simulated time; exposed Macs by (site, severity), open jobs by (site,
    action)."""

    now: datetime
    exposed: dict[tuple[str, str], int]
    open_jobs: dict[tuple[str, str], int]


class Form(Protocol):
    """One form of Drydock with the simulated Macs at its sites, the demo's policy in force.

    Every call returns once nothing is left to be done at the present time.
    """

    def advance_to(self, now: datetime) -> Sequence[DeviceEvent]:
        """It is this time from now on; what the Macs say until then, in order of time."""

    def ingest(self, events: Sequence[OutsideEvent]) -> None:
        """Take in what was said, at most one thing a Mac."""

    def awaiting_approval(self) -> Sequence[Decision]:
        """The decisions that wait for somebody's approval."""

    def sample(self, now: datetime) -> FleetSample:
        """How the fleet stands."""


def play(
    form: Form, approvals: Ed25519PrivateKey, step: timedelta = STEP, until: datetime = ENDS_AT
) -> Generator[FleetSample]:
    """Let the story happen, a Moment after each step. `approvals` is the approver's key."""
    feed = deque(releases())
    for number in range(steps(step, until)):
        now = STARTS_AT + number * step
        events = form.advance_to(now)
        while feed and feed[0].time <= now:
            form.ingest([feed.popleft()])
        for wave in waves(events):
            form.ingest(wave)
        if (now - STARTS_AT) % _LOOKS_EVERY == timedelta(0):
            for decision in form.awaiting_approval():
                form.ingest(
                    [approval_granted(decision, _APPROVER, now, _APPROVAL_LASTS, approvals)]
                )
        yield form.sample(now)


def steps(step: timedelta = STEP, until: datetime = ENDS_AT) -> int:
    """How many Moments `play` gives."""
    return int((until - STARTS_AT) / step) + 1


def waves(events: Iterable[DeviceEvent]) -> list[list[DeviceEvent]]:
    """Each Mac's events in its order, at most one a Mac in a wave."""
    found: list[list[DeviceEvent]] = []
    spoken: dict[str, int] = {}
    for event in events:
        turn = spoken.get(event.subject, 0)
        spoken[event.subject] = turn + 1
        if turn == len(found):
            found.append([])
        found[turn].append(event)
    return found


def site_lines() -> dict[str, SiteLine]:
    """The sites' lines, as the policy has them."""
    return {
        name: SiteLine(uplink_mbps=site.uplink_mbps, cache=site.cache)
        for name, site in read_policy(policy_text()).sites.items()
    }
