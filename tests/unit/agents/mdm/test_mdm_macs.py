"""Jobs over MDM: each failure of the servers and of the Mac has its named error and next step."""

from typing import Any

import pytest

from agents.mdm.answers import FindingKind
from agents.mdm.declarations import set_name
from schemas.jobs import Job
from tests.factories.sites import START, an_erasing_job, hours
from tests.fake_mdm import FakeMdm
from tests.mdm_site import (
    COMMAND,
    DDM,
    ERASE,
    MAC,
    MINUTE,
    MdmSite,
    a_site,
    started,
)

UNKNOWN_COMMAND = {
    "Status": "Error",
    "ErrorChain": [{"ErrorCode": 12021, "ErrorDomain": "MCMDMErrorDomain"}],
}


KIND = {DDM: "DeclarativeManagement", COMMAND: "ScheduleOSUpdate", ERASE: "EraseDevice"}
JOBS = [DDM, COMMAND, ERASE]
IDS = [job.method.value for job in JOBS]


# --- the good run of each method ---


def test_declared_update_is_done_when_the_mac_reports_the_target() -> None:
    site = started(DDM)
    assert site.outcomes == ["accepted", "started"]
    assert [*site.mdm.declaration_items(MAC)]
    assert site.poll() == ["DeclarativeManagement"]
    site.status("downloading")
    site.run(hours(1))
    assert site.outcomes[2:] == ["progressed"]
    site.status("none", "26.2.1")
    assert site.end == "acted"
    assert site.mdm.declaration_items(MAC) == {}
    assert site.poll() == ["DeclarativeManagement"]
    site.run(hours(1))
    assert site.executor.live_jobs == 0
    assert site.mdm.queues[MAC] == []


def test_newer_release_of_the_line_is_the_target_too() -> None:
    site = started(DDM)
    site.poll()
    site.run(hours(1))
    site.status("none", "26.2.2")
    assert site.end == "acted"


def test_update_command_is_done_when_the_mac_reports_the_target() -> None:
    site = started(COMMAND)
    assert site.poll() == ["ScheduleOSUpdate"]
    site.run(hours(2))
    assert site.end == "started"
    site.system = ("13.7.8", "22H730")
    assert site.poll() == ["DeviceInformation"]
    assert site.end == "acted"
    assert site.delivered("ScheduleOSUpdate") == 1


def test_erased_mac_that_enrols_again_is_done() -> None:
    site = started(ERASE)
    assert site.outcomes == ["accepted", "started"]
    assert site.poll() == ["EraseDevice"]
    site.now += hours(1)
    site.enroll()
    site.run(hours(1))
    assert site.end == "acted"
    assert site.queued("EraseDevice") == 1


def test_erase_whose_answer_is_lost_is_done_if_the_mac_passes_setup_assistant() -> None:
    site = started(ERASE)
    site.mdm.lose_webhooks = True
    site.poll()
    site.mdm.lose_webhooks = False
    site.now += hours(1)
    site.mdm.now = site.now
    site.mdm.check_in(MAC, "Authenticate", OSVersion="26.2", BuildVersion="25C56")
    site.mdm.check_in(MAC, "TokenUpdate", tally=1, Token=b"t", AwaitingConfiguration=True)
    site.run(hours(1))
    assert site.end == "acted"


# --- the server ---


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_failed_push_leaves_the_order_queued_and_it_is_not_queued_again(job: Job) -> None:
    site = a_site(job=job)
    site.mdm.push_error = "Unregistered"
    started(job, site)
    site.run(hours(3))
    assert site.queued(KIND[job]) == 1
    assert site.poll() == [KIND[job]]


@pytest.mark.parametrize(
    ("push_error", "code"),
    [
        pytest.param("410 Unregistered", "push_failed", id="dead push token"),
        pytest.param("", "not_delivered", id="Mac away"),
    ],
)
@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_order_that_stays_queued_fails_after_two_days(job: Job, push_error: str, code: str) -> None:
    site = a_site(job=job)
    site.mdm.push_error = push_error
    started(job, site)
    site.run(hours(47), hours(1))
    assert site.end == "started"
    assert site.queued(KIND[job]) == 1
    site.run(hours(3), hours(1))
    assert site.end == f"failed/{code}"
    assert site.queued(KIND[job]) == (2 if job is DDM else 1)  # the second withdraws


@pytest.mark.parametrize("job", JOBS, ids=IDS)
@pytest.mark.parametrize("fault", ["is_down", "breaks_after"])
def test_order_without_a_response_is_delivered_once(job: Job, fault: str) -> None:
    site = a_site(job=job)
    if job is ERASE:
        site.start(job)
        site.mdm.now = site.now = site.now + MINUTE
        uuid = site.mdm.report(MAC, "Idle")
        site.mdm.report(MAC, "Acknowledged", uuid, **site.information())
    setattr(site.mdm, fault, True)
    if job is ERASE:
        site.step()
    else:
        site.start(job)
    setattr(site.mdm, fault, False)
    site.run(hours(1))
    assert KIND[job] in site.poll()
    site.run(hours(1))
    site.poll()
    assert site.delivered(KIND[job]) == 1


def test_erase_without_any_response_may_still_arrive_and_forbids_another_one() -> None:
    site = a_site()
    site.start(ERASE)
    site.mdm.now = site.now = site.now + MINUTE
    uuid = site.mdm.report(MAC, "Idle")
    site.mdm.report(MAC, "Acknowledged", uuid, **site.information())
    site.mdm.breaks_after = True
    site.step()
    site.run(hours(1))
    assert site.end == "failed/unreachable"
    assert site.executor.live_jobs == 1
    again = an_erasing_job(udid=MAC, target=ERASE.target, generation=1, issued_at=site.now)
    site.mdm.breaks_after = False
    site.start(again)
    assert site.end == "failed/erase_outstanding"
    assert site.poll() == ["EraseDevice"]
    assert site.results[-1].job_id == ERASE.job_id
    assert site.detail.startswith("answered after the end")
    assert site.queued("EraseDevice") == 1


@pytest.mark.parametrize("job", [DDM, COMMAND], ids=IDS[:2])
def test_wrong_login_is_named(job: Job) -> None:
    mdm = FakeMdm(START)
    site = a_site(job=job, mdm=mdm, servers={"mdm": mdm.server(key="wrong")})
    site.start(job)
    assert site.end == "failed/mdm_login_refused"
    assert site.mdm.queues[MAC] == []


def test_mac_that_the_server_does_not_know_is_named() -> None:
    site = a_site()
    site.mdm.knows_all_ids = False
    del site.mdm.queues[MAC]
    site.start(DDM)
    assert site.end == "failed/mdm_server_refused"


def test_mac_without_any_check_in_gets_no_order() -> None:
    site = MdmSite(FakeMdm(START))
    site.start(DDM)
    assert site.end == "failed/not_enrolled"
    assert site.mdm.requests == []


def test_mac_of_a_server_of_another_site_gets_no_order() -> None:
    mdm = FakeMdm(START)
    site = MdmSite(mdm, servers={"one": mdm.server(), "two": mdm.server()})
    site.enroll()
    site.start(DDM)
    assert site.end == "failed/no_mdm_server"
    assert site.mdm.requests == []


def test_declaration_without_a_server_for_it_is_refused() -> None:
    mdm = FakeMdm(START)
    site = MdmSite(mdm, servers={"mdm": mdm.server(ddm=False)})
    site.enroll()
    site.start(DDM)
    assert site.end == "refused/unsupported"


# --- the queue ---


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_command_that_the_mac_declines_is_offered_again_by_the_server_only(job: Job) -> None:
    site = started(job)
    for _ in range(3):
        site.poll(**{KIND[job]: {"Status": "NotNow"}})
        site.run(hours(2))
    assert site.queued(KIND[job]) == 1
    assert site.end == "started"
    site.poll()
    assert site.delivered(KIND[job]) == 4
    assert site.end == "started"


def test_mac_that_declines_for_two_days_is_named() -> None:
    site = started(COMMAND)
    for _ in range(25):
        site.poll(ScheduleOSUpdate={"Status": "NotNow"})
        site.run(hours(2), hours(1))
    assert site.end == "failed/command_rejected"
    assert "NotNow" in site.detail


# --- the answers ---

REJECTED = [
    pytest.param(UNKNOWN_COMMAND, "unsupported", id="unknown command"),
    pytest.param(
        {"Status": "Error", "ErrorChain": [{"ErrorCode": 4, "ErrorDomain": "X"}]},
        "command_rejected",
        id="error",
    ),
    pytest.param({"Status": "Error"}, "command_rejected", id="error without a chain"),
    pytest.param({"Status": "CommandFormatError"}, "command_rejected", id="format error"),
    pytest.param({"Status": "Weird"}, "command_rejected", id="unknown status"),
]


@pytest.mark.parametrize(("answer", "code"), REJECTED)
@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_rejected_command_is_named_and_not_repeated(
    job: Job, answer: dict[str, Any], code: str
) -> None:
    site = started(job)
    site.poll(**{KIND[job]: answer})
    site.run(hours(1))
    assert site.end == f"failed/{code}"
    assert answer["Status"] in site.detail
    assert site.delivered(KIND[job]) == 1


@pytest.mark.parametrize(
    ("action", "status", "code"),
    [
        ("Error", "DownloadInsufficientSpace", "no_disk_space"),
        ("Error", "InstallInsufficientPower", "low_power"),
        ("InstallASAP", "DownloadFailed", "download_failed"),
        ("Error", "InstallFailed", "install_failed"),
        ("Error", "", "command_rejected"),
    ],
)
def test_acknowledged_update_with_an_error_is_a_failure(
    action: str, status: str, code: str
) -> None:
    site = started(COMMAND)
    update = {"ProductKey": "MSU", "InstallAction": action, "Status": status}
    site.poll(ScheduleOSUpdate={"Status": "Acknowledged", "UpdateResults": [update]})
    site.run(hours(1))
    assert site.end == f"failed/{code}"


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_mac_that_acknowledges_and_does_nothing_is_named(job: Job) -> None:
    site = started(job)
    site.poll()
    site.run(hours(30), hours(1))
    assert site.end == "failed/nothing_happened"
    assert site.delivered(KIND[job]) == 1


def test_two_different_answers_are_both_kept_and_the_first_one_counts() -> None:
    site = started(DDM)
    site.poll()
    uuid = site.mdm.delivered[-1][1]
    site.mdm.report(MAC, "Error", uuid, ErrorChain=UNKNOWN_COMMAND["ErrorChain"])
    site.run(hours(1))
    assert [one.kind for one in site.findings] == [FindingKind.DIFFERENT_ANSWER]
    assert len(site.answers.answers(uuid)) == 2
    assert site.end == "started"


def test_repeated_answer_is_a_finding_of_its_own() -> None:
    site = started(DDM)
    site.poll()
    site.mdm.report(MAC, "Acknowledged", site.mdm.delivered[-1][1])
    site.run(hours(1))
    assert [one.kind for one in site.findings] == [FindingKind.REPEATED_ANSWER]


def test_answer_after_the_end_of_its_job_is_a_finding() -> None:
    site = started(COMMAND)
    site.run(hours(50), hours(1))
    assert site.ended()
    site.poll()
    assert [one.kind for one in site.findings] == [FindingKind.LATE_ANSWER]
    assert site.findings[0].command is not None
    assert site.findings[0].command.job_id == COMMAND.job_id


@pytest.mark.parametrize("job", [COMMAND, ERASE], ids=IDS[1:])
def test_late_answer_is_recorded_against_its_old_job(job: Job) -> None:
    site = started(job)
    site.run(hours(50), hours(1))
    assert site.outcomes[-1:] == ["failed/not_delivered"]
    site.run(hours(24 * 7), hours(4))
    assert site.executor.live_jobs == 1
    site.poll(**{KIND[job]: UNKNOWN_COMMAND})
    assert site.outcomes[-2:] == ["failed/not_delivered"] * 2
    assert site.detail.startswith("answered after the end: Error")
    assert site.results[-1].job_id == job.job_id
    assert site.executor.live_jobs == 0


def test_command_that_is_never_answered_is_not_waited_for_forever() -> None:
    site = started(COMMAND)
    site.run(hours(24 * 62), hours(6))
    assert site.executor.live_jobs == 0
    assert site.outcomes[2:] == ["failed/not_delivered"]


# --- the Mac ---


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_mac_in_setup_assistant_is_left_alone(job: Job) -> None:
    site = a_site(job=job)
    site.mdm.now = site.now = START - hours(1)
    site.mdm.check_in(MAC, "TokenUpdate", tally=1, AwaitingConfiguration=True)
    site.step()
    site.now = START
    site.start(job)
    site.poll()
    site.run(hours(2))
    assert site.outcomes == ["accepted"]
    assert site.queued(KIND[job]) == 0
    site.mdm.now = site.now
    site.mdm.check_in(MAC, "TokenUpdate", tally=2)
    site.run(hours(1))
    site.poll()
    assert site.queued(KIND[job]) == 1


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_mac_that_left_mdm_gets_no_order(job: Job) -> None:
    site = a_site(job=job)
    site.mdm.check_in(MAC, "CheckOut")
    site.start(job)
    site.poll()
    assert site.end == "failed/not_enrolled"
    assert site.queued(KIND[job]) == 0


def test_failed_installation_has_the_text_of_the_mac() -> None:
    site = started(DDM)
    site.poll()
    site.run(hours(1))
    failure = {"count": 1, "reason": "Not enough free disk space"}
    site.status("failed", more={"failure-reason": failure})
    assert (site.end, site.detail) == ("failed/no_disk_space", "Not enough free disk space")


def test_failure_of_another_programs_declaration_is_not_ours() -> None:
    site = started(DDM)
    site.poll()
    site.run(hours(1))
    site.status("failed", more={"install-reason": {"declaration-id": "org.example.update"}})
    site.run(hours(1))
    assert site.end == "started"


def test_declaration_that_the_mac_rejects_is_named() -> None:
    site = started(DDM)
    site.poll()
    reasons = [{"code": "Error.NotAvailable", "description": "no such release"}]
    name = f"{set_name(f'{DDM.job_id}/1/declare')}-os"
    rejected = {"identifier": name, "active": False, "valid": "invalid", "reasons": reasons}
    listed = {"management": {"declarations": {"configurations": [rejected]}}}
    site.mdm.send_status(MAC, {"StatusItems": listed})
    site.run(hours(1))
    assert site.end == "failed/declaration_invalid"
    assert "no such release" in site.detail


def test_lost_status_report_is_read_from_the_server() -> None:
    site = started(DDM)
    site.poll()
    site.run(hours(1))
    site.mdm.lose_webhooks = True
    site.status("downloading")
    site.mdm.lose_webhooks = False
    site.run(hours(1))
    assert site.end == "progressed"


def test_unknown_state_of_an_installation_is_no_progress() -> None:
    site = started(DDM)
    site.poll()
    site.run(hours(1))
    site.status("hibernating")
    site.run(hours(1))
    assert site.end == "started"


# --- erasing ---

CANNOT_BE_ERASED = [
    pytest.param({"EACSPreflight": "System is not sealed"}, "erase_impossible", id="own check"),
    pytest.param({"EACSPreflight": None}, "erase_impossible", id="no result of its own check"),
    pytest.param(
        {"OSVersion": "11.7.10", "BuildVersion": "20G1427"}, "erase_impossible", id="macOS 11"
    ),
    pytest.param({"PINRequiredForEraseDevice": True}, "no_erase_pin", id="no PIN at the site"),
    pytest.param({"SerialNumber": "C02ANOTHER01"}, "wrong_device", id="another Mac than the job's"),
]


@pytest.mark.parametrize(("facts", "code"), CANNOT_BE_ERASED)
def test_mac_that_cannot_be_erased_gets_no_order(facts: dict[str, Any], code: str) -> None:
    site = a_site()
    site.start(ERASE)
    site.poll(DeviceInformation=site.information(**facts))
    assert site.end == f"failed/{code}"
    assert site.queued("EraseDevice") == 0


def test_mac_that_does_not_report_its_serial_number_is_not_erased() -> None:
    site = a_site()
    site.start(ERASE)
    site.poll(DeviceInformation=site.information(SerialNumber=None))
    site.run(hours(1))
    assert site.outcomes == ["accepted"]
    assert site.queued("EraseDevice") == 0


def test_pin_is_sent_only_to_a_mac_that_requires_it() -> None:
    for required in (True, False):
        site = a_site(pin="604113")
        site.start(ERASE)
        site.poll(DeviceInformation=site.information(PINRequiredForEraseDevice=required))
        (command,) = [c for c in site.mdm.commands.values() if c["RequestType"] == "EraseDevice"]
        assert ("PIN" in command) is required
        assert command["ObliterationBehavior"] == "DoNotObliterate"


def test_query_is_not_repeated_while_the_mac_is_away() -> None:
    site = a_site()
    site.start(ERASE)
    site.run(hours(20))
    assert site.queued("DeviceInformation") == 1
    assert site.outcomes == ["accepted"]


def test_old_check_before_an_erase_is_asked_again() -> None:
    site = a_site()
    site.start(ERASE)
    site.mdm.lose_webhooks = True
    site.poll()
    site.mdm.lose_webhooks = False
    site.poll()
    site.run(hours(2))
    site.poll()
    site.run(hours(1))
    assert site.queued("DeviceInformation") == 2
    assert site.queued("EraseDevice") == 1
