"""A Mac enrolled by its user is not managed: it is never updated or erased."""

from datetime import UTC, datetime

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.situation import Situation
from pipeline.demo.scenario import releases
from pipeline.policy.model import Policy
from pipeline.state.fleet import Fleet
from schemas.decisions import Reason, Verdict
from schemas.envelope import AuthenticatedEvent
from schemas.events.checkin import MdmAuthenticated
from schemas.macos import parse_os_version

AT = datetime(2025, 12, 20, tzinfo=UTC)
RULES = Policy.model_validate(
    {"sites": {"london": {"time_zone": "Europe/London"}}, "default_site": "london"}
)


@pytest.mark.parametrize(
    ("enrollment", "left_alone"),
    [("Device", False), ("User Enrollment (Device)", True), ("User Enrollment", True)],
)
def test_user_enrolled_mac_gets_no_job(enrollment: str, left_alone: bool) -> None:
    fleet = Fleet()
    for event in releases():
        fleet.apply(event)
    data = MdmAuthenticated(
        udid="ENR-1",
        enrollment_type=enrollment,
        os_version=parse_os_version("14.7.1"),
        model="Mac15,12",
    )
    fleet.apply(AuthenticatedEvent(id="1", source="/t", subject="ENR-1", time=AT, data=data))
    decision = decide(Situation(fleet.merged_device("ENR-1"), fleet.advisories, RULES, AT))
    assert (decision.reason is Reason.USER_ENROLLED) is left_alone
    assert (decision.decision is Verdict.NOTHING) is left_alone
