"""The end of Setup Assistant, after which no message of the Mac has to follow."""

import pytest

from schemas.jobs import Job
from tests.factories.sites import START, hours
from tests.mdm_site import COMMAND, DDM, MAC, MdmSite, a_site

KIND = {DDM: "DeclarativeManagement", COMMAND: "ScheduleOSUpdate"}


def in_setup_assistant(job: Job) -> MdmSite:
    """Return a site whose Mac reported Setup Assistant 30 hours before the job."""
    site = a_site(job=job)
    site.now = START - hours(20)
    site.check_in("TokenUpdate", tally=1, AwaitingConfiguration=True)
    site.now = START + hours(10)
    site.start(job)
    site.run(hours(2))
    return site


def answered(site: MdmSite, *, awaiting: bool) -> None:
    """Let the Mac answer another program's DeviceInformation."""
    site.mdm.now = site.now
    answer = site.information(AwaitingConfiguration=awaiting)
    site.mdm.report(MAC, "Acknowledged", "other", **answer)
    site.run(hours(1))


@pytest.mark.parametrize("job", KIND, ids=KIND.values())
def test_mac_is_left_alone_until_an_answer_shows_the_end_of_setup_assistant(job: Job) -> None:
    site = in_setup_assistant(job)
    assert site.queued(KIND[job]) == 0
    answered(site, awaiting=True)
    assert site.outcomes == ["accepted"]
    answered(site, awaiting=False)
    site.poll()
    assert site.queued(KIND[job]) == 1
