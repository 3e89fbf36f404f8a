"""The way to an offer: one listing after the other, until the target is offered or is not."""

import pytest

from agents.mac import Obstacle
from agents.ssh.listing import MAX_AGE, List, Listed, next_listing
from agents.ssh.mac_facts import Deferral
from agents.ssh.offers import Offer
from agents.ssh.report import Task, TaskState
from schemas.jobs import Target
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode
from tests.unit.agents.ssh.macs import CLOCK, a_listing, a_report, minutes
from tests.unit.agents.ssh.test_offers import FOUND, HEAD, MAJOR, MINOR

TARGET = Target(version=parse_os_version("26.7"), build=parse_build("25G229"))
NOTHING = HEAD + "No new software available.\n"
NO_SERVER = "Can\u2019t connect to the Apple Software Update server"
OLD = CLOCK - MAX_AGE - minutes(1)

STEPS: dict[str, tuple[list[Task], List | Listed | ErrorCode | str]] = {
    "none": ([], List(1)),
    "not begun": ([a_listing(1, "", state=TaskState.WAITING)], List(1)),
    "running": ([a_listing(1, "", state=TaskState.RUNNING)], Listed()),
    "offered": ([a_listing(1, FOUND + MAJOR + MINOR)], "macOS Tahoe 26.7-25G229"),
    "offered, too old": ([a_listing(1, FOUND + MINOR, begun_at=OLD)], List(2)),
    "begun at an unknown time": ([a_listing(1, FOUND + MINOR, begun_at=None)], List(2)),
    "other updates": ([a_listing(1, FOUND + MAJOR)], ErrorCode.UPDATE_NOT_OFFERED),
    "nothing once": ([a_listing(1, NOTHING)], List(2)),
    "nothing twice": ([a_listing(1, NOTHING), a_listing(2, NOTHING)], List(3)),
    "nothing three times": (
        [a_listing(number, NOTHING) for number in (1, 2, 3)],
        ErrorCode.UPDATE_NOT_OFFERED,
    ),
    "nothing three times, long ago": (
        [a_listing(number, NOTHING, begun_at=OLD) for number in (1, 2, 3)],
        List(4),
    ),
    "nothing, then the offer": (
        [a_listing(1, NOTHING), a_listing(2, FOUND + MINOR)],
        "macOS Tahoe 26.7-25G229",
    ),
    "no server": ([a_listing(1, NO_SERVER)], List(2)),
    "no server three times": (
        [a_listing(number, NO_SERVER) for number in (1, 2, 3)],
        ErrorCode.UPDATE_SERVER_UNREACHABLE,
    ),
    "silent three times": (
        [a_listing(number, FOUND + MINOR, state=TaskState.SILENT) for number in (1, 2, 3)],
        ErrorCode.UPDATE_SERVER_UNREACHABLE,
    ),
    "interrupted by a restart": ([a_listing(1, HEAD, state=TaskState.INTERRUPTED)], List(2)),
    "tenth is newer than the ninth": (
        [a_listing(9, NOTHING, begun_at=OLD), a_listing(10, FOUND + MINOR)],
        "macOS Tahoe 26.7-25G229",
    ),
}


@pytest.mark.parametrize(("tasks", "expected"), STEPS.values(), ids=STEPS)
def test_next_step_to_the_offer(
    tasks: list[Task], expected: List | Listed | ErrorCode | str
) -> None:
    step = next_listing(a_report(*tasks), TARGET, Deferral())
    match step:
        case Offer():
            assert step.label == expected
        case Obstacle():
            assert step.error_code is expected
        case _:
            assert step == expected


@pytest.mark.parametrize(
    "tasks",
    [[a_listing(1, FOUND + MAJOR)], [a_listing(number, NOTHING) for number in (1, 2, 3)]],
    ids=["other updates", "no updates"],
)
def test_deferral_of_the_mac_is_named(tasks: list[Task]) -> None:
    step = next_listing(a_report(*tasks), TARGET, Deferral(minor_days=5))
    assert isinstance(step, Obstacle)
    assert step.error_code is ErrorCode.UPDATE_DEFERRED
    assert "5 days for updates" in step.detail


def test_unreachable_server_is_no_deferral() -> None:
    tasks = [a_listing(number, NO_SERVER) for number in (1, 2, 3)]
    step = next_listing(a_report(*tasks), TARGET, Deferral(minor_days=5))
    assert isinstance(step, Obstacle)
    assert step.error_code is ErrorCode.UPDATE_SERVER_UNREACHABLE
