"""Public payloads that are easily misread, each with its right translation."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ingest.device_bodies import event_data, kept, reasons, translate

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
        assert b"hmac-sha256:" in body
        assert not [secret for secret in SECRETS if secret in body]
