"""A report known by its bytes is folded as if it had been decoded."""

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
from schemas.macos import parse_os_version

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
        try:
            plain.apply(decode(raw))
        except InvalidEvent:
            with pytest.raises(InvalidEvent):
                engine.handle_raw(raw, START)
        else:
            list(engine.handle_raw(raw, START))
    assert engine.fleet.devices == plain.devices


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
