"""Admission of events: what each sender may submit, identities and times."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.trust.admission import admit
from pipeline.trust.senders import SCOPES, Sender, default_sender
from schemas.dead_letters import Problem
from schemas.envelope import (
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
    CheckedOutEvent,
    InventoryEvent,
    OutsideEvent,
)
from tests.factories.events import make_event

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EVENTS, NANOMDM, SOFA = (default_sender(kind) for kind in ("events", "nanomdm", "sofa"))
RELEASE = {"os_line": "26", "os_version": "26.2"}


def report(subject: str = "MAC-1", when: datetime = NOW, **data: Any) -> InventoryEvent:
    found: InventoryEvent = make_event(
        InventoryEvent, subject, when, {"source": "osquery", "udid": "MAC-1", **data}
    )
    return found


def statement(kind: type[Any] = AdvisoryPublishedEvent, **data: Any) -> Any:
    return make_event(kind, "macOS-26.2", NOW, {"source": "sofa", **RELEASE, **data})


def admitted(event: OutsideEvent, sender: Sender = EVENTS, *, translated: bool = False) -> Any:
    found = admit(event, sender, NOW, is_translated=translated)
    assert not isinstance(found, Problem), found
    return found


def for_macs(sender: Sender, *names: str) -> Sender:
    return replace(sender, scope=replace(sender.scope, devices=frozenset(names)))


CHECK_OUT = make_event(CheckedOutEvent, "MAC-1", NOW, {"udid": "MAC-1"})
EXPLOITED = make_event(
    AdvisorySeverityRaisedEvent,
    "CVE-2026-1234",
    NOW,
    {"source": "kev", "cves": ["CVE-2026-1234"], "exploited_cves": ["CVE-2026-1234"]},
)
REFUSED: dict[str, tuple[Sender, OutsideEvent, str, str]] = {
    "check-in": (EVENTS, CHECK_OUT, "forbidden", "$.type"),
    "enrollment": (EVENTS, report(mdm_enrolled=True), "forbidden", "$.data.mdm_enrolled"),
    "not enrolled": (EVENTS, report(mdm_enrolled=False), "forbidden", "$.data.mdm_enrolled"),
    "enrollment id": (EVENTS, report(enrollment_id="MAC-2"), "forbidden", "$.data.enrollment_id"),
    "as the MDM server": (EVENTS, report(source="mdm"), "forbidden", "$.data.source"),
    "as an admin, from an MDM server": (
        NANOMDM,
        report(source="admin", never_erase=False),
        "forbidden",
        "$.data.source",
    ),
    "as an MDM server, from an admin": (
        default_sender("admin"),
        report(source="mdm"),
        "forbidden",
        "$.data.source",
    ),
    "check-in from an admin": (default_sender("admin"), CHECK_OUT, "forbidden", "$.type"),
    "as an executor": (NANOMDM, report(source="executor"), "forbidden", "$.data.source"),
    "field of another source": (
        default_sender("munki"),
        report(source="munki", filevault=True),
        "forbidden",
        "$.data.filevault",
    ),
    "release": (EVENTS, statement(source="other"), "forbidden", "$.type"),
    "release from an MDM server": (NANOMDM, statement(), "forbidden", "$.type"),
    "as another feed": (SOFA, statement(source="gdmf"), "forbidden", "$.data.source"),
    "as an admin": (SOFA, statement(source="admin"), "forbidden", "$.data.source"),
    "as a feed": (default_sender("advisories"), statement(), "forbidden", "$.data.source"),
    "retraction of a feed that retracts nothing": (
        default_sender("gdmf"),
        statement(AdvisoryRetractedEvent, source="gdmf"),
        "forbidden",
        "$.type",
    ),
    "report from a feed": (SOFA, report(), "forbidden", "$.type"),
    "no name": (EVENTS, report("x", udid=None), "no_device", "$.data"),
    "placeholder": (EVENTS, report("x", udid="(null)"), "no_device", "$.data.udid"),
    "placeholder of a serial": (
        EVENTS,
        report("x", udid=None, serial="N/A"),
        "no_device",
        "$.data.serial",
    ),
    "subject of another Mac": (EVENTS, report("MAC-2"), "bad_identity", "$.subject"),
    "subject that is no UDID": (EVENTS, report("Annas Mac"), "bad_identity", "$.subject"),
    "serial number without prefix": (
        EVENTS,
        report("C02X", udid=None, serial="C02X"),
        "bad_identity",
        "$.subject",
    ),
    "subject of another release": (
        SOFA,
        statement(os_version="26.3"),
        "bad_identity",
        "$.subject",
    ),
    "subject with an escape": (EVENTS, report("MAC-1\x1b]0;x\x07"), "bad_identity", "$.subject"),
    "another Mac": (for_macs(EVENTS, "MAC-2"), report(), "forbidden", "$.data.udid"),
    "serial number of another Mac": (
        for_macs(EVENTS, "MAC-1"),
        report("serial:C02X", udid=None, serial="C02X"),
        "forbidden",
        "$.data.serial",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_event_outside_the_scope_of_its_sender_is_refused(case: str) -> None:
    sender, event, code, where = REFUSED[case]
    refusal = admit(event, sender, NOW, is_translated=False)
    assert isinstance(refusal, Problem)
    assert (refusal.code, refusal.where) == (code, where)


@pytest.mark.parametrize(
    "source",
    ["/drydock/decide", "/drydock/executor/london", " /Drydock/decide", "urn:drydock:feed:sofa"],
)
@pytest.mark.parametrize("kind", SCOPES)
def test_source_of_drydock_is_refused_from_every_sender(kind: str, source: str) -> None:
    event = report().model_copy(update={"source": source})
    refusal = admit(event, default_sender(kind), NOW, is_translated=False)
    assert isinstance(refusal, Problem)
    assert (refusal.code, refusal.where) == ("forbidden", "$.source")


ACCEPTED: dict[str, tuple[Sender, OutsideEvent]] = {
    "report": (EVENTS, report(os_version="26.1")),
    "report in small letters": (EVENTS, report("mac-1", udid="mac-1")),
    "report with a serial number alone": (
        EVENTS,
        report("serial:C02X", udid=None, serial="C02X"),
    ),
    "check-in from the MDM channel": (NANOMDM, CHECK_OUT),
    "enrollment from the MDM channel": (NANOMDM, report(mdm_enrolled=True, source="mdm")),
    "release of the feed": (SOFA, statement()),
    "exploited CVE": (default_sender("kev"), EXPLOITED),
    "release of another source": (default_sender("advisories"), statement(source="other")),
    "owner, from an operator": (
        default_sender("admin"),
        report(source="admin", ownership="company", never_erase=True),
    ),
    "release from an operator": (default_sender("admin"), statement(source="admin")),
    "Mac in the list": (for_macs(EVENTS, "MAC-1", "MAC-2"), report()),
    "field that is not stated": (EVENTS, report(mdm_enrolled=None)),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted_event_has_its_sender_and_the_time_of_receipt(case: str) -> None:
    sender, event = ACCEPTED[case]
    found = admitted(event, sender)
    assert (found.sender, found.receivedat, found.claimedtime) == (sender.name, NOW, None)
    assert (found.time, found.data) == (event.time, event.data)
    assert found.subject == event.subject.replace("mac-1", "MAC-1")


def test_attributes_of_admission_are_never_those_of_the_sender() -> None:
    forged = report().model_copy(
        update={"sender": "sofa", "receivedat": NOW + timedelta(days=900), "claimedtime": NOW}
    )
    found = admitted(forged)
    assert (found.sender, found.receivedat, found.claimedtime) == ("events", NOW, None)


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        (NOW, True),
        (NOW + timedelta(minutes=5), True),
        (NOW + timedelta(minutes=5, seconds=1), False),
        (NOW + timedelta(hours=23), False),
        (datetime(9999, 12, 31, tzinfo=UTC), False),
        (NOW - timedelta(days=400), True),
        (datetime(2015, 1, 1, tzinfo=UTC), True),
        (datetime(2014, 12, 31, 23, 59, 59, tzinfo=UTC), False),
        (datetime(1970, 1, 1, tzinfo=UTC), False),
    ],
)
def test_implausible_time_is_replaced_by_that_of_the_receipt(claimed: datetime, kept: bool) -> None:
    found = admitted(report(when=claimed))
    assert found.time == (claimed if kept else NOW)
    assert found.claimedtime == (None if kept else claimed)


def test_implausible_times_in_the_data_are_bounded() -> None:
    def at(time: datetime) -> Any:
        return report(boot_at=time)

    assert admitted(at(NOW + timedelta(days=1))).data.boot_at == NOW
    assert admitted(at(datetime(1, 1, 1, tzinfo=UTC))).data.boot_at is None
    usual = at(NOW - timedelta(days=1))
    assert admitted(usual).data is usual.data


def test_enrollment_is_removed_from_a_translated_payload() -> None:
    event = report(os_version="26.1", mdm_enrolled=False, user_approved=True)
    found = admitted(event, default_sender("osquery"), translated=True)
    assert (found.data.mdm_enrolled, found.data.user_approved) == (None, None)
    assert str(found.data.os_version) == "26.1"


def test_report_with_a_macs_own_token_is_about_this_mac() -> None:
    """Munki knows only a serial number, which another Mac could have."""
    own = replace(for_macs(default_sender("munki"), "MAC-1"), own_device="MAC-1")
    event = report("serial:C02X", udid=None, serial="C02X", source="munki", os_version="26.1")
    found = admitted(event, own, translated=True)
    assert (found.subject, found.data.udid, found.data.serial) == ("MAC-1", "MAC-1", None)


def test_names_of_other_macs_are_removed_within_a_list_of_macs() -> None:
    sender = for_macs(NANOMDM, "MAC-1", "C02MINE")
    mine = admitted(report(serial="C02MINE", enrollment_id="MAC-1"), sender)
    assert (mine.data.serial, mine.data.enrollment_id) == ("C02MINE", "MAC-1")
    other = admitted(report(serial="C02OTHER", enrollment_id="MAC-2"), sender)
    assert (other.data.serial, other.data.enrollment_id) == (None, None)
