"""The hour of notice that a declared update leaves its user, although its order is late."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agents.journal_entry import JournalEntry, Phase
from agents.watching import due_at
from tests.factories.sites import START, hours
from tests.mdm_site import DDM, MAC, MINUTE, MdmSite, a_site

KMFDDM = "ddm.test"


def declared_at(site: MdmSite) -> set[datetime]:
    """Return the times of enforcement of the site's declarations."""
    payloads = [one["Payload"] for one in site.mdm.declarations.values()]
    times = [one["TargetLocalDateTime"] for one in payloads if "TargetLocalDateTime" in one]
    return {datetime.fromisoformat(at).replace(tzinfo=UTC) for at in times}


@pytest.mark.parametrize(
    ("after", "lasts", "expected"),
    [
        pytest.param(0, 48, 1, id="at once"),
        pytest.param(0.5, 48, 1.5, id="late"),
        pytest.param(5, 48, 6, id="after its time"),
        pytest.param(5, 5.5, 5.5, id="not past its expiry"),
    ],
)
def test_declaration_leaves_an_hour_of_notice_from_its_order(
    after: float, lasts: float, expected: float
) -> None:
    job = DDM.model_copy(update={"expires_at": START + hours(lasts)})
    site = a_site()
    site.now = START + hours(after)
    site.start(job)
    assert declared_at(site) == {START + hours(expected)}


def test_repeated_declaration_keeps_its_time_after_a_restart(tmp_path: Path) -> None:
    site = a_site(tmp_path)
    site.now = START + hours(5)
    site.start(DDM)
    site.mdm.lose(MAC)
    site.poll()
    site.close()
    site.mdm.declarations.clear()
    again = MdmSite(site.mdm, tmp_path, now=site.now)
    again.run(hours(1))
    assert again.queued("DeclarativeManagement") == 2
    assert declared_at(again) == {START + hours(6)}


def test_declaration_that_an_ill_server_takes_late_leaves_an_hour_of_notice() -> None:
    site = a_site()
    site.mdm.failing[KMFDDM, "PUT"] = 503
    site.start(DDM)
    site.run(hours(5))
    site.mdm.failing.clear()
    while not declared_at(site):
        site.run(MINUTE)
    assert declared_at(site) == {site.now + hours(1)}


@pytest.mark.parametrize(
    ("declared_h", "due_h"),
    [pytest.param(None, 1, id="of the job"), pytest.param(6, 6, id="of the order")],
)
def test_mac_is_due_at_the_time_that_its_order_declares(
    declared_h: float | None, due_h: float
) -> None:
    entry = JournalEntry(
        job=DDM,
        phase=Phase.WATCHING,
        accepted_at=START,
        wake_at=START,
        sends=1,
        intent_at=START,
        enforce_at=None if declared_h is None else START + hours(declared_h),
    )
    assert due_at(entry) == START + hours(due_h)
