"""Of a payload the fields that a translator reads are kept, the others by name and type."""

import base64
import plistlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.payload_retention import retained, values
from pipeline.ingest.retained_events import retained_event
from schemas.envelope import CommandReportedEvent, DdmStatusEvent, Event, InventoryEvent, encode
from schemas.events.checkin import CommandError, DdmStatusReported, MdmCommandReported
from schemas.events.inventory import InventoryReported
from tests.property.test_secrets import assert_removed, plant
from tests.unit.ingest.device_bodies import RECEIVED_AT, REDACTOR, UDID, event_data, kept, translate
from tests.unit.ingest.hostile_payloads import samples

SECRET = b"correct horse battery staple"
# Names that no list of secrets has.
NAMES = st.text("abcdefghijklmnopqrstuvwxyzABCDXYZ_", min_size=1, max_size=20).map(
    lambda name: f"zz{name}"
)
INDEXES = st.integers(0, len(samples()) - 1)


@given(name=NAMES, index=INDEXES)
def test_text_in_a_field_that_no_translator_reads_is_not_kept(name: str, index: int) -> None:
    source, raw = samples()[index]
    if raw.startswith(b"<?xml") and b"<plist" not in raw:
        name = name.replace("_", "-")
    assert_removed(SECRET, translate(source, plant(raw, name, SECRET)))


@pytest.mark.parametrize("index", range(len(samples())))
def test_kept_payload_is_translated_to_the_same_reports(index: int) -> None:
    source, raw = samples()[index]
    first = translate(source, raw).events
    again = translate(source, kept(first[0]) or b"").events
    assert [*map(compared, again)] == [*map(compared, first)]


def compared(event: Event) -> tuple[Any, ...]:
    data = event_data(event)
    # The fingerprint of a fingerprint is another one.
    data.get("status_items", {}).pop("management", None)
    return event.type, event.subject, event.time, data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text("xyz"), inside),
)
TYPES = {"(text)", "(number)", "(boolean)", "", None}


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@given(JSON)
def test_nothing_but_types_is_left_without_fields_to_keep(value: Any) -> None:
    assert {*leaves(retained({"nothing": value}, {}))} <= TYPES


@given(JSON)
def test_value_in_another_form_than_is_read_has_its_type(value: Any) -> None:
    found = retained({"a": value, "b": {"c": value}}, {"a": None, "b": values("c")})
    if isinstance(value, dict | list):
        assert {*leaves(found)} <= TYPES
    else:
        assert found == {"a": value, "b": {"c": value}}


@given(JSON)
def test_what_is_retained_stays_equal(value: Any) -> None:
    once = retained({"x": value, "y": value}, {"y": None})
    assert retained(once, {"y": None}) == once


FORMS = [
    "ABCD-EFGH-IJKL-MNOP-QRST-UVWX",
    "-----BEGIN OPENSSH PRIVATE KEY----- b3BlbnNzaC1rZXk -----END OPENSSH PRIVATE KEY-----",
    "-----BEGIN PGP PRIVATE KEY BLOCK----- lQOYBF -----END PGP PRIVATE KEY BLOCK-----",
    "https://user:hunter2@repo.example.org/",
    "https://repo.example.org/x?token=hunter2",
    "Authorization: Basic dXNlcjpodW50ZXIy",
    "authorization bearer abcdef123456",
    "WIFI_PASSWORD=hunter2",
    "wifi-password: hunter2",
    "api_key = hunter2",
    "tool --password hunter2 -v",
    "curl -u admin:hunter2 https://example.org",
]


@pytest.mark.parametrize("text", FORMS)
def test_secret_in_a_text_that_is_read_is_known_by_its_form(text: str) -> None:
    report = InventoryReported(source="osquery", udid=UDID, hostname=text, mdm_server=f"x {text}")
    event = InventoryEvent(id="1", source="/s", subject=UDID, time=RECEIVED_AT, data=report)
    raw = encode(retained_event(event, REDACTOR))
    for secret in (b"hunter2", b"MNOP", b"b3BlbnNz", b"lQOYBF", b"dXNlcjp", b"abcdef123456"):
        assert secret not in raw
    errors = (CommandError(code=1, domain="d", description=text),)
    command = MdmCommandReported(udid=UDID, status="Error", error_chain=errors)
    failed = CommandReportedEvent(id="1", source="/s", subject=UDID, time=RECEIVED_AT, data=command)
    assert b"hmac-sha256:" in encode(retained_event(failed, REDACTOR))


@given(st.text(max_size=1024))
def test_event_with_any_text_is_still_an_event(text: str) -> None:
    report = InventoryReported.model_construct(source="osquery", udid=UDID, hostname=text)
    event = InventoryEvent.model_construct(
        id="1", source="/s", subject=UDID, time=RECEIVED_AT, data=report
    )
    found = retained_event(event, REDACTOR).data
    assert isinstance(found, InventoryReported)
    assert len(found.hostname or "") <= 1024


def test_event_of_a_sender_keeps_no_payload_and_no_foreign_status_items() -> None:
    items = {"zz": "hunter2", "device": {"model": {"identifier": "Mac15,12", "zz": "hunter2"}}}
    errors = ({"StatusItem": "zz", "Reasons": [{"Code": "E", "Description": "hunter2"}]},)
    data = DdmStatusReported(udid=UDID, status_items=items, errors=errors)
    event = DdmStatusEvent(
        id="1",
        source="/s",
        subject=UDID,
        time=RECEIVED_AT,
        rawbase64=base64.b64encode(plistlib.dumps({"zz": "hunter2"})).decode(),
        data=data,
    )
    found = retained_event(event, REDACTOR)
    assert isinstance(found, DdmStatusEvent)
    assert found.rawbase64 is None
    assert found.data.status_items == {
        "zz": "(text)",
        "device": {"model": {"identifier": "Mac15,12", "zz": "(text)"}},
    }
    assert found.data.errors == (
        {"StatusItem": "zz", "Reasons": [{"Code": "E", "Description": "(text)"}]},
    )
