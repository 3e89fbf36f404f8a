"""Orders over MDM that a server or a Mac lost: repeated only if a repetition is safe."""

from typing import Any

import pytest

from agents.mdm.declarations import set_name
from schemas.jobs import Job
from tests.factories.sites import an_erasing_job, hours
from tests.mdm_site import (
    COMMAND,
    DDM,
    ERASE,
    MAC,
    MINUTE,
    a_site,
    started,
)

KIND = {DDM: "DeclarativeManagement", COMMAND: "ScheduleOSUpdate", ERASE: "EraseDevice"}
JOBS = [DDM, COMMAND, ERASE]
IDS = [job.method.value for job in JOBS]


def test_lost_synchronization_is_queued_again_with_another_uuid() -> None:
    site = started(DDM)
    site.mdm.lose(MAC)
    assert site.poll() == []
    site.run(hours(1))
    assert site.queued("DeclarativeManagement") == 2
    assert site.poll() == ["DeclarativeManagement"]
    site.run(hours(1))
    site.status("none", "26.2.1")
    assert site.end == "acted"


def test_synchronization_that_is_lost_three_times_is_named() -> None:
    site = started(DDM)
    for _ in range(4):
        site.mdm.lose(MAC)
        site.poll()
        site.run(hours(1))
    assert site.end == "failed/command_lost"
    assert site.mdm.sets == {} or not any(site.mdm.sets.values())


def listing(*names: str) -> dict[str, Any]:
    """Return a status report in which the Mac lists these declarations, all of them valid."""
    listed = [{"identifier": name, "active": True, "valid": "valid"} for name in names]
    return {"StatusItems": {"management": {"declarations": {"configurations": listed}}}}


def test_synchronization_that_brings_no_declaration_of_the_order_is_queued_again() -> None:
    site = started(DDM)
    for number in range(2):
        assert site.poll() == ["DeclarativeManagement"]
        site.mdm.send_status(MAC, listing("com.example.other"))
        site.run(hours(1 / 60))
        assert site.queued("DeclarativeManagement") == number + 2
        assert site.end == "started"
    site.poll()
    site.mdm.send_status(MAC, listing(f"{set_name(f'{DDM.job_id}/1/declare')}-os"))
    site.run(hours(1 / 60))
    assert site.queued("DeclarativeManagement") == 3


def test_declaration_that_the_server_never_lists_is_named() -> None:
    site = started(DDM)
    for _ in range(3):
        site.poll()
        site.mdm.send_status(MAC, listing())
        site.run(hours(1 / 60))
    assert site.end == "failed/command_lost"
    assert "not among them" in site.detail


@pytest.mark.parametrize("job", [COMMAND, ERASE], ids=IDS[1:])
def test_lost_command_that_is_not_safe_is_never_queued_again(job: Job) -> None:
    site = started(job)
    site.mdm.lose(MAC)
    site.poll()
    site.run(hours(1))
    assert site.end == "failed/command_lost"
    assert site.queued(KIND[job]) == 1


def test_second_erase_is_refused_while_a_lost_one_may_still_arrive() -> None:
    site = started(ERASE)
    site.mdm.lose(MAC)
    site.poll()
    site.run(hours(1))
    again = an_erasing_job(udid=MAC, target=ERASE.target, generation=1, issued_at=site.now)
    site.start(again)
    site.poll()
    assert site.end == "failed/erase_outstanding"
    assert site.queued("EraseDevice") == 1


def test_longer_queue_is_not_a_loss() -> None:
    site = a_site()
    for number in range(3):
        site.mdm.commands[f"other-{number}"] = {"RequestType": "ProfileList"}
        site.mdm.queues[MAC].append(f"other-{number}")
    site.start(DDM)
    for _ in range(3):
        # The connection breaks after each first command.
        site.mdm.now = site.now
        uuid = site.mdm.report(MAC, "Idle")
        site.mdm.report(MAC, "Acknowledged", uuid)
        site.run(2 * MINUTE, MINUTE)
    assert site.queued("DeclarativeManagement") == 1
    assert site.poll() == ["DeclarativeManagement"]


@pytest.mark.parametrize("job", [COMMAND, ERASE], ids=IDS[1:])
def test_new_enrollment_loses_the_queue(job: Job) -> None:
    site = started(job)
    site.now += hours(1)
    site.enroll()
    site.run(hours(1))
    assert site.end == "failed/queue_cleared"
    assert site.queued(KIND[job]) == 1


def test_declaration_is_fetched_by_the_next_enrollment_too() -> None:
    site = started(DDM)
    site.now += hours(1)
    site.enroll()
    site.run(hours(1))
    assert site.poll() == ["DeclarativeManagement"]
    assert site.end == "started"
