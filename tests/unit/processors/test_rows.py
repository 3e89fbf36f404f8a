"""A Mac's row gives back what it was written from, and holds equal things once."""

import msgspec
import pytest

from pipeline.decide.engine import Engine
from pipeline.processors import rows
from schemas.envelope import Event
from tests import factories as make


def an_engine(*events: Event) -> Engine:
    engine = Engine()
    for event in (make.policy_changed(), make.release("26.2"), *events):
        list(engine.handle(event, make.NOW))
    return engine


def test_a_row_gives_back_the_mac_and_its_answer() -> None:
    engine, loaded = an_engine(*make.enrolled(), make.polled(), make.full_report()), Engine()
    row = rows.device_row(engine, make.UDID, 1, is_answered=True)
    standing, is_answered = rows.load_device(loaded, make.UDID, row)
    assert loaded.fleet.devices == engine.fleet.devices
    assert (standing, is_answered) == (engine.standings[make.UDID], True)


def test_loaded_macs_share_what_many_say() -> None:
    other = "5A0C7D9E-0000-4000-8000-000000000002"
    engine, loaded = an_engine(make.full_report(), make.full_report(udid=other)), Engine()
    for udid in (make.UDID, other):
        rows.load_device(loaded, udid, rows.device_row(engine, udid, 1, is_answered=True))
    one, two = (loaded.fleet.devices[udid] for udid in (make.UDID, other))
    assert one.model is two.model


@pytest.mark.parametrize("row", [b"{", b"[]", b'{"e": 1}', b'{"e": 1, "device": {}}'])
def test_what_is_no_row_is_refused(row: bytes) -> None:
    with pytest.raises(rows.BadRow):
        rows.load_device(Engine(), make.UDID, row)


def test_a_row_of_an_earlier_or_a_later_version_is_read() -> None:
    engine, loaded = an_engine(*make.enrolled(), make.full_report()), Engine()
    wire = rows.read(rows.device_row(engine, make.UDID, 1, is_answered=False))
    wire["answer"] = wire["answer"][:7]
    wire["colour"] = wire["device"]["colour"] = "space grey"
    wire["device"]["facts"]["colour"] = [1, "space grey"]
    del wire["device"]["inventory_days"]
    standing, is_answered = rows.load_device(loaded, make.UDID, msgspec.json.encode(wire))
    assert loaded.fleet.devices[make.UDID].values == engine.fleet.devices[make.UDID].values
    assert standing == engine.standings[make.UDID]._replace(
        heeds_figures=True, waits_for_slot=False
    )
    assert not is_answered
