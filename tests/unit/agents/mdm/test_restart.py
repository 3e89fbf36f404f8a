"""A restart over MDM: one command, whose answer is its end."""

from typing import Any, Final

import pytest

from schemas.jobs import Action, Job, Method
from tests.factories.sites import START, a_job, hours
from tests.mdm_site import MAC, MdmSite, a_site

RESTART: Final = a_job(
    Action.RESTART,
    Method.RESTART_DEVICE,
    udid=MAC,
    target=None,
    intent="failing:26.2",
    report_by=START + hours(24),
)
REJECTED: Final = {"Status": "Error", "ErrorChain": [{"ErrorCode": 4, "ErrorDomain": "X"}]}


def started(job: Job = RESTART) -> MdmSite:
    site = a_site()
    site.start(job)
    return site


def test_answer_is_the_end_of_a_restart() -> None:
    site = started()
    assert site.poll() == ["RestartDevice"]
    site.run(hours(1))
    assert site.outcomes == ["accepted", "started", "acted"]
    assert site.detail == "accepted; its report must show the boot"


@pytest.mark.parametrize(
    ("deadline", "command"),
    [
        pytest.param(None, {}, id="no deadline"),
        pytest.param(START + hours(1), {}, id="before the deadline"),
        pytest.param(START, {"NotifyUser": True}, id="after the deadline"),
    ],
)
def test_user_is_asked_after_the_deadline(deadline: Any, command: dict[str, Any]) -> None:
    site = started(RESTART.model_copy(update={"deadline_at": deadline}))
    (found,) = site.mdm.commands.values()
    assert found == {"RequestType": "RestartDevice"} | command


def test_rejected_restart_fails_and_is_not_repeated() -> None:
    site = started()
    site.poll(RestartDevice=REJECTED)
    site.run(hours(2))
    assert site.end == "failed/command_rejected"
    assert site.delivered("RestartDevice") == 1


def test_lost_restart_is_named_and_not_repeated() -> None:
    site = started()
    site.mdm.lose(MAC)
    site.poll()
    site.run(hours(1))
    site.poll()
    site.run(hours(1))
    assert site.end.startswith("failed/")
    assert site.queued("RestartDevice") <= 1


def test_failed_update_of_before_is_no_failure_of_the_restart() -> None:
    site = a_site()
    site.status("failed")
    site.start(RESTART)
    site.poll()
    site.status("failed")
    site.run(hours(1))
    assert site.end == "acted"


def test_mac_in_setup_assistant_is_not_restarted() -> None:
    site = a_site()
    site.check_in("TokenUpdate", tally=2, AwaitingConfiguration=True)
    site.start(RESTART)
    site.run(hours(2))
    assert site.outcomes == ["accepted"]
    assert site.queued("RestartDevice") == 0
