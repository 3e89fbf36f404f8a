"""A peek has the fields that decoding gives, as JSON values."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import Event, InventoryEvent, decode, encode
from schemas.events.inventory import InventoryReported
from schemas.fast.report_peek import TELEMETRY_FIELDS, peek_report
from tests.strategies import events, reports

REPORT = InventoryEvent.model_fields["type"].default
# Other ways to write a report, as old and new bytes; some change its meaning.
FORMS = st.sampled_from(
    [
        (b'":', b'" : '),
        (b"{", b'{"colour":"red",'),
        (b'"data":{', b'"data":{"serial":null,'),
        (b'"data":{', b'"data":{"serial":"C02OTHER",'),
        (b'"mdm"', b'"\\u006ddm"'),
        (b"Z", b"+00:00"),
        (b".0", b""),
        (b"", b""),
    ]
)


def _json_value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@given(events())
def test_peek_has_the_attributes_and_values_of_the_decoded_report(event: Event) -> None:
    peek = peek_report(encode(event))
    assert (peek is not None) is isinstance(event, InventoryEvent)
    if peek is not None:
        assert (peek.id, peek.source, peek.subject) == (event.id, event.source, event.subject)
        written = json.loads(event.data.model_dump_json())
        names = sorted(written, key=lambda name: name in TELEMETRY_FIELDS)
        assert [_json_value(one) for one in peek.values()] == [written[name] for name in names]


@given(reports(), reports(), FORMS)
def test_reports_with_equal_peeks_decode_to_equal_fields(
    one: Event, other: Event, form: tuple[bytes, bytes]
) -> None:
    raw = encode(other).replace(*form)
    peek = peek_report(raw)
    for event in (one, other):
        known = peek_report(encode(event))
        assert known is not None
        if peek is not None and peek.values() == known.values():
            assert decode(raw).data == event.data


def test_peek_has_each_field_in_its_json_type() -> None:
    facts: dict[str, Any] = dict.fromkeys(InventoryReported.model_fields, "x")
    flags = {name for name, it in InventoryReported.model_fields.items() if "bool" in str(it)}
    facts |= (
        dict.fromkeys(flags, True)
        | dict.fromkeys(TELEMETRY_FIELDS, 1.5)
        | {"activations": ["x"], "profiles": ["x"]}
    )
    event = {"type": REPORT, "id": "1", "source": "/t", "subject": "M", "time": "", "data": facts}
    seen = peek_report(json.dumps(event).encode())
    assert seen is not None
    assert len(seen.values()) == len(facts)
    assert seen.values()[-len(TELEMETRY_FIELDS) :] == (1.5, 1.5)
    for name in flags | set(TELEMETRY_FIELDS) | {"activations", "profiles"}:
        assert peek_report(json.dumps(event | {"data": facts | {name: "x"}}).encode()) is None
