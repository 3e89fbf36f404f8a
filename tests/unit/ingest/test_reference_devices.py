"""The translation of every device payload of the reference data, compared with the table."""

from pathlib import Path
from typing import Any

import pytest

from schemas.envelope import DdmStatusEvent, decode, encode
from tests.unit.ingest.device_bodies import RECEIVED_AT, event_data, kept, reasons, translate
from tests.unit.ingest.reference_devices import LIVE, ROWS, Want

# The HTTP headers of one of the bodies, and responses of KMFDDM's own API, are not payloads.
NO_PAYLOADS = ("headers-of-02-tokenupdate-1.txt", "kmfddm-api")


@pytest.mark.parametrize(("source", "name", "want"), ROWS, ids=[row[1] for row in ROWS])
def test_each_reference_payload_gives_its_table_row(
    reference_data: Path, source: str, name: str, want: Want
) -> None:
    translation = translate(source, (reference_data / name).read_bytes())
    found: Want = [
        (
            event.type.removeprefix("drydock.").removesuffix(".v1"),
            without_documents(event_data(event)),
        )
        for event in translation.events
    ]
    assert found + reasons(translation) == want
    for event in translation.events:
        assert decode(encode(event)) == event


def without_documents(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("status_items", "errors")}


def test_the_table_has_every_payload(reference_data: Path) -> None:
    listed = {row[1] for row in ROWS}
    for folder in ("mdm", "inventory"):
        for path in sorted((reference_data / folder).rglob("*")):
            name = path.relative_to(reference_data).as_posix()
            if path.is_file() and not any(part in name for part in NO_PAYLOADS):
                assert name in listed


def test_the_push_token_of_a_bare_status_report_is_not_kept(reference_data: Path) -> None:
    raw = (reference_data / "mdm/kmfddm/status.20220628.json").read_bytes()
    (letter,) = translate("nanomdm", raw).dead_letters
    kept_bytes = kept(letter)
    assert kept_bytes is not None
    assert b"bwyw7bcwAI7jmDvkYswfcQ6sHhkZIO" in raw
    assert b"bwyw7bcwAI7jmDvkYswfcQ6sHhkZIO" not in kept_bytes
    assert b"hmac-sha256:" in kept_bytes


def test_a_status_report_is_kept_by_the_fields_that_are_read(reference_data: Path) -> None:
    raw = (reference_data / LIVE / "27-ddm-status-updated.json").read_bytes()
    (event,) = translate("nanomdm", raw).events
    assert isinstance(event, DdmStatusEvent)
    items = event.data.status_items
    system = items["device"]["operating-system"]
    assert (system["version"], system["marketing-name"]) == ("14.7.2", "(text)")
    assert event.data.errors[0]["StatusItem"] == "softwareupdate.device-id"


@pytest.mark.parametrize(
    ("source", "name", "at"),
    [
        ("nanomdm", LIVE + "01-authenticate.json", "2026-11-23T18:17:45.406870+00:00"),
        ("nanomdm", LIVE + "18-connect-idle.json", "2026-11-23T18:17:46.009143+00:00"),
        ("nanomdm", "mdm/nanocmd/tokenupdate.json", "2023-05-24T21:28:06.253316+00:00"),
        ("nanomdm", "mdm/nanomdm/webhook.Authenticate.2.json", RECEIVED_AT.isoformat()),
        ("nanomdm", "mdm/nanomdm/Authenticate.2.plist", RECEIVED_AT.isoformat()),
        ("micromdm", "mdm/micromdm/webhook.CheckOut.json", "2018-08-13T18:36:12.727463+00:00"),
        (
            "jamf",
            "inventory/jamf/webhook.nested.ComputerCheckIn.json",
            "2019-03-25T21:54:35.590000+00:00",
        ),
    ],
    ids=["nanoseconds", "other-nanoseconds", "zone", "go-zero-time", "none", "micromdm", "jamf"],
)  # fmt: skip
def test_an_event_has_the_time_of_the_payload_if_there_is_one(
    reference_data: Path, source: str, name: str, at: str
) -> None:
    events = translate(source, (reference_data / name).read_bytes()).events
    assert {event.time.isoformat() for event in events} == {at}


def test_a_personally_owned_mac_is_keyed_by_its_enrollment(reference_data: Path) -> None:
    raw = (reference_data / LIVE / "66-byod-authenticate.json").read_bytes()
    for event in translate("nanomdm", raw).events:
        assert event.subject == "BYOD-ENR-1"
        assert getattr(event.data, "udid", None) == "BYOD-ENR-1"
        assert getattr(event.data, "enrollment_id", None) == "BYOD-ENR-1"
