"""The identity of an event: its subject is a key that follows from its data."""

from typing import Any

import pytest

from pipeline.trust.identity import identity_problem, subjects_of
from schemas.envelope import AdvisorySeverityRaisedEvent, InventoryEvent
from tests.factories import NOW
from tests.factories.events import make_event


def report(subject: str, **data: Any) -> Any:
    return make_event(InventoryEvent, subject, NOW, {"source": "osquery", **data})


def kev_entry(subject: str, *cves: str) -> Any:
    data = {"source": "kev", "cves": cves, "exploited_cves": cves}
    return make_event(AdvisorySeverityRaisedEvent, subject, NOW, data)


FITTING = {
    "UDID": report("MAC-1", udid="MAC-1"),
    "UDID in other letters": report("mac-1", udid="MAC-1"),
    "serial number": report("serial:C02X", serial="C02X"),
    "first CVE": kev_entry("CVE-2026-1001", "CVE-2026-1001", "CVE-2026-1002"),
    "second CVE": kev_entry("CVE-2026-1002", "CVE-2026-1001", "CVE-2026-1002"),
}
OTHER = {
    "other UDID": (report("MAC-2", udid="MAC-1"), "the subject is not 'MAC-1'"),
    "other serial number": (report("serial:C02Y", serial="C02X"), "the subject is not 'serial:C"),
    "other CVE": (
        kev_entry("CVE-2026-1003", "CVE-2026-1001"),
        "the subject is not 'CVE-2026-1001'",
    ),
    "no CVE and no release": (kev_entry("CVE-2026-1003"), "no subject fits"),
}


@pytest.mark.parametrize("event", FITTING.values(), ids=FITTING)
def test_event_with_a_subject_of_its_data_has_no_problem(event: Any) -> None:
    assert identity_problem(event) is None


@pytest.mark.parametrize(("event", "detail"), OTHER.values(), ids=OTHER)
def test_problem_names_the_usual_subject(event: Any, detail: str) -> None:
    problem = identity_problem(event)
    assert problem is not None
    assert problem.detail.startswith(detail)
    assert problem.where == "$.subject"


def test_entry_of_the_catalogue_of_exploited_cves_fits_each_of_its_cves() -> None:
    assert subjects_of(kev_entry("CVE-2026-1001", "CVE-2026-1001", "CVE-2026-1002")) == (
        "CVE-2026-1001",
        "CVE-2026-1002",
    )
