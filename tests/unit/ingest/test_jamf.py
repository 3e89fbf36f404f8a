"""Translation of Jamf Pro webhooks."""

import json
from typing import Any

import pytest

from pipeline.ingest.jamf import MAX_XML_BYTES
from tests.unit.ingest.device_bodies import (
    RECEIVED_AT,
    UDID,
    fields_of,
    jamf,
    kept,
    reasons,
    translate,
)
from tests.unit.ingest.hostile_payloads import COMPUTER, jamf_xml

FIELDS = {
    "serial": "C02FAKE00001",
    "os_version": "26.2",
    "build": "25C56",
    "hostname": "fake-mac-01",
}


SEEN = {"serial": "C02FAKE00001"}


@pytest.mark.parametrize(
    ("kind", "event", "want"),
    [
        ("ComputerAdded", COMPUTER, FIELDS),
        ("ComputerInventoryCompleted", COMPUTER, FIELDS),
        ("ComputerPushCapabilityChanged", COMPUTER, SEEN),
        ("ComputerCheckIn", {"computer": COMPUTER, "trigger": "CLIENT_CHECKIN"}, SEEN),
        ("ComputerPolicyFinished", {"computer": COMPUTER, "policyId": 3}, SEEN),
        ("ComputerPolicyFinished", {**COMPUTER, "policyId": 3}, SEEN),
        ("ComputerPatchPolicyCompleted", COMPUTER, SEEN),
    ],
    ids=["added", "inventory", "push", "check-in", "policy-nested", "policy-flat", "patch"],
)
def test_only_an_inventory_renews_the_record(
    kind: str, event: dict[str, Any], want: dict[str, Any]
) -> None:
    translation = translate("jamf", jamf(kind, event))
    assert reasons(translation) == []
    assert fields_of(translation) == want
    (report,) = translation.events
    assert (report.subject, report.time.isoformat()) == (UDID, "2019-03-25T21:44:35.590000+00:00")


def test_xml_gives_the_same_report_as_json() -> None:
    (of_xml,) = translate("jamf", jamf_xml()).events
    (of_json,) = translate("jamf", jamf("ComputerAdded", COMPUTER)).events
    assert (of_xml.data, of_xml.time) == (of_json.data, of_json.time)
    assert json.loads(kept(of_xml) or b"")["event"] == COMPUTER | {"model": "(text)"}


def test_the_marketing_name_is_not_used_as_the_model() -> None:
    assert "model" not in fields_of(translate("jamf", jamf("ComputerAdded", COMPUTER)))


def test_a_computer_without_a_udid_is_identified_by_its_serial_number() -> None:
    (report,) = translate("jamf", jamf("ComputerAdded", {**COMPUTER, "udid": ""})).events
    assert report.subject == "serial:C02FAKE00001"


@pytest.mark.parametrize(
    ("raw", "code", "location"),
    [
        (
            jamf("MobileDeviceCheckIn", {"udid": UDID}),
            "not_a_mac",
            "$.webhook.webhookEvent",
        ),
        (jamf("RestAPIOperation", {"objectID": 1}), "unknown_type", "$.webhook.webhookEvent"),
        (
            jamf("SmartGroupComputerMembershipChange", {"jssid": 1}),
            "unknown_type",
            "$.webhook.webhookEvent",
        ),
        (jamf("JSSStartup", {}), "unknown_type", "$.webhook.webhookEvent"),
        (
            jamf("ComputerAdded", {**COMPUTER, "udid": "", "serialNumber": "Not Available"}),
            "no_device",
            "$.event.udid",
        ),
        (jamf("ComputerCheckIn", {"computer": None}), "no_device", "$.event.udid"),
        (b"{", "not_json", "line 1 column 2"),
        (b"[1]", "bad_shape", "$"),
        (b"{}", "unknown_type", "$.webhook"),
        (b"<JSSEvent>\n<webhook>", "not_xml", "line 2"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "not_xml", ""),
        (b"<?xml version='1.0' encoding='none'?><a/>", "not_xml", None),
        (b"<a>" * 20 + b"</a>" * 20, "too_deep", ""),
        (b"<a>" * 100_000 + b"</a>" * 100_000, "too_deep", ""),
        (b"<a>" + b" " * MAX_XML_BYTES + b"</a>", "too_large", ""),
        (b"<a>text</a>", "bad_shape", "$"),
    ],
    ids=[
        "mobile", "api", "group", "start", "placeholder", "null-computer", "cut", "list",
        "no-webhook", "cut-xml", "entities", "encoding", "deep", "deeper", "long", "text",
    ],
)  # fmt: skip
def test_any_other_body_is_a_dead_letter_with_its_path(
    raw: bytes, code: str, location: str | None
) -> None:
    translation = translate("jamf", raw)
    ((found, where),) = reasons(translation)
    assert (found, translation.events) == (code, ())
    assert location is None or where == location


@pytest.mark.parametrize("timestamp", ["soon", True, 10**20, 1553550275], ids=str)
def test_an_invalid_time_is_a_dead_letter_and_the_report_has_the_time_of_receipt(
    timestamp: Any,
) -> None:
    translation = translate("jamf", jamf("ComputerAdded", COMPUTER, timestamp))
    assert [location for _, location in reasons(translation)] == ["$.webhook.eventTimestamp"]
    assert translation.events[0].time == RECEIVED_AT


def test_an_invalid_version_loses_only_that_field() -> None:
    translation = translate("jamf", jamf("ComputerAdded", {**COMPUTER, "osVersion": "latest"}))
    assert reasons(translation) == [("bad_value", "$.event.osVersion")]
    assert fields_of(translation) == {key: FIELDS[key] for key in FIELDS if key != "os_version"}
