"""The offer of an update to a Mac: list the updates in the background, then choose. Pure.

`softwareupdate --list` takes seconds to minutes, so it is a task of its own, before the order.

| newest listing of the job | next |
| --- | --- |
| none, or older than MAX_AGE | list |
| its command has not begun | list, under the same number: a command begins once |
| being read | wait |
| has the target | offer |
| has other updates only | obstacle: not offered, or deferred by the Mac's own settings |
| no update, no server, unreadable, silent | list again; obstacle after MAX_LISTINGS |

A listing without updates is repeated: Apple's tool returns one from time to time (`agents.ssh.
offers`).
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from agents.mac import Obstacle
from agents.ssh.mac_facts import Deferral
from agents.ssh.offers import Listing, ListingState, Offer, find_offer, parse_listing
from agents.ssh.report import LIST, Report, Task, TaskState, task_number
from schemas.jobs import Target
from schemas.results import ErrorCode

MAX_AGE: Final = timedelta(hours=2)
MAX_LISTINGS: Final = 3
_FAILURES: Final = {
    ListingState.NOTHING: (ErrorCode.UPDATE_NOT_OFFERED, "Apple offers no update to this Mac"),
    ListingState.NO_SERVER: (
        ErrorCode.UPDATE_SERVER_UNREACHABLE,
        "the Mac cannot reach Apple's update server",
    ),
    ListingState.UNREADABLE: (
        ErrorCode.UPDATE_SERVER_UNREACHABLE,
        "softwareupdate --list did not end with a list",
    ),
}


@dataclass(frozen=True, slots=True)
class List:
    """List the updates, as the listing with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Listed:
    """The listing is being read: look later."""


def next_listing(
    report: Report, target: Target, deferral: Deferral | None
) -> List | Listed | Offer | Obstacle:
    """Return the next step to the offer of the target, by the table of the module."""
    numbered = {
        number: task for task in report.tasks if (number := task_number(task, LIST)) is not None
    }
    if not numbered:
        return List(1)
    number = max(numbered)
    newest = numbered[number]
    if newest.state is TaskState.RUNNING:
        return Listed()
    if not newest.has_begun:
        return List(number)
    recent = [task for task in numbered.values() if _is_recent(task, report)]
    if newest not in recent:
        return List(number + 1)
    listing = _listing(newest)
    if listing.state is ListingState.OFFERS:
        offer = find_offer(listing, target)
        return offer if offer is not None else _not_offered(target, deferral)
    if len(recent) < MAX_LISTINGS:
        return List(number + 1)
    code, detail = _FAILURES[listing.state]
    if listing.state is ListingState.NOTHING and deferral is not None and any(deferral):
        return _not_offered(target, deferral)
    return Obstacle(code, detail)


def _is_recent(task: Task, report: Report) -> bool:
    """Return True if the listing began within MAX_AGE; False if a time is unknown."""
    if task.begun_at is None or report.clock is None:
        return False
    return report.clock - task.begun_at <= MAX_AGE


def _listing(task: Task) -> Listing:
    if task.state is not TaskState.ENDED:
        return Listing(ListingState.UNREADABLE)
    return parse_listing(task.output)


def _not_offered(target: Target, deferral: Deferral | None) -> Obstacle:
    build = "" if target.build is None else f" ({target.build})"
    detail = f"Apple does not offer macOS {target.version}{build} to this Mac"
    if deferral is None or not any(deferral):
        return Obstacle(ErrorCode.UPDATE_NOT_OFFERED, detail)
    days = f"{deferral.minor_days} days for updates, {deferral.major_days} for upgrades"
    return Obstacle(ErrorCode.UPDATE_DEFERRED, f"{detail}; its own settings defer: {days}")
