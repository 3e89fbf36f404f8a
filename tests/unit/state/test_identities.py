"""Conflicts of identifiers between Macs: what shows them, what resolves them, what revives them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.compact.alias_index import MOST_UDIDS
from pipeline.state.fleet import Fleet
from pipeline.state.identity import CERTAIN, SHOWN_CONFLICTS, Identity
from schemas.envelope import AuthenticatedEvent, Event
from schemas.findings import FindingCode
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    enrolled,
    make_event,
    polled,
    reported,
    settled,
)
from tests.strategies import events

NEW = UDID[:-1] + "2"
THIRD = UDID[:-1] + "3"
SERIAL, LATER = "C02TEST0001", "C02TEST0002"
PART = f"serial:{SERIAL}"
SHARED, CHANGED = FindingCode.SERIAL_SHARED, FindingCode.SERIAL_CHANGED
ENROLLMENT = FindingCode.ENROLLMENT_SHARED


def fleet_of(*found: Event) -> Fleet:
    fleet = Fleet()
    for event in found:
        fleet.apply(event)
    return fleet


def identity(fleet: Fleet, udid: str) -> Identity:
    return fleet.identity(fleet.merged_device(udid))


def in_conflict(code: FindingCode, *others: str) -> Identity:
    return Identity(conflicts=tuple((code, other) for other in others))


def authenticated(udid: str, when: Any, serial: str = SERIAL) -> Event:
    data = {"udid": udid, "serial": serial}
    event: AuthenticatedEvent = make_event(AuthenticatedEvent, udid, when, data)
    return event


OLD = reported(UDID, NOW - 20 * DAY, "mdm", serial=SERIAL)


@pytest.mark.parametrize(
    ("later", "of_old", "of_new"),
    [
        pytest.param(
            [reported(NEW, NOW, serial=SERIAL)],
            in_conflict(SHARED, NEW),
            in_conflict(SHARED, UDID),
            id="report-proves-nothing",
        ),
        pytest.param(
            [authenticated(NEW, NOW)], Identity(NEW), CERTAIN, id="enrollment-after-a-board-swap"
        ),
        pytest.param(
            [authenticated(NEW, NOW - HOUR), polled(UDID, NOW)],
            in_conflict(SHARED, NEW),
            in_conflict(SHARED, UDID),
            id="old-mac-was-seen-after-the-enrollment",
        ),
        pytest.param(
            [reported(NEW, NOW, "mdm", serial=SERIAL)],
            Identity(NEW),
            in_conflict(SHARED, UDID),
            id="old-mac-silent-while-mdm-has-the-new-one",
        ),
        pytest.param(
            [reported(NEW, NOW, "mdm", serial=SERIAL), polled(UDID, NOW - 13 * DAY)],
            in_conflict(SHARED, NEW),
            in_conflict(SHARED, UDID),
            id="old-mac-not-silent-long-enough",
        ),
        pytest.param(
            [reported(NEW, NOW, "mdm", serial=LATER)], CERTAIN, CERTAIN, id="other-serial-number"
        ),
    ],
)
def test_serial_number_under_a_second_udid(
    later: list[Event], of_old: Identity, of_new: Identity
) -> None:
    for order in ([OLD, *later], [*later, OLD]):
        fleet = fleet_of(*order)
        assert (identity(fleet, UDID), identity(fleet, NEW)) == (of_old, of_new)


def test_report_by_serial_number_belongs_to_the_mac_that_is_left_after_a_board_swap() -> None:
    by_serial = reported(None, NOW, "munki", serial=SERIAL, hostname="lon-7")
    fleet = fleet_of(OLD, by_serial, authenticated(NEW, NOW - HOUR))
    assert set(fleet.macs()) == {UDID, NEW}
    assert (fleet.merged_device(NEW).hostname, fleet.find(SERIAL)) == ("lon-7", NEW)


def test_report_by_a_serial_number_of_two_macs_is_a_record_of_its_own() -> None:
    twins = [reported(udid, NOW, serial=SERIAL) for udid in (UDID, NEW)]
    fleet = fleet_of(*twins, reported(None, NOW, "munki", serial=SERIAL, hostname="x"))
    assert set(fleet.macs()) == {UDID, NEW, PART}
    assert identity(fleet, PART) == in_conflict(SHARED, UDID, NEW)
    assert fleet.udids_with_serial(SERIAL) == (UDID, NEW)


def test_second_serial_number_under_a_udid_is_a_conflict_that_no_enrollment_resolves() -> None:
    fleet = fleet_of(OLD, authenticated(UDID, NOW, LATER))
    assert identity(fleet, UDID) == in_conflict(CHANGED, SERIAL)
    fleet.apply(settled("merge", SERIAL, UDID, NOW))
    assert identity(fleet, UDID) == CERTAIN
    fleet.apply(reported(UDID, NOW + HOUR, serial=SERIAL))
    fleet.apply(reported(UDID, NOW + 2 * HOUR, serial=LATER))
    assert identity(fleet, UDID) == in_conflict(CHANGED, SERIAL)


def test_mac_that_claims_the_serial_number_of_another_replaces_it_not() -> None:
    """Its own serial number is in doubt, so its enrollment proves nothing about the other Mac."""
    loaner = reported(UDID, NOW - 2 * DAY, serial=SERIAL)
    victim = [*enrolled(NEW), reported(NEW, NOW - 3 * DAY, serial=LATER)]
    fleet = fleet_of(loaner, *victim, authenticated(NEW, NOW))
    assert identity(fleet, UDID) == in_conflict(SHARED, NEW)
    assert [code for code, _ in identity(fleet, NEW).conflicts] == [SHARED, CHANGED]


@pytest.mark.parametrize("serial", ["0", "N/A", "string"])
def test_placeholder_of_a_serial_number_is_no_conflict(serial: str) -> None:
    fleet = fleet_of(
        reported(UDID, NOW - HOUR, serial=serial),
        reported(NEW, NOW - HOUR, serial=serial),
        reported(UDID, NOW, serial=SERIAL),
    )
    assert identity(fleet, UDID) == identity(fleet, NEW) == CERTAIN


def test_enrollment_id_of_another_mac_is_a_conflict_and_joins_nothing() -> None:
    victim = [*enrolled(UDID), reported(UDID, NOW - HOUR, os_version="26.1", serial=SERIAL)]
    fleet = fleet_of(*victim, reported(NEW, NOW, "mdm", enrollment_id=UDID, os_version="26.2"))
    assert fleet.find(UDID) == UDID
    assert str(fleet.merged_device(UDID).os_version) == "26.1"
    assert identity(fleet, UDID) == in_conflict(ENROLLMENT, NEW)
    assert identity(fleet, NEW) == in_conflict(ENROLLMENT, UDID)


def test_two_macs_with_one_enrollment_id_are_in_conflict() -> None:
    claims = [reported(udid, NOW, "mdm", enrollment_id="BYOD-1") for udid in (UDID, NEW)]
    fleet = fleet_of(*claims, reported("BYOD-1", NOW, "mdm", hostname="x"))
    assert set(fleet.macs()) == {UDID, NEW, "BYOD-1"}
    assert identity(fleet, UDID) == in_conflict(ENROLLMENT, NEW)


@pytest.mark.parametrize("source", ["osquery", "munki", "jamf", "executor", "other"])
def test_only_the_mdm_server_binds_an_enrollment_id(source: str) -> None:
    fleet = fleet_of(OLD, reported(NEW, NOW, source, enrollment_id=UDID))
    assert fleet.merged_device(NEW).enrollment_id is None
    assert identity(fleet, UDID) == CERTAIN


# --- settlements of operators ---

TWINS = [reported(udid, NOW - HOUR, serial=SERIAL) for udid in (UDID, NEW)]


def test_separate_macs_share_a_serial_number_without_a_conflict() -> None:
    fleet = fleet_of(*TWINS, settled("separate", UDID, NEW, NOW))
    assert identity(fleet, UDID) == identity(fleet, NEW) == CERTAIN
    fleet.apply(reported(THIRD, NOW, serial=SERIAL))
    assert identity(fleet, UDID) == in_conflict(SHARED, THIRD)


def test_merged_mac_is_replaced_until_it_reports_again() -> None:
    fleet = fleet_of(*TWINS, settled("merge", UDID, NEW, NOW))
    assert (identity(fleet, UDID), identity(fleet, NEW)) == (Identity(NEW), CERTAIN)
    fleet.apply(polled(UDID, NOW + HOUR))
    assert identity(fleet, UDID) == in_conflict(SHARED, NEW)


def test_of_two_settlements_the_later_counts_in_any_order() -> None:
    acts: list[Event] = [
        settled("separate", UDID, NEW, NOW),
        settled("merge", NEW, UDID, NOW + HOUR),
    ]
    for order in (acts, acts[::-1]):
        fleet = fleet_of(*TWINS, *order)
        assert (identity(fleet, UDID), identity(fleet, NEW)) == (CERTAIN, Identity(UDID))


def test_forgotten_mac_is_gone_until_it_reports_again() -> None:
    act = settled("forget", UDID, when=NOW)
    orders: list[list[Event]] = [[OLD, act], [act, OLD]]
    for order in orders:
        fleet = fleet_of(*order)
        assert list(fleet.macs()) == []
        assert fleet.is_forgotten(UDID)
        fleet.apply(reported(UDID, NOW + HOUR, hostname="lon-1"))
        device = fleet.merged_device(UDID)
        assert (device.hostname, device.serial) == ("lon-1", None)
        assert list(fleet.macs()) == [UDID]


def test_forgetting_a_mac_ends_its_conflicts() -> None:
    fleet = fleet_of(*TWINS, settled("forget", NEW, when=NOW))
    assert identity(fleet, UDID) == CERTAIN
    assert list(fleet.macs()) == [UDID]


def test_settlements_survive_a_restart() -> None:
    fleet = fleet_of(*TWINS, settled("merge", UDID, NEW, NOW))
    again = Fleet()
    again.load_broadcast(fleet.broadcast_to_wire())
    for device in fleet.devices.values():
        again.put(device)
    assert again.broadcast_to_wire() == fleet.broadcast_to_wire()
    assert identity(again, UDID) == Identity(NEW)


# --- laws ---


def test_invented_macs_with_one_serial_number_cost_a_bounded_time() -> None:
    many = [f"INVENTED-{number}" for number in range(3 * MOST_UDIDS)]
    fleet = fleet_of(OLD, *(reported(udid, NOW, serial=SERIAL) for udid in many))
    assert len(identity(fleet, UDID).conflicts) == SHOWN_CONFLICTS
    assert len(identity(fleet, many[-1]).conflicts) == SHOWN_CONFLICTS
    change = fleet.apply(reported(many[-1], NOW + HOUR, hostname="x"))
    assert len(change.udids) <= MOST_UDIDS + 2


def identities(fleet: Fleet) -> dict[str, Identity]:
    return {udid: identity(fleet, udid) for udid in fleet.macs()}


@given(st.lists(events(), max_size=14), st.randoms(use_true_random=False))
def test_identities_do_not_depend_on_the_order_of_events(found: list[Event], random: Any) -> None:
    shuffled = [*found, *found]
    random.shuffle(shuffled)
    assert identities(fleet_of(*found)) == identities(fleet_of(*shuffled))


@given(st.lists(events(), max_size=14))
def test_mac_whose_identity_changes_is_in_the_change(found: list[Event]) -> None:
    fleet = Fleet()
    for event in found:
        before = identities(fleet)
        change = fleet.apply(event)
        after = identities(fleet)
        differ = {udid for udid in before.keys() & after.keys() if before[udid] != after[udid]}
        assert change.affects_all or differ <= {
            fleet.canonical_udid(one) or one for one in change.udids
        }


@given(st.lists(events(), max_size=14))
def test_identity_is_read_back_from_a_record(found: list[Event]) -> None:
    for one in identities(fleet_of(*found)).values():
        assert Identity.from_wire(one.to_wire()) == one
