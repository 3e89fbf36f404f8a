"""A report that a shard recognises as a repeat is folded as if it had been decoded."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.processors import device_shard
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.shard_config import ShardConfig
from pipeline.reconcile.changes import Changes, Input
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.compact.duplicates import (
    apply_duplicate,
    remember_newest_report,
    remember_report,
)
from pipeline.state.device import Device, to_us
from pipeline.state.device_folds import apply_inventory
from pipeline.state.fleet import Fleet
from schemas.envelope import CheckedOutEvent, Event, InvalidEvent, InventoryEvent, decode, encode
from schemas.events.checkin import MdmCheckedOut
from schemas.events.inventory import InventoryReported
from schemas.fast.report_peek import peek_report
from schemas.macos import parse_os_version
from schemas.topics import INTERNAL_TOPICS, INVENTORY, TOPICS
from tests import factories as make
from tests.factories import topic_of
from tests.factories.sites import JOBS_KEY, KEYS
from tests.reconcile_loop import accept, new_reconciler

ONE_PARTITION = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
START = datetime(2026, 1, 1, tzinfo=UTC)
FIELD_SETS: list[dict[str, Any]] = [
    {"os_version": parse_os_version("26.1"), "serial": "S1", "free_disk_gb": 10.0},
    {"os_version": parse_os_version("26.2"), "serial": "S1", "free_disk_gb": 10.0},
    {"os_version": parse_os_version("26.1"), "serial": "S1"},
    {"serial": "S2", "enrollment_id": "E-1"},
    {"free_disk_gb": 11.0},
    {"free_disk_gb": 11.5, "battery_percent": 80.0},
    {"free_disk_gb": 0.0, "battery_percent": 9.0, "serial": "S1"},
    {"free_disk_gb": 11.5, "battery_percent": 7.0, "serial": "S1"},
]


def _report(mac: str, source: str, fields: dict[str, Any], minute: int, *, named: bool) -> Event:
    is_named = named or "serial" not in fields
    whom = {"udid": mac} if is_named else {}
    return InventoryEvent(
        id=f"{mac}{source}{minute}",
        source="/t",
        subject=mac if is_named else f"serial:{fields['serial']}",
        time=START + timedelta(minutes=minute),
        data=InventoryReported.model_validate({"source": source, **whom, **fields}),
    )


def _check_out(mac: str, minute: int) -> Event:
    return CheckedOutEvent(
        id=f"{mac}{minute}",
        source="/t",
        subject=mac,
        time=START + timedelta(minutes=minute),
        data=MdmCheckedOut(udid=mac),
    )


def _burst(
    mac: str,
    source: str,
    content: int,
    telemetry: list[dict[str, float]],
    minutes: tuple[int, int],
    *,
    named: bool,
) -> list[Event]:
    """Return a report, then the same with other telemetry; `minutes`: first time, and distance."""
    first, apart = minutes
    return [
        _report(mac, source, FIELD_SETS[content] | moving, first + number * apart, named=named)
        for number, moving in enumerate([{}, *telemetry])
    ]


MOVING = st.sampled_from(
    [{}, {"free_disk_gb": 20.0}, {"free_disk_gb": 21.0}, {"battery_percent": 5.0}]
)
BURSTS = st.builds(
    lambda mac, source, content, telemetry, minutes, named: _burst(
        mac, source, content, telemetry, minutes, named=named
    ),
    st.sampled_from(["MAC-A", "MAC-B", "E-1"]),
    st.sampled_from(["mdm", "osquery"]),
    st.integers(0, len(FIELD_SETS) - 1),
    st.lists(MOVING, max_size=4),
    st.tuples(st.integers(0, 3000), st.sampled_from([1, 1000])),
    st.booleans(),
)
CHECK_OUTS = st.builds(
    lambda mac, minute: [_check_out(mac, minute)],
    st.sampled_from(["MAC-A", "MAC-B"]),
    st.integers(0, 3000),
)


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


def _shard() -> DeviceShard:
    """Return a shard that has caught up: before that it recognises no repeats."""
    shard = DeviceShard(
        0, BroadcastState(KEYS.approvals), ShardConfig(JOBS_KEY, KEYS.jobs, ONE_PARTITION)
    )
    shard.begin(START)
    shard.finish_catch_up()
    return shard


def _remembered(device: Device) -> tuple[int, int]:
    return device.report_hash, device.report_fields


def _process(shard: DeviceShard, raw: bytes, topic: str = INVENTORY.name) -> int:
    """Process one record as a worker does; return the number of refused records."""
    return shard.process_records(topic, [Record(0, None, raw)], START)


def _fold_both_ways(raw: bytes, shard: DeviceShard, plain: Fleet) -> None:
    """Fold bytes in the shard and decoded in `plain`; assert that both accept or both refuse."""
    try:
        plain.apply(decode(raw))
    except InvalidEvent:
        assert _process(shard, raw) == 1
    else:
        assert _process(shard, raw) == 0


@given(st.lists(st.one_of(BURSTS, BURSTS, BURSTS, CHECK_OUTS), max_size=10))
def test_duplicate_bytes_fold_as_they_would_decoded(bursts: list[list[Event]]) -> None:
    shard, plain = _shard(), Fleet()
    for event in chain.from_iterable(bursts):
        raw = encode(event)
        assert _process(shard, raw, topic_of(event)) == 0
        plain.apply(decode(raw))
    fleet = shard.reconciler.fleet
    assert fleet.devices == plain.devices
    assert [fleet.merged_device(udid) for udid in fleet.macs()] == [
        plain.merged_device(udid) for udid in plain.macs()
    ]


@given(BURSTS, BURSTS)
def test_duplicate_gives_the_state_of_the_plain_fold(
    first: list[Event], bursts: list[Event]
) -> None:
    device = Device(first[0].subject)
    for event in chain(first, bursts):
        assert isinstance(event, InventoryEvent)
        peek = peek_report(encode(event))
        assert peek is not None
        plain = apply_inventory(device, event.data, to_us(event.time))
        found = apply_duplicate(peek, device)
        assert found is None or found == (plain, to_us(event.time))
        remembered = remember_report(event, peek, plain)
        if to_us(event.time) > device.newest_us:
            newest = remember_newest_report(peek, plain)
            assert (newest, _remembered(newest)) == (remembered, _remembered(remembered))
        device = remembered if found is None else found[0]


@given(BURSTS, BURSTS)
def test_fleet_remembers_a_report_as_the_plain_function_does(
    first: list[Event], bursts: list[Event]
) -> None:
    fleet = Fleet()
    for event in chain(first, bursts):
        assert isinstance(event, InventoryEvent)
        peek = peek_report(encode(event))
        assert peek is not None
        fleet.apply(event)
        folded = fleet.devices[event.subject]
        fleet.remember(event, peek)
        remembered = fleet.devices[event.subject]
        plain = remember_report(event, peek, folded)
        # A Mac with several records remembers no report.
        assert _remembered(remembered) in (_remembered(folded), _remembered(plain))


@pytest.mark.parametrize(
    "telemetry",
    [
        pytest.param(b'"battery_percent":101', id="above the maximum"),
        pytest.param(b'"battery_percent":-1', id="below the minimum"),
        pytest.param(b'"free_disk_gb":007', id="not a number"),
        pytest.param(b'"free_disk_gb":"5"', id="a text"),
        pytest.param(b'"free_disk_gb":null', id="null"),
        pytest.param(b'"free_disk_gb":1.5e3', id="an exponent"),
        pytest.param(b'"free_disk_gb":7,"free_disk_gb":8', id="key twice"),
        pytest.param(b'"free_disk_gb":7,"own":{"free_disk_gb":9}', id="in another object"),
        pytest.param(b'"hostname":"\\"free_disk_gb\\":9"', id="in a text"),
    ],
)
def test_telemetry_of_any_form_folds_as_it_would_decoded(telemetry: bytes) -> None:
    """Three reports of one form with different telemetry, some of it invalid."""
    shard, plain = _shard(), Fleet()
    for minute in range(3):
        event = _report("MAC-A", "mdm", FIELD_SETS[0], minute, named=True)
        raw = encode(event).replace(b'"free_disk_gb":10.0', telemetry.replace(b"9", b"%d" % minute))
        _fold_both_ways(raw, shard, plain)
    assert shard.reconciler.fleet.devices == plain.devices


@pytest.mark.parametrize(
    ("there", "here"),
    [
        pytest.param(
            b'"serial":"S1",', b'"serial":"S1","site":null,', id="null for an absent field"
        ),
        pytest.param(b'"serial":"S1",', b'"serial":"S1","colour":"red",', id="unknown field"),
        pytest.param(b'"serial":"S1",', b'"serial":"S0","serial":"S1",', id="field twice"),
        pytest.param(b'"serial":"S1",', b'"serial" : "\\u00531" ,', id="escaped text and spaces"),
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
        pytest.param(b'00Z"', b'61Z"', id="not a time"),
    ],
)
def test_report_of_any_form_folds_as_it_would_decoded(there: bytes, here: bytes) -> None:
    """Four reports with the same fields, the second and the last in another form."""
    shard, plain = _shard(), Fleet()
    for minute in range(4):
        raw = encode(_report("MAC-A", "mdm", FIELD_SETS[0], minute, named=True))
        assert there in raw
        if minute % 2:
            raw = raw.replace(there, here)
        _fold_both_ways(raw, shard, plain)
        assert shard.reconciler.fleet.devices == plain.devices


def test_a_value_that_lost_a_tie_wins_when_it_is_reported_later() -> None:
    shard, plain = _shard(), Fleet()
    for minute, site in ((1, "b"), (1, "a"), (2, "a")):
        event = _report("MAC-A", "osquery", {"site": site}, minute, named=True)
        _process(shard, encode(event))
        plain.apply(event)
    assert shard.reconciler.fleet.devices == plain.devices


def test_repeat_is_folded_without_decoding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = _shard()
    _process(shard, encode(_report("MAC-A", "mdm", FIELD_SETS[0], 1, named=True)))
    state = shard.reconciler.fleet.devices["MAC-A"]
    later = encode(_report("MAC-A", "mdm", FIELD_SETS[0], 9, named=True))
    monkeypatch.setattr(device_shard, "decode", lambda _: pytest.fail("the repeat was decoded"))
    assert _process(shard, later) == 0
    after = shard.reconciler.fleet.devices["MAC-A"]
    assert after.values is state.values
    assert after.reported_us("serial") == state.reported_us("serial") + 8 * 60_000_000


def _reconciler() -> Reconciler:
    reconciler = new_reconciler()
    for event in (make.policy_changed(), make.release("26.2", day="2025-12-01")):
        accept(reconciler, event, START)
    return reconciler


@given(st.lists(st.one_of(BURSTS, BURSTS, BURSTS, CHECK_OUTS), max_size=10), st.booleans())
def test_repeat_path_gives_the_changes_of_the_plain_path(
    bursts: list[list[Event]], decides: bool
) -> None:
    """One path of repeats serves every shell; without `decides` as during a catch-up."""
    fast, plain = _reconciler(), _reconciler()
    now = START + timedelta(days=1)
    for event in chain.from_iterable(bursts):
        raw, one, other = encode(event), Changes(), Changes()
        peek = peek_report(raw) if isinstance(event, InventoryEvent) else None
        if peek is None or fast.apply_duplicate(peek, now, one) is None:
            fast.apply([Input(decode(raw), raw, peek)], now, one)
        plain.apply([Input(decode(raw), raw)], now, other)
        assert fast.queue.is_undecided(event.subject) is plain.queue.is_undecided(event.subject)
        if decides:
            fast.decide_marked(now, 0, one)
            plain.decide_marked(now, 0, other)
        one.inputs = other.inputs
        assert one == other
    assert fast.fleet.devices == plain.fleet.devices
    assert fast.last_decisions == plain.last_decisions
