"""A report known by its bytes is folded as if it had been decoded."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.engine import Engine
from pipeline.state.fleet import Fleet
from schemas.envelope import CheckedOutEvent, Event, InvalidEvent, InventoryEvent, decode, encode
from schemas.events.checkin import MdmCheckedOut
from schemas.events.inventory import InventoryReported
from schemas.glance import FIGURES, glance
from schemas.macos import parse_os_version

REPORT = InventoryEvent.model_fields["type"].default
START = datetime(2026, 1, 1, tzinfo=UTC)
SAID: list[dict[str, Any]] = [
    {"os_version": parse_os_version("26.1"), "serial": "S1", "free_disk_gb": 10.0},
    {"os_version": parse_os_version("26.2"), "serial": "S1", "free_disk_gb": 10.0},
    {"os_version": parse_os_version("26.1"), "serial": "S1"},
    {"serial": "S2", "enrollment_id": "E-1"},
    {"free_disk_gb": 11.0},
    {"free_disk_gb": 11.5, "battery_percent": 80.0},
    {"free_disk_gb": 0.0, "battery_percent": 9.0, "serial": "S1"},
    {"free_disk_gb": 11.5, "battery_percent": 7.0, "serial": "S1"},
]


def _report(mac: str, source: str, said: dict[str, Any], minute: int, *, named: bool) -> Event:
    whom = {"udid": mac} if named or "serial" not in said else {}
    return InventoryEvent(
        id=f"{mac}{source}{minute}",
        source="/t",
        subject=mac,
        time=START + timedelta(minutes=minute),
        data=InventoryReported.model_validate({"source": source, **whom, **said}),
    )


def _goodbye(mac: str, minute: int) -> Event:
    return CheckedOutEvent(
        id=f"{mac}{minute}",
        source="/t",
        subject=mac,
        time=START + timedelta(minutes=minute),
        data=MdmCheckedOut(udid=mac),
    )


REPORTS = st.builds(
    lambda mac, source, said, minute, named: _report(mac, source, SAID[said], minute, named=named),
    st.sampled_from(["MAC-A", "MAC-B", "E-1"]),
    st.sampled_from(["mdm", "osquery"]),
    st.integers(0, len(SAID) - 1),
    st.integers(0, 3000),
    st.booleans(),
)
GOODBYES = st.builds(
    _goodbye,
    st.sampled_from(["MAC-A", "MAC-B"]),
    st.integers(0, 3000),
)


def _take(raw: bytes, engine: Engine, plain: Fleet) -> None:
    """Fold bytes at a glance and decoded; what one refuses the other does too."""
    try:
        plain.apply(decode(raw))
    except InvalidEvent:
        with pytest.raises(InvalidEvent):
            engine.handle_raw(raw, START)
    else:
        list(engine.handle_raw(raw, START))


@given(st.lists(st.one_of(REPORTS, REPORTS, REPORTS, GOODBYES), max_size=25))
def test_bytes_that_repeat_fold_as_they_would_decoded(events: list[Event]) -> None:
    engine, plain = Engine(Fleet()), Fleet()
    for event in events:
        raw = encode(event)
        list(engine.handle_raw(raw, START))
        plain.apply(decode(raw))
    assert engine.fleet.devices == plain.devices
    assert [engine.fleet.view(udid) for udid in engine.fleet.macs()] == [
        plain.view(udid) for udid in plain.macs()
    ]


@pytest.mark.parametrize(
    "figures",
    [
        pytest.param(b'"battery_percent":101', id="too much"),
        pytest.param(b'"battery_percent":-1', id="too little"),
        pytest.param(b'"free_disk_gb":007', id="no number"),
        pytest.param(b'"free_disk_gb":"5"', id="a text"),
        pytest.param(b'"free_disk_gb":null', id="unknown"),
        pytest.param(b'"free_disk_gb":1.5e3', id="an exponent"),
        pytest.param(b'"free_disk_gb":7,"free_disk_gb":8', id="twice"),
        pytest.param(b'"free_disk_gb":7,"own":{"free_disk_gb":9}', id="of another object"),
        pytest.param(b'"hostname":"\\"free_disk_gb\\":9"', id="in a text"),
    ],
)
def test_figures_of_any_form_are_as_when_decoded(figures: bytes) -> None:
    """Three reports of one form, each with other figures, or none that can be used."""
    engine, plain = Engine(Fleet()), Fleet()
    for minute in range(3):
        event = _report("MAC-A", "mdm", SAID[0], minute, named=True)
        raw = encode(event).replace(b'"free_disk_gb":10.0', figures.replace(b"9", b"%d" % minute))
        _take(raw, engine, plain)
    assert engine.fleet.devices == plain.devices


@pytest.mark.parametrize(
    ("there", "here"),
    [
        pytest.param(b'"serial":"S1",', b'"serial":"S1","site":null,', id="a null for nothing"),
        pytest.param(b'"serial":"S1",', b'"serial":"S1","colour":"red",', id="an unknown fact"),
        pytest.param(b'"serial":"S1",', b'"serial":"S0","serial":"S1",', id="a fact twice"),
        pytest.param(b'"serial":"S1",', b'"serial" : "\\u00531" ,', id="another spelling"),
        pytest.param(b'"serial":"S1",', b'"serial":1,', id="a number for a text"),
        pytest.param(b'"serial":"S1",', b'"supervised":1,', id="a number for a flag"),
        pytest.param(b'"serial":"S1",', b'"activations":[1],', id="numbers for texts"),
        pytest.param(b'"serial":"S1",', b'"serial":"S1",,', id="no JSON"),
        pytest.param(b'"serial":"S1",', b'"serial":"S\xff",', id="no UTF-8"),
        pytest.param(b'"source":"mdm"', b'"source":"abacus"', id="an unknown source"),
        pytest.param(b'"source":"/t",', b'"source":"",', id="a source without a name"),
        pytest.param(b'"source":"/t",', b'"source":"%s",' % (b"x" * 513), id="a long source"),
        pytest.param(b'"specversion":"1.0",', b'"specversion":"1.1",', id="another CloudEvents"),
        pytest.param(b'"specversion":"1.0",', b"", id="no version of CloudEvents"),
        pytest.param(b'"application/json"', b'"text/json"', id="another content type"),
        pytest.param(b"reported.v1", b"reported.v2", id="another type"),
        pytest.param(b'00Z"', b'00+00:00"', id="another way to write the time"),
        pytest.param(b'00Z"', b'00.1234567Z"', id="a time beyond microseconds"),
        pytest.param(b'00Z"', b'00"', id="a time without a zone"),
        pytest.param(b'00Z"', b'61Z"', id="no time"),
    ],
)
def test_reports_of_any_form_are_as_when_decoded(there: bytes, here: bytes) -> None:
    """Four reports that say the same, the second and the last of them in another form."""
    engine, plain = Engine(Fleet()), Fleet()
    for minute in range(4):
        raw = encode(_report("MAC-A", "mdm", SAID[0], minute, named=True))
        assert there in raw
        if minute % 2:
            raw = raw.replace(there, here)
        _take(raw, engine, plain)
        assert engine.fleet.devices == plain.devices


def test_a_glance_sees_each_fact_as_its_type() -> None:
    facts: dict[str, Any] = dict.fromkeys(InventoryReported.model_fields, "x")
    flags = {name for name, it in InventoryReported.model_fields.items() if "bool" in str(it)}
    facts |= dict.fromkeys(flags, True) | dict.fromkeys(FIGURES, 1.5) | {"activations": ["x"]}
    event = {"type": REPORT, "id": "1", "source": "/t", "subject": "M", "time": "", "data": facts}
    seen = glance(json.dumps(event).encode())
    assert seen is not None
    assert len(seen.facts()) == len(facts)
    assert seen.facts()[-len(FIGURES) :] == (1.5, 1.5)
    for name in flags | set(FIGURES) | {"activations"}:
        assert glance(json.dumps(event | {"data": facts | {name: "x"}}).encode()) is None


def test_what_lost_to_another_word_of_its_moment_wins_when_it_is_said_again() -> None:
    engine, plain = Engine(Fleet()), Fleet()
    for minute, site in ((1, "b"), (1, "a"), (2, "a")):
        event = _report("MAC-A", "osquery", {"site": site}, minute, named=True)
        list(engine.handle_raw(encode(event), START))
        plain.apply(event)
    assert engine.fleet.devices == plain.devices


def test_a_repeat_is_told_by_its_bytes() -> None:
    fleet = Fleet()
    engine = Engine(fleet)
    first = _report("MAC-A", "mdm", SAID[0], 1, named=True)
    list(engine.handle_raw(encode(first), START))
    later = encode(_report("MAC-A", "mdm", SAID[0], 9, named=True))
    state = fleet.devices["MAC-A"]
    list(engine.handle_raw(later, START))
    assert fleet.devices["MAC-A"].values is state.values
    assert fleet.devices["MAC-A"].stamp("serial") == state.stamp("serial") + 8 * 60_000_000
