"""Traps of MDM servers and of Macs behind them: the named error, and the next step."""

import pytest

from agents.mdm.answers import FindingKind
from agents.mdm.declarations import set_name
from schemas.jobs import Job, Target
from schemas.macos import parse_os_version
from tests.factories.sites import START, a_job, hours
from tests.fake_mdm import FakeMdm
from tests.mdm_site import (
    BEFORE,
    COMMAND,
    DDM,
    ERASE,
    MAC,
    MINUTE,
    REENROLL,
    MdmSite,
    a_site,
    started,
)

KIND = {DDM: "DeclarativeManagement", COMMAND: "ScheduleOSUpdate", ERASE: "EraseDevice"}
JOBS = [DDM, COMMAND, ERASE]
IDS = [job.method.value for job in JOBS]
NANOMDM, KMFDDM = "mdm.test", "ddm.test"
# The body of NanoMDM v0.9.0 and KMFDDM v0.8.3 for every path of the API, if run without `-api`.
GO_NOT_FOUND = "404 page not found\n"
SECURITY = {"SecurityInfo": {"ManagementStatus": {"UserApprovedEnrollment": True}}}


# --- the servers ---


@pytest.mark.parametrize(
    ("job", "failing", "code"),
    [
        pytest.param(DDM, (KMFDDM, "GET", 401), "mdm_login_refused", id="key of KMFDDM"),
        pytest.param(COMMAND, (NANOMDM, "PUT", 401), "mdm_login_refused", id="key of NanoMDM"),
        pytest.param(ERASE, (NANOMDM, "PUT", 401), "mdm_login_refused", id="key, before an erase"),
        pytest.param(DDM, (KMFDDM, "GET", 404), "mdm_server_refused", id="KMFDDM without -api"),
        pytest.param(COMMAND, (NANOMDM, "PUT", 404), "mdm_server_refused", id="without -api"),
        pytest.param(ERASE, (NANOMDM, "PUT", 404), "mdm_server_refused", id="erase without -api"),
    ],
)
def test_order_that_a_server_refuses_is_named_at_once(
    job: Job, failing: tuple[str, str, int], code: str
) -> None:
    host, method, status = failing
    site = a_site(job=job)
    site.mdm.failing[host, method] = status
    site.mdm.failing_text = GO_NOT_FOUND
    site.start(job)
    assert site.end == f"failed/{code}"
    assert site.mdm.commands == {}
    del site.mdm.failing[host, method]
    site.run(hours(30), hours(1))
    assert site.queued(KIND[job]) == 0


def test_declaration_that_its_server_refuses_is_named_and_withdrawn() -> None:
    site = a_site()
    site.mdm.failing[KMFDDM, "PUT"] = 400
    site.start(DDM)
    assert site.end == "failed/mdm_server_refused"
    assert site.mdm.declaration_items(MAC) == {}
    assert site.poll() == ["DeclarativeManagement"]
    site.run(hours(5))
    assert site.executor.live_jobs == 0
    assert site.queued("DeclarativeManagement") == 1


@pytest.mark.parametrize("status", [404, 500, 503])
def test_declaration_waits_for_its_server_for_a_day(status: int) -> None:
    site = a_site()
    site.mdm.failing[KMFDDM, "GET"] = status
    site.start(DDM)
    site.run(hours(5), hours(1))
    assert site.outcomes == ["accepted"]
    assert site.mdm.commands == {}
    site.mdm.failing.clear()
    site.run(hours(2))
    assert site.end == "started"
    assert site.poll() == ["DeclarativeManagement"]


@pytest.mark.parametrize("status", [404, 500, 503])
def test_declaration_that_an_ill_server_does_not_take_is_given_again_for_a_day(status: int) -> None:
    site = a_site()
    site.mdm.failing[KMFDDM, "PUT"] = status
    site.start(DDM)
    site.run(hours(20), hours(0.25))
    assert site.end == "started"
    assert site.mdm.commands == {}
    site.mdm.failing.clear()
    site.run(hours(1), hours(0.25))
    assert site.poll() == ["DeclarativeManagement"]


@pytest.mark.parametrize("status", [404, 500, 503])
def test_command_that_an_ill_server_does_not_take_is_given_again_for_a_day(status: int) -> None:
    site = a_site(job=COMMAND)
    site.mdm.failing[NANOMDM, "PUT"] = status
    site.start(COMMAND)
    site.run(hours(20), hours(0.25))
    assert site.end == "started"
    assert site.mdm.commands == {}
    site.mdm.failing.clear()
    site.run(hours(1), hours(0.25))
    assert site.queued("ScheduleOSUpdate") == 1
    assert site.poll() == ["ScheduleOSUpdate"]


def test_command_that_its_server_does_not_take_for_a_day_ends() -> None:
    site = a_site(job=COMMAND)
    site.mdm.failing[NANOMDM, "PUT"] = 503
    site.start(COMMAND)
    site.run(hours(26), hours(0.25))
    assert site.end == "failed/unreachable"
    site.mdm.failing.clear()
    site.run(hours(26), hours(1))
    assert site.mdm.commands == {}


def test_declaration_that_its_server_does_not_take_for_a_day_ends() -> None:
    site = a_site()
    site.mdm.failing[KMFDDM, "PUT"] = 503
    site.start(DDM)
    site.run(hours(26), hours(0.25))
    assert site.end == "failed/unreachable"


def test_fetch_that_the_server_did_not_carry_out_is_no_success() -> None:
    site = started(DDM)
    site.mdm.failing[KMFDDM, "GET"] = 503
    site.poll()
    # NanoMDM sends the webhook although KMFDDM gave the Mac no declaration.
    site.mdm.declaration_items(MAC)
    site.run(hours(2))
    assert site.end == "started"
    site.mdm.failing.clear()
    site.run(hours(30), hours(1))
    assert site.end == "failed/nothing_happened"
    assert site.mdm.declaration_items(MAC) == {}


# --- the queue ---


# The Mac's messages, each with the command that it is about, after which `filekv` and `inmem` have
# lost the order. OTHER is another program's command, queued before it.
OTHER = "8F0B0B1E-3C7C-4D6B-9A6E-2F6F1D2A3B4C"
LOSSES = {
    "accepted after a NotNow": [("Idle", None), ("Acknowledged", OTHER)],
    "repeated answer": [("Idle", None), ("Acknowledged", OTHER), ("Acknowledged", OTHER)],
    "answer to an unknown command": [("Acknowledged", "unknown")],
}


@pytest.mark.parametrize("messages", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_order_that_the_default_storage_loses_is_repeated_only_if_it_is_safe(
    job: Job, messages: list[tuple[str, str | None]]
) -> None:
    site = started(job)
    site.mdm.commands[OTHER] = {"RequestType": "ProfileList"}
    site.mdm.queues[MAC] = [OTHER]
    for status, uuid in [*messages, ("Idle", None), ("Idle", None)]:
        site.mdm.now = site.now = site.now + MINUTE
        site.mdm.report(MAC, status, uuid)
        site.mdm.queues[MAC] = []
        site.step()
    assert site.findings == []
    site.run(hours(1))
    if job is DDM:
        assert site.end == "started"
        assert site.poll() == ["DeclarativeManagement"]
        assert site.queued("DeclarativeManagement") == 2
    else:
        assert site.end == "failed/command_lost"
        assert site.poll() == []
        assert site.queued(KIND[job]) == 1


@pytest.mark.parametrize("job", [COMMAND, ERASE], ids=IDS[1:])
def test_command_that_the_storage_repeats_keeps_its_first_answer(job: Job) -> None:
    site = started(job)
    site.poll()
    uuid = site.mdm.delivered[-1][1]
    site.mdm.queues[MAC].insert(0, uuid)
    site.poll(**{KIND[job]: {"Status": "Error"}})
    assert site.delivered(KIND[job]) == 2
    assert site.queued(KIND[job]) == 1
    assert [one.kind for one in site.findings] == [FindingKind.DIFFERENT_ANSWER]
    site.run(hours(1))
    assert site.end == "started"


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_answer_that_names_no_command_is_no_answer_and_no_idle(job: Job) -> None:
    site = started(job)
    for _ in range(3):
        site.mdm.now = site.now = site.now + MINUTE
        site.mdm.report(MAC, "Acknowledged")
        site.step()
    site.run(hours(1))
    assert site.end == "started"
    assert site.poll() == [KIND[job]]
    assert site.queued(KIND[job]) == 1


@pytest.mark.parametrize("job", [COMMAND, ERASE], ids=IDS[1:])
def test_mac_that_leaves_mdm_keeps_its_queued_command_and_gets_no_other(job: Job) -> None:
    site = started(job)
    site.now += hours(1)
    site.check_in("CheckOut")
    site.run(hours(50), hours(1))
    assert site.end == "failed/not_delivered"
    assert site.queued(KIND[job]) == 1


# --- declarations ---


def test_state_none_without_the_target_is_no_success() -> None:
    site = started(DDM)
    site.poll()
    site.run(hours(1))
    site.status("none")
    site.status("none", "26.2")
    site.run(hours(1))
    assert site.end == "started"
    site.status("none", "26.2.1")
    assert site.end == "acted"


def test_report_without_the_state_leaves_the_state() -> None:
    site = started(DDM)
    site.poll()
    site.run(hours(1))
    site.status("downloading")
    assert site.end == "progressed"
    site.mdm.send_status(MAC, {"StatusItems": {"device": {"model": {"family": "Mac"}}}})
    site.run(hours(8), hours(1))
    # Without a known state it would have failed after six hours.
    assert site.end == "progressed"


def test_declaration_without_its_activation_is_no_failure_and_no_success() -> None:
    site = started(DDM)
    site.poll()
    name = f"{set_name(f'{DDM.job_id}/1/declare')}-os"
    reasons = [{"code": "Info.NotReferencedByActivation"}]
    listed = {"identifier": name, "active": False, "valid": "unknown", "reasons": reasons}
    declarations = {"management": {"declarations": {"configurations": [listed]}}}
    site.mdm.send_status(MAC, {"StatusItems": declarations})
    site.run(hours(2))
    assert site.end == "started"
    site.run(hours(30), hours(1))
    assert site.end == "failed/nothing_happened"


def test_target_without_a_patch_is_reached_by_its_patches() -> None:
    target = Target(version=parse_os_version("26.3"))
    given = {**DDM.model_dump(exclude={"job_id"}), "target": target, "intent": target.key}
    site = started(a_job(**given))
    site.poll()
    site.run(hours(1))
    site.status("none", "26.3.2")
    assert site.end == "acted"


# --- enrollments ---


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_mac_without_a_bootstrap_token_gets_no_order(job: Job) -> None:
    site = a_site(job=job)
    site.check_in("SetBootstrapToken")
    site.start(job)
    site.poll()
    assert site.end == "failed/no_bootstrap_token"
    assert site.queued(KIND[job]) == 0


def test_update_of_a_mac_that_did_not_report_its_version_is_done_with_the_target() -> None:
    site = MdmSite(FakeMdm(BEFORE), now=BEFORE)
    site.mdm.enroll(MAC)
    site.now = START
    site.start(DDM)
    site.poll()
    site.run(hours(1))
    assert site.end == "started"
    site.status("none", "26.2.1")
    assert site.end == "acted"


def test_mac_that_does_not_report_its_version_is_not_erased() -> None:
    site = MdmSite(FakeMdm(BEFORE), now=BEFORE)
    site.mdm.enroll(MAC)
    site.now = START
    site.start(ERASE)
    site.poll(DeviceInformation=site.information(OSVersion=None, BuildVersion=None))
    assert site.end == "failed/erase_impossible"
    assert site.queued("EraseDevice") == 0


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_mac_whose_enrollment_was_not_seen_gets_its_order_after_any_message(job: Job) -> None:
    site = a_site(job=job)
    unseen = MdmSite(site.mdm, now=START, system=site.system)
    unseen.mdm.report(MAC, "Idle")
    unseen.start(job)
    got = unseen.poll()
    assert KIND[job] in [*got, *unseen.poll()]
    assert unseen.delivered(KIND[job]) == 1


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_token_update_without_an_authenticate_is_an_enrollment(job: Job) -> None:
    site = MdmSite(FakeMdm(BEFORE), now=BEFORE)
    site.check_in("TokenUpdate", tally=1)
    site.now = START
    site.start(job)
    assert KIND[job] in [*site.poll(), *site.poll()]
    assert site.queued(KIND[job]) == 1


def test_order_between_authenticate_and_token_update_waits_in_the_queue() -> None:
    site = a_site()
    site.check_in("Authenticate", OSVersion="26.2", BuildVersion="25C56")
    site.mdm.push_error = "no push info"
    site.start(DDM)
    site.run(hours(3))
    assert site.end == "started"
    site.check_in("TokenUpdate", tally=1)
    assert site.poll() == ["DeclarativeManagement"]
    assert site.queued("DeclarativeManagement") == 1


def test_enrollment_at_a_server_without_a_tally_is_complete() -> None:
    site = a_site()
    site.start(REENROLL)
    site.poll()
    site.run(hours(1))
    site.check_in("Authenticate", OSVersion="26.2", BuildVersion="25C56")
    site.check_in("TokenUpdate")
    site.check_in("SetBootstrapToken", BootstrapToken=b"token")
    site.poll(SecurityInfo=SECURITY)
    site.run(hours(1))
    assert site.end == "acted"


def test_order_goes_to_the_id_of_the_server_in_its_letter_case() -> None:
    site = MdmSite(FakeMdm(BEFORE), now=BEFORE)
    site.mdm.enroll(MAC.lower(), OSVersion="26.2", BuildVersion="25C56")
    site.now = START
    site.start(DDM)
    assert site.end == "started"
    assert {udid: len(queue) for udid, queue in site.mdm.queues.items() if queue} == {
        MAC.lower(): 1
    }
