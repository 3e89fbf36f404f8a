"""Public payloads that are easily misread, each with its right translation."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest import sofa
from pipeline.state.advisories import Advisories
from pipeline.state.fleet import Fleet
from tests.unit.ingest.device_bodies import RECEIVED_AT, event_data, kept, reasons, translate

CASES = Path(__file__).parents[2] / "data" / "ingest"


def read(name: str) -> bytes:
    return (CASES / name).read_bytes()


@pytest.mark.parametrize(
    ("source", "name", "events", "letters"),
    [
        (
            "osquery",
            "osquery-01-snapshot-as-events.ndjson",
            [
                {"os_version": "26.6", "build": "25G72", "apple_silicon": True},
                {
                    "serial": "C02DOCK00001",
                    "model": "Mac16,1",
                    "hostname": "bench-1",
                    "apple_silicon": True,
                },
            ],
            [],
        ),
        (
            "osquery",
            "osquery-02-version-contradicts-build.ndjson",
            [
                {"os_version": "26.6", "build": "25G72", "apple_silicon": True},
                {"build": "20C69", "apple_silicon": True},
                {"os_version": "15.6.1", "build": "24G90", "apple_silicon": True},
            ],
            [("bad_value", "$.columns.version")],
        ),
        (
            "osquery",
            "osquery-03-os-version-in-parts.ndjson",
            [
                {
                    "os_version": "26.6.1",
                    "build": "25G76",
                    "serial": "C02DOCK00005",
                    "model": "Mac14,2",
                    "hostname": "bench-5",
                    "apple_silicon": True,
                }
            ],
            [],
        ),
        (
            "osquery",
            "osquery-04-first-line-cut.log",
            [
                {"os_version": "26.6", "build": "25G72", "apple_silicon": True},
                {"os_version": "26.6", "build": "25G72", "apple_silicon": True},
            ],
            [("not_json", "line 1 column 93")],
        ),
        (
            "munki",
            "munki-01-one-bad-date.plist",
            [
                {
                    "serial": "C02DOCK00061",
                    "os_version": "26.6",
                    "build": "25G72",
                    "model": "Mac14,2",
                    "apple_silicon": True,
                    "free_disk_gb": 96.637,
                }
            ],
            [("bad_value", "plist: Conditions.last_seen")],
        ),
        (
            "jamf",
            "jamf-01-placeholder-ids.ndjson",
            [],
            [("no_device", "$.event.computer.udid")],
        ),
        ("jamf", "jamf-02-group-flag.ndjson", [], [("unknown_type", "$.webhook.webhookEvent")]),
    ],
)
def test_a_payload_of_a_device(
    source: str, name: str, events: list[dict[str, Any]], letters: list[tuple[str, str]]
) -> None:
    translation = translate(source, read(name))
    assert [event_data(one) for one in translation.events] == events
    assert reasons(translation) == letters


SECRETS = [
    b"ZG9jazpzaG9ydC1wdw==",
    b"DOCK-TEST-0000-1111-2222-3333",
    b"bm90LWEtcmVhbC1rZXktbm90LWEtcmVhbC1rZXk=",
    b"not-a-real-secret-key",
]


def test_secrets_beside_their_names_are_not_kept() -> None:
    translation = translate("osquery", read("osquery-06-secret-in-key-value-row.ndjson"))
    bodies = [kept(letter) or b"" for letter in translation.dead_letters]
    assert len(bodies) == 5
    for body in bodies:
        assert json.loads(body)["name"].startswith("pack/Global/")
        columns = json.loads(body)["columns"].values()
        assert all(one in {"(text)", ""} or one.startswith("hmac-sha256:") for one in columns)
        assert not [secret for secret in SECRETS if secret in body]


def sofa_events(name: str, previous: str | None = None) -> list[Any]:
    before = None if previous is None else read(previous)
    translation = sofa.translate(read(name), origin=name, received_at=RECEIVED_AT, previous=before)
    assert translation.dead_letters == ()
    return list(translation.events)


def test_a_later_document_without_a_date_has_a_later_time() -> None:
    (published,) = sofa_events("sofa-04-b-no-notes-yet.json", "sofa-04-a-before.json")
    (raised,) = sofa_events("sofa-04-c-notes-and-exploited.json", "sofa-04-b-no-notes-yet.json")
    assert raised.time > published.time
    assert (raised.time - published.time).total_seconds() < 1
    catalogue = Advisories()
    for event in (raised, published):
        catalogue = catalogue.apply(event)
    (release, *_) = catalogue.lines["26"]
    assert set(release.exploited) == {"CVE-2026-20011"}
    assert release.cves == {"CVE-2026-20011", "CVE-2026-20012"}


def test_a_correction_of_exploitation_is_an_event() -> None:
    (published,) = sofa_events("sofa-01-b-wrongly-exploited.json", "sofa-01-a-before.json")
    (corrected,) = sofa_events("sofa-01-c-put-right.json", "sofa-01-b-wrongly-exploited.json")
    assert corrected.type == "drydock.advisory.corrected.v1"
    assert corrected.data.exploited_cves == ()
    catalogue = Advisories().apply(published).apply(corrected)
    (release, *_) = catalogue.lines["26"]
    assert release.exploited == {}
    assert release.cves == {f"CVE-2026-{number}" for number in (20011, 20012, 20013)}


def test_the_feed_of_another_system_is_refused_as_a_whole() -> None:
    name = "sofa-02-ios-feed.json"
    translation = sofa.translate(read(name), origin=name, received_at=RECEIVED_AT)
    assert translation.events == ()
    assert {code for code, _ in reasons(translation)} == {"not_a_mac"}


def test_an_improvement_with_keys_in_lower_case_is_read() -> None:
    data = {one.subject: one.data for one in sofa_events("sofa-03-bsi-lower-case-keys.json")}
    improvement = data["macOS-26.3.1 (a)"]
    assert [str(build) for build in improvement.builds] == ["25D771280a"]
    assert improvement.device_ids == ("J314sAP", "J700AP")


def test_a_report_by_the_serial_number_of_twins_is_given_to_neither() -> None:
    translation = translate("osquery", read("identity-01-one-serial-two-macs.ndjson"))
    fleet = Fleet()
    for event in translation.events:
        fleet.apply(event)
    macs = {udid: fleet.merged_device(udid) for udid in fleet.macs()}
    found = {udid.rsplit("-", 1)[-1]: str(device.os_version) for udid, device in macs.items()}
    assert found == {
        "000000000051": "26.6",
        "000000000052": "26.6",
        "serial:C02DOCKTWINS": "26.0",
    }
    codes = {code for device in macs.values() for code, _ in fleet.identity(device).conflicts}
    assert codes == {"serial_shared"}
