"""A lost report of one Mac changes the decision of no other Mac, whatever the order of arrival."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.batch import decide_all, fold_events
from schemas.envelope import Event
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    checked_out,
    enrolled,
    full_report,
    policy,
    polled,
    release,
    reported,
)

UDIDS = [f"{UDID[:-1]}{number}" for number in range(3)]
FACTS: dict[str, st.SearchStrategy[Any]] = {
    "free_disk_gb": st.sampled_from([3.0, 200.0]),
    "system_volume_sealed": st.booleans(),
    "supervised": st.booleans(),
    "on_ac_power": st.booleans(),
    "loan_returned_at": st.sampled_from([NOW - DAY, NOW + DAY]),
}
RELEASES = [release(one) for one in ("26.0", "26.1", "26.2", "15.7.3", "14.8.3")]


@st.composite
def events_of(draw: st.DrawFn, udid: str) -> list[Event]:
    """Return events of one Mac, with a serial number of its own."""
    serial = f"C02{udid[-8:]}"
    version = draw(st.sampled_from(["26.0", "26.1", "26.2", "15.7.3", "13.7.8"]))
    found: list[Event] = [*enrolled(udid), full_report(version, udid, serial=serial)]
    for hours in draw(st.lists(st.integers(1, 48), max_size=4, unique=True)):
        when = NOW - hours * HOUR
        facts = draw(st.fixed_dictionaries({}, optional=FACTS))
        kind = draw(st.sampled_from(["report", "serial", "poll", "checkout"]))
        if kind == "report":
            found.append(reported(udid, when, serial=serial, **facts))
        elif kind == "serial":
            found.append(reported(None, when, "munki", serial=serial, **facts))
        else:
            found.append(polled(udid, when) if kind == "poll" else checked_out(udid, when))
    return found


def decisions(events: list[Event]) -> dict[str, str]:
    """Return the decision of each Mac as JSON."""
    found = decide_all(fold_events([*RELEASES, *events]), policy(), NOW)
    return {one.udid: one.model_dump_json() for one in found}


@given(st.tuples(*(events_of(udid) for udid in UDIDS)), st.data())
def test_lost_event_of_a_mac_changes_the_decision_of_no_other(
    fleet: tuple[list[Event], ...], data: st.DataObject
) -> None:
    events = data.draw(st.permutations([one for of in fleet for one in of]))
    before = decisions(events)
    at = data.draw(st.integers(0, len(events) - 1))
    lost = next(udid for udid, of in zip(UDIDS, fleet, strict=True) if events[at] in of)
    after = decisions([*events[:at], *events[at + 1 :]])
    assert {udid: after.get(udid) for udid in UDIDS if udid != lost} == {
        udid: before[udid] for udid in UDIDS if udid != lost
    }
