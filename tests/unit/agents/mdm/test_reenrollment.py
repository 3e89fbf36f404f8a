"""Re-enrollment over MDM: a new enrollment proves it, and nothing is queued behind the profile."""

from collections.abc import Callable
from typing import Any

import pytest

from agents.mdm.migration import NotBuiltError, UnbuiltMigration
from tests.factories.sites import START, hours
from tests.mdm_site import DDM, MAC, PROFILE, REENROLL, MdmSite, a_site

SECURITY = {"SecurityInfo": {"ManagementStatus": {"UserApprovedEnrollment": True}}}


def sent() -> MdmSite:
    """Return a site whose Mac has got the profile and has not answered."""
    site = a_site()
    site.start(REENROLL)
    site.run(hours(1))
    site.mdm.now = site.now
    assert site.mdm.report(MAC, "Idle") is not None
    assert site.delivered("InstallProfile") == 1
    return site


def enrolled_again(site: MdmSite, *, token: bool = True) -> MdmSite:
    site.run(hours(1))
    site.enroll()
    if token:
        site.check_in("SetBootstrapToken", BootstrapToken=b"token")
    return site


def test_profile_is_sent_as_it_is() -> None:
    site = sent()
    (command,) = site.mdm.commands.values()
    assert command == {"RequestType": "InstallProfile", "Payload": PROFILE}


def test_mac_that_never_answers_but_enrols_again_is_done() -> None:
    site = enrolled_again(sent())
    assert site.poll(SecurityInfo=SECURITY) == ["SecurityInfo"]
    site.run(hours(1))
    assert (site.end, site.detail) == ("acted", "enrolled again")
    assert site.queued("InstallProfile") == 1


def test_answer_alone_is_no_success_and_the_job_ends_with_its_time() -> None:
    site = a_site()
    site.start(REENROLL)
    assert site.poll() == ["InstallProfile"]
    site.run(hours(71), hours(1))
    assert site.end == "started"
    site.run(hours(2), hours(1))
    assert site.end == "failed/not_reenrolled"


def test_token_update_alone_is_a_success_after_the_answer() -> None:
    site = a_site()
    site.check_in("SetBootstrapToken", BootstrapToken=b"token")
    site.start(REENROLL)
    site.poll()
    site.run(hours(1))
    site.check_in("TokenUpdate", tally=2)
    site.poll(SecurityInfo=SECURITY)
    site.run(hours(1))
    assert site.end == "acted"


def test_token_update_before_the_answer_is_a_refresh() -> None:
    site = sent()
    site.check_in("TokenUpdate", tally=2)
    site.run(hours(2))
    assert site.end == "started"


def test_authenticate_without_a_token_update_is_no_success() -> None:
    site = sent()
    site.run(hours(1))
    site.check_in("Authenticate", OSVersion="26.2", BuildVersion="25C56")
    site.run(hours(2))
    assert site.end == "started"


@pytest.mark.parametrize(
    ("security", "token", "end"),
    [
        pytest.param(False, True, "failed/not_user_approved", id="not user-approved"),
        pytest.param(True, False, "acted", id="bootstrap token unknown"),
    ],
)
def test_approval_and_token_are_checked_afterwards(
    *, security: bool, token: bool, end: str
) -> None:
    site = enrolled_again(sent(), token=token)
    management = {"ManagementStatus": {"UserApprovedEnrollment": security}}
    site.poll(SecurityInfo={"SecurityInfo": management})
    site.run(hours(8))
    assert site.end == end
    assert ("unknown: bootstrap token" in site.detail) is not token


def test_mac_without_a_bootstrap_token_is_named() -> None:
    site = enrolled_again(sent(), token=False)
    site.check_in("SetBootstrapToken")
    site.run(hours(1))
    assert site.end == "failed/no_bootstrap_token"


def test_nothing_is_queued_behind_the_profile() -> None:
    site = a_site()
    site.start(DDM)
    site.poll()
    site.supersede(DDM)
    before = site.queued("DeclarativeManagement")
    site.mdm.lose(MAC)
    site.start(REENROLL)
    site.run(hours(9))
    assert site.mdm.queues[MAC] == [*site.mdm.queues[MAC]][:1]
    assert site.queued("DeclarativeManagement") == before
    assert site.queued("InstallProfile") == 1


def test_rejected_profile_is_named() -> None:
    site = a_site()
    site.start(REENROLL)
    chain: Any = [{"ErrorCode": 4001, "ErrorDomain": "MCInstallationErrorDomain"}]
    site.poll(InstallProfile={"Status": "Error", "ErrorChain": chain})
    site.run(hours(1))
    assert site.end == "failed/command_rejected"
    assert "MCInstallationErrorDomain 4001" in site.detail


def test_site_without_a_profile_sends_nothing() -> None:
    site = a_site(profile=None)
    site.start(REENROLL)
    assert site.end == "refused/unsupported"
    assert site.mdm.requests == []


def test_no_query_is_sent_before_the_mac_has_enrolled_again() -> None:
    site = sent()
    site.run(hours(6))
    kinds = {command["RequestType"] for command in site.mdm.commands.values()}
    assert kinds == {"InstallProfile"}


@pytest.mark.parametrize(
    "call",
    [
        lambda migration: migration.assign(["C02XX"], "server", START),
        lambda migration: migration.states(["C02XX"]),
        lambda migration: migration.cancel(["C02XX"]),
    ],
    ids=["assign", "states", "cancel"],
)
def test_migration_by_apple_business_manager_is_refused(
    call: Callable[[UnbuiltMigration], object],
) -> None:
    with pytest.raises(NotBuiltError, match="not built"):
        call(UnbuiltMigration())
