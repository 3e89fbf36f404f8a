"""Records of one Mac under several keys; halts, approvals, policy; the Macs a change affects."""

import itertools
import json
from collections.abc import Iterable

import pytest

from pipeline.state.change import NO_CHANGE, Change
from pipeline.state.fleet import Fleet
from schemas.envelope import Event
from schemas.macos import parse_build
from schemas.results import ErrorCode, Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    POLICY_TEXT,
    UDID,
    attempts_reset,
    checked_out,
    denied,
    enrolled,
    granted,
    halt_cleared,
    halted,
    issued,
    job,
    kev,
    mac,
    policy_changed,
    release,
    reported,
    resulted,
    retracted,
)

OTHER = UDID[:-1] + "2"
SERIAL = "C02TEST0001"
PART = f"serial:{SERIAL}"


def fleet_of(*events: Event) -> Fleet:
    fleet = Fleet()
    for event in events:
        fleet.apply(event)
    return fleet


def test_a_record_by_serial_number_joins_the_mac_that_reports_it() -> None:
    fleet = fleet_of(
        reported(None, NOW - HOUR, "jamf", serial=SERIAL, hostname="lon-9"),
        reported(UDID, NOW - 2 * HOUR, serial=SERIAL, hostname="lon-1", os_version="26.1"),
    )
    assert list(fleet.macs()) == [UDID]
    view = fleet.merged_device(UDID)
    assert (view.hostname, str(view.os_version), view.udid) == ("lon-9", "26.1", UDID)
    assert fleet.find(SERIAL.lower()) == fleet.find(UDID.lower()) == UDID
    assert fleet.find("unknown") is None


def test_a_record_by_a_serial_number_of_two_macs_belongs_to_neither() -> None:
    fleet = fleet_of(
        reported(None, NOW - 9 * HOUR, "jamf", serial=SERIAL, hostname="lon-9"),
        reported(UDID, NOW - 5 * HOUR, serial=SERIAL),
    )
    change = fleet.apply(reported(OTHER, NOW - HOUR, serial=SERIAL))
    assert set(change.udids) == {UDID, OTHER, PART}
    assert fleet.merged_device(UDID).hostname is fleet.merged_device(OTHER).hostname is None
    assert set(fleet.macs()) == {UDID, OTHER, PART}


@pytest.mark.parametrize("serial", ["0", "none", "N/A"])
def test_placeholder_serial_numbers_join_no_records(serial: str) -> None:
    fleet = fleet_of(*(reported(udid, NOW - HOUR, serial=serial) for udid in (UDID, OTHER)))
    fleet.apply(reported(None, NOW, "jamf", serial=serial, hostname="x"))
    assert len(list(fleet.macs())) == 3


def test_a_record_by_enrollment_id_joins_the_mac_that_reports_it() -> None:
    fleet = fleet_of(
        reported(UDID, NOW - HOUR, "mdm", enrollment_id="BYOD-1", os_version="26.1"),
        reported("BYOD-1", NOW - HOUR, "mdm", serial=SERIAL),
        reported(None, NOW - HOUR, "jamf", serial=SERIAL, hostname="lon-9"),
    )
    assert list(fleet.macs()) == [UDID]
    assert fleet.merged_device(UDID).hostname == "lon-9", (
        "joined through the serial number in the other record"
    )
    change = fleet.apply(reported("BYOD-1", NOW, "mdm", supervised=True))
    assert change.udids == (UDID,)


def test_records_that_name_each_other_are_both_macs() -> None:
    fleet = fleet_of(
        reported(UDID, NOW - HOUR, "mdm", enrollment_id=OTHER),
        reported(OTHER, NOW - HOUR, "mdm", enrollment_id=UDID),
    )
    assert set(fleet.macs()) == {UDID, OTHER}


def test_only_changes_beyond_telemetry_are_material() -> None:
    fleet = fleet_of(reported(UDID, NOW - 5 * HOUR, serial=SERIAL, free_disk_gb=50.0))
    assert not fleet.apply(reported(UDID, NOW - 4 * HOUR, free_disk_gb=40.0)).is_material
    assert not fleet.apply(reported(UDID, NOW - 3 * HOUR, serial=SERIAL)).is_material
    assert fleet.apply(reported(UDID, NOW - 2 * HOUR, hostname="lon-2")).is_material
    assert fleet.apply(checked_out(when=NOW - HOUR)).is_material
    assert fleet.apply(reported(UDID, NOW - 9 * HOUR, free_disk_gb=1.0)) is NO_CHANGE


@pytest.mark.parametrize("build", [None, "25C56"], ids=["build unknown", "build known"])
def test_report_that_makes_the_build_known_or_unknown_is_material(build: str | None) -> None:
    """Although no value changes: a build is obsolete once its version is reported without it."""
    fleet = fleet_of(reported(UDID, NOW - 3 * HOUR, os_version="26.2", build="25C56"))
    if build is not None:
        fleet.apply(reported(UDID, NOW - 2 * HOUR, os_version="26.2"))
    change = fleet.apply(reported(UDID, NOW - HOUR, os_version="26.2", build=build))
    assert change == Change((UDID,), is_material=True)
    assert str(fleet.devices[UDID].build) == str(build and parse_build(build))


def affected(fleet: Fleet, event: Event, to: str | None = None) -> set[str]:
    change = fleet.apply(event)
    supported = fleet.advisories.supported_lines
    return set(fleet.affected(change, supported=supported, upgrades_to=to))


def lined_up(versions: Iterable[str]) -> Fleet:
    fleet = fleet_of(*(release(v) for v in ("26.2", "15.7.3", "14.8.3", "13.7.8")))
    for version in versions:
        fleet.put(mac(version, udid=version))
    return fleet


VERSIONS = ("27.0", "26.3", "26.2", "26.1", "15.7.3", "15.7.2", "13.7.8")
# Macs on unsupported lines, older or newer, are affected by every supported line.
BEYOND = {"27.0", "13.7.8"}
CONCERNED = [
    pytest.param(
        release("26.3", day="2026-01-10"), None, {"26.3", "26.2", "26.1"} | BEYOND, id="new-release"
    ),
    pytest.param(release("26.1"), None, {"26.1"} | BEYOND, id="old-release"),
    pytest.param(release("15.7.2"), None, {"15.7.2"} | BEYOND, id="another-supported-line"),
    pytest.param(release("13.7.7"), None, {"13.7.8"}, id="unsupported-line"),
    pytest.param(release("12.7.6", build="21H1320"), None, set(), id="line-without-macs"),
    pytest.param(release("27.0", build="26A428"), None, set(VERSIONS), id="new-major"),
    pytest.param(
        release("26.1"), "26", {"26.1", "15.7.3", "15.7.2"} | BEYOND, id="line-of-the-upgrades"
    ),
    pytest.param(
        retracted("26.2", first_seen_at=NOW), None, set(VERSIONS), id="last-of-a-line-retracted"
    ),
    pytest.param(
        retracted("15.7.3", first_seen_at=NOW),
        None,
        {"15.7.3", "15.7.2"} | BEYOND,
        id="release-retracted",
    ),
    pytest.param(kev("CVE-2025-99999"), None, set(), id="cve-that-no-release-fixes"),
]


@pytest.mark.parametrize(("event", "to", "want"), CONCERNED)
def test_an_advisory_affects_the_macs_that_can_lack_it(
    event: Event, to: str | None, want: set[str]
) -> None:
    assert affected(lined_up(VERSIONS), event, to) == want


def test_a_release_affects_each_mac_whose_build_was_reported_without_a_version() -> None:
    fleet = fleet_of(release("26.2"), reported(UDID, NOW, build="22H730"))
    assert affected(fleet, release("13.7.8")) == {UDID}


@pytest.mark.parametrize("version", ["26.2", "15.7.3"])
def test_a_release_affects_each_mac_that_reports_its_build_with_another_version(
    version: str,
) -> None:
    fleet = fleet_of(
        *(release(one) for one in ("26.2", "26.0", "15.7.3")),
        reported(UDID, NOW, os_version=version, build="25B78"),
    )
    assert affected(fleet, release("26.0", cves=["CVE-2026-1001"], first_seen_at=NOW)) == set()
    assert affected(fleet, release("26.1")) == {UDID}
    assert affected(fleet, release("26.1", cves=["CVE-2026-1002"], first_seen_at=NOW)) == {UDID}
    assert affected(fleet, retracted("26.1", first_seen_at=NOW)) == {UDID}


def test_newly_exploited_cve_affects_the_macs_that_lack_its_fix() -> None:
    fleet = lined_up(VERSIONS)
    fleet.apply(release("26.2", cves=["CVE-2025-43529"], first_seen_at=NOW - DAY))
    assert affected(fleet, kev("CVE-2025-43529")) == {"26.2", "26.1"} | BEYOND


def test_halts_are_active_until_cleared_in_any_order() -> None:
    events: list[Event] = [
        halted(NOW - 2 * HOUR),
        halt_cleared(NOW - HOUR),
        halted(NOW, site="london"),
    ]
    for order in (events, events[::-1]):
        assert [one.scope.key for one in fleet_of(*order).halts()] == ["site:london"]
    both: list[Event] = [halted(NOW), halt_cleared(NOW)]
    for order in (both, both[::-1]):
        assert len(fleet_of(*order).halts()) == 1, "at equal times the halt wins"


def test_approvals_are_valid_until_denied_in_any_order() -> None:
    events: list[Event] = [
        granted("job-1", NOW - HOUR),
        denied("job-1", when=NOW),
        granted("job-2", NOW),
    ]
    for order in (events, events[::-1]):
        fleet = fleet_of(*order)
        assert [one.approval.job_id for one in fleet.approvals(UDID)] == ["job-2"]
        assert fleet.approvals(OTHER) == ()
    both: list[Event] = [granted("job-1", NOW), denied("job-1", when=NOW)]
    for order in (both, both[::-1]):
        assert fleet_of(*order).approvals(UDID) == (), "at equal times the denial wins"


def test_resets_of_one_scope_and_cause_count_up_to_the_latest_in_any_order() -> None:
    order = job(issued_at=NOW - 4 * HOUR)
    events: list[Event] = [
        attempts_reset(NOW - 2 * HOUR, site="london"),
        attempts_reset(NOW, site="london"),
        attempts_reset(NOW - HOUR, ErrorCode.BUG, site="london"),
    ]
    known = (
        reported(UDID, NOW - 5 * HOUR),
        issued(order),
        resulted(order, Outcome.FAILED, NOW - HOUR, ErrorCode.UNREACHABLE),
    )
    fleets = [fleet_of(*known, *each) for each in itertools.permutations(events)]
    assert len({json.dumps(fleet.broadcast_to_wire()) for fleet in fleets}) == 1
    (found,) = fleets[0].job_history_of(fleets[0].merged_device(UDID))
    assert found.reset
    assert not fleets[0].job_histories[UDID][0].reset
    loaded = Fleet()
    loaded.load_broadcast(fleets[0].broadcast_to_wire())
    assert loaded.broadcast_to_wire() == fleets[0].broadcast_to_wire()


def test_reset_of_one_mac_affects_it_alone() -> None:
    fleet = fleet_of(reported(UDID, NOW, serial=SERIAL), reported(OTHER, NOW))
    change = fleet.apply(attempts_reset(NOW, device=SERIAL))
    assert change == Change((UDID,), is_material=True)
    assert fleet.apply(attempts_reset(NOW, device=SERIAL)) is NO_CHANGE
    assert fleet.apply(attempts_reset(NOW, site="london")).affects_all


def test_broadcast_state_from_before_resets_can_be_read() -> None:
    wire = fleet_of(halted(NOW)).broadcast_to_wire()
    del wire["resets"]
    fleet = Fleet()
    fleet.load_broadcast(wire)
    assert len(fleet.halts()) == 1


def test_the_newest_policy_is_in_force() -> None:
    newer = policy_changed(POLICY_TEXT + "# newer\n", NOW - DAY)
    older = policy_changed(POLICY_TEXT, NOW - 2 * DAY)
    for order in ((newer, older), (older, newer)):
        found = fleet_of(*order).policy
        assert found is not None
        assert found.digest == newer.data.digest


def test_mac_that_enrolls_after_a_checkout_is_enrolled() -> None:
    fleet = fleet_of(*enrolled(when=NOW - 9 * DAY), checked_out(when=NOW - 8 * DAY))
    assert fleet.merged_device(UDID).checked_out
    for event in enrolled(when=NOW - 7 * DAY):
        fleet.apply(event)
    assert fleet.merged_device(UDID).enrolled
    assert not fleet.merged_device(UDID).checked_out
