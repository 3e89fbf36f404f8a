"""Rows of Macs: loading restores the state; equal values are one object; versions."""

import msgspec
import pytest

from pipeline.processors import rows
from pipeline.reconcile.reconciler import Reconciler
from schemas.envelope import Event
from tests import factories as make
from tests.reconcile_loop import accept, new_reconciler


def a_reconciler(*events: Event) -> Reconciler:
    reconciler = new_reconciler()
    for event in (make.policy_changed(), make.release("26.2"), *events):
        accept(reconciler, event, make.NOW)
    return reconciler


def test_a_row_restores_the_mac_and_its_last_decision() -> None:
    reconciler, loaded = (
        a_reconciler(*make.enrolled(), make.polled(), make.full_report()),
        Reconciler(),
    )
    row = rows.encode_device(reconciler, make.UDID, 1, is_decided=True)
    rest = rows.load_device(loaded, make.UDID, row)
    assert loaded.fleet.devices == reconciler.fleet.devices
    last = reconciler.last_decisions[make.UDID]
    assert last.exposed_us
    stored = last._replace(exposed_us=0)
    assert rest == (stored, True, None)
    loaded.fleet.load_broadcast(reconciler.fleet.broadcast_to_wire())
    loaded.restore(make.UDID, stored)
    assert loaded.last_decisions == reconciler.last_decisions
    assert loaded.counts.exposed_days == reconciler.counts.exposed_days


def test_a_row_restores_the_counts_of_findings() -> None:
    reconciler, loaded = a_reconciler(make.full_report()), Reconciler()
    row = rows.encode_device(reconciler, make.UDID, 1)
    last_decision = rows.load_device(loaded, make.UDID, row).last_decision
    assert last_decision is not None
    loaded.restore(make.UDID, last_decision)
    assert loaded.findings == reconciler.findings == {("london", "mdm_unknown"): 1}


def test_a_row_keeps_the_bytes_of_the_issued_event() -> None:
    raw = b' {"data" : {"job": "\xc3\xbc", "n": 1.50}} '
    row = rows.encode_device(Reconciler(), make.UDID, 1, issued_event=raw)
    assert rows.load_device(Reconciler(), make.UDID, row).issued_event == raw.strip()


def test_loaded_macs_share_equal_values() -> None:
    other = "5A0C7D9E-0000-4000-8000-000000000002"
    reconciler, loaded = (
        a_reconciler(make.full_report(), make.full_report(udid=other)),
        Reconciler(),
    )
    for udid in (make.UDID, other):
        rows.load_device(loaded, udid, rows.encode_device(reconciler, udid, 1, is_decided=True))
    one, two = (loaded.fleet.devices[udid] for udid in (make.UDID, other))
    assert one.model is two.model


@pytest.mark.parametrize("row", [b"{", b"[]", b'{"e": 1}', b'{"e": 1, "device": {}}'])
def test_an_invalid_row_is_refused(row: bytes) -> None:
    with pytest.raises(rows.InvalidRow):
        rows.load_device(Reconciler(), make.UDID, row)


def test_a_row_of_an_earlier_or_a_later_version_is_read() -> None:
    reconciler, loaded = a_reconciler(*make.enrolled(), make.full_report()), Reconciler()
    wire = rows.decode_row(rows.encode_device(reconciler, make.UDID, 1, is_decided=False))
    wire["last_decision"] = wire["last_decision"][:7]
    wire["colour"] = wire["device"]["colour"] = "space grey"
    wire["device"]["facts"]["colour"] = [1, "space grey"]
    del wire["device"]["inventory_days"]
    last_decision, is_decided, _ = rows.load_device(loaded, make.UDID, msgspec.json.encode(wire))
    assert loaded.fleet.devices[make.UDID].values == reconciler.fleet.devices[make.UDID].values
    assert last_decision == reconciler.last_decisions[make.UDID]._replace(
        recheck_on_telemetry=True, waits_for=0, findings=(), exposed_us=0
    )
    assert not is_decided
