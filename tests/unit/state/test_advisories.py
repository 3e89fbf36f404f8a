"""The catalogue: releases joined from their sources, and the releases that a Mac lacks."""

import itertools

import pytest

from pipeline.state.advisories import Advisories, Release
from pipeline.state.device import to_us
from schemas.envelope import AdvisoryEvent
from schemas.macos import parse_build, parse_os_version
from tests.factories import DAY, HOUR, NOW, at, catalogue, kev, raised, release, retracted

CVE, OTHER_CVE = "CVE-2025-43529", "CVE-2025-14174"


def only(*events: AdvisoryEvent, line: str = "26") -> Release:
    (found,) = catalogue(*events).lines[line]
    return found


def test_later_snapshot_of_a_source_replaces_its_earlier_one() -> None:
    first = release("26.2", cves=[CVE], severity="low", first_seen_at=NOW - DAY)
    later = release("26.2", cves=[OTHER_CVE], severity="high", first_seen_at=NOW)
    for events in ((first, later), (later, first)):
        found = only(*events)
        assert set(found.cves) == {OTHER_CVE}
        assert found.severity == "high"
        assert found.known_us == catalogue(first).lines["26"][0].known_us


def test_snapshots_of_several_sources_are_joined() -> None:
    found = only(
        release("26.2", cves=[CVE], severity="low", device_ids=["J604AP", "J700AP"]),
        release(
            "26.2", cves=[], severity=None, build="25C2056", source="gdmf", device_ids=["j604ap"]
        ),
        release("26.2", cves=[OTHER_CVE], severity="critical", source="admin"),
    )
    assert set(found.cves) == {CVE, OTHER_CVE}
    assert found.severity == "critical"
    assert [str(build) for build in found.builds] == ["25C56", "25C2056"]
    assert found.build is None, "the hardware decides between several builds"
    assert set(found.device_ids or ()) == {"j604ap"}


def test_retraction_takes_back_the_statement_of_its_own_source() -> None:
    stated, gone = release("26.2"), retracted("26.2", first_seen_at=NOW)
    other = retracted("26.2", source="other", first_seen_at=NOW)
    assert "26" not in catalogue(stated, gone).lines
    assert "26" in catalogue(stated, other).lines
    assert "26" in catalogue(stated, gone, release("26.2", source="gdmf")).lines
    assert "26" in catalogue(stated, gone, release("26.2", first_seen_at=NOW + HOUR)).lines


def test_exploitation_is_dated_by_its_first_report_in_any_order() -> None:
    events = [
        release("26.2", cves=[CVE], first_seen_at=at("2025-12-12")),
        raised("26.2", cves=[CVE], exploited=[CVE], first_seen_at=at("2025-12-15")),
        raised("26.2", cves=[CVE], exploited=[CVE], first_seen_at=at("2025-12-20")),
        kev(CVE, due=at("2026-01-05"), first_seen_at=at("2025-12-18")),
    ]
    digests = set()
    for order in itertools.permutations(events):
        known = catalogue(*order)
        digests.add(known.digest)
        (found,) = known.lines["26"]
        assert found.exploited == {CVE: 1_765_756_800_000_000}
        assert found.due == {CVE: 1_767_571_200_000_000}
    assert len(digests) == 1


def test_overlapping_cve_lists_give_equal_due_dates_in_any_order() -> None:
    events = [
        release("26.2", cves=[CVE, OTHER_CVE]),
        kev(CVE, OTHER_CVE, due=NOW + 9 * DAY, first_seen_at=NOW),
        kev(CVE, due=NOW + 5 * DAY, first_seen_at=NOW - HOUR),
    ]
    for order in itertools.permutations(events):
        found = only(*order)
        assert found.due[CVE] - found.due[OTHER_CVE] == -4 * 86_400_000_000


def test_the_same_snapshot_again_changes_nothing() -> None:
    known = catalogue(release("26.2"), kev(CVE))
    assert known.apply(release("26.2")) is known
    assert known.apply(kev(CVE)) is known


REACHED = [
    pytest.param("26.2", "25C56", True, id="the-build"),
    pytest.param("26.2", "25C2056", True, id="another-branch"),
    pytest.param("26.2", "25C50", False, id="an-earlier-build"),
    pytest.param("26.2", None, True, id="build-unknown"),
    pytest.param("26.1", "25C56", False, id="an-earlier-version"),
    pytest.param("26.10", None, True, id="ten-follows-nine"),
]


@pytest.mark.parametrize(("version", "build", "reached"), REACHED)
def test_release_is_reached_by_version_then_build(
    version: str, build: str | None, reached: bool
) -> None:
    parsed = None if build is None else parse_build(build)
    assert only(release("26.2")).reached_by(parse_os_version(version), parsed) is reached


def test_missing_releases_are_computed_once_for_equal_macs() -> None:
    known = catalogue(release("26.2"), release("26.1"))
    asked = ("26", parse_os_version("26.0"), None, "J604AP")
    assert known.missing(*asked) is known.missing(*asked)
    assert [str(one.version) for one in known.missing(*asked).releases] == ["26.2", "26.1"]


# --- the Macs that a release is offered to ---

IDS = tuple(f"J{number}AP" for number in range(100, 140))
SHARES = [
    pytest.param(40, 19, True, id="less-than-half-of-the-longest-list"),
    pytest.param(40, 20, False, id="half-of-the-longest-list"),
    pytest.param(12, 9, True, id="fewer-than-ten"),
    pytest.param(12, 10, False, id="ten-although-the-longest-list-is-short"),
]


@pytest.mark.parametrize(("widest", "share", "specific"), SHARES)
def test_release_with_a_short_list_of_device_ids_is_specific(
    widest: int, share: int, specific: bool
) -> None:
    known = catalogue(
        release("26.2", device_ids=IDS[:widest]), release("26.3", device_ids=IDS[:share])
    )
    newest = known.lines["26"][0]
    assert newest.specific is specific
    assert newest.offered_to(None) is not specific
    assert newest.offered_to("j100ap")
    assert not newest.offered_to("J999AP")


def test_release_without_device_ids_is_offered_to_every_mac() -> None:
    found = only(release("26.2"))
    assert found.offered_to(None)
    assert found.offered_to("J999AP")
    assert not found.specific


# --- the times of releases, exploitation and due dates ---


def test_release_has_the_earliest_date_of_its_sources() -> None:
    found = only(
        release("26.2", day="2025-12-12", first_seen_at=NOW),
        release("26.2", day="2025-12-10", source="gdmf", first_seen_at=NOW - HOUR),
    )
    assert found.released_us == to_us(at("2025-12-10"))
    assert found.known_us == to_us(NOW - HOUR)
    undated = only(release("26.2", released_at=None, first_seen_at=NOW - DAY))
    assert undated.released_us == undated.known_us == to_us(NOW - DAY)


def test_older_snapshot_moves_the_first_known_time_back() -> None:
    later = release("26.2", cves=[CVE], first_seen_at=NOW)
    known = catalogue(later).apply(release("26.2", cves=[OTHER_CVE], first_seen_at=NOW - DAY))
    (found,) = known.lines["26"]
    assert (set(found.cves), found.known_us) == ({CVE}, to_us(NOW - DAY))


def test_due_date_that_had_passed_at_first_listing_is_ignored() -> None:
    moment = DAY / 86_400
    for due, kept in ((NOW, False), (NOW - DAY, False), (NOW + moment, True)):
        found = only(release("26.2", cves=[CVE]), kev(CVE, due=due, first_seen_at=NOW))
        assert (CVE in found.due) is kept
        assert found.exploited == {CVE: to_us(NOW)}


def test_kev_catalogue_adds_no_fixed_cves_and_no_lines() -> None:
    known = catalogue(release("26.2", cves=[CVE]), kev(OTHER_CVE))
    assert known.cves == {CVE}
    assert list(known.lines) == ["26"]


# --- lines and missing releases ---


def test_without_a_release_no_line_is_supported() -> None:
    for known in (catalogue(), catalogue(kev(CVE)), catalogue(release("26.2 (a)", build=""))):
        assert (known.newest_major, known.supported_lines) == (None, ())


def test_mac_on_an_unsupported_line_lacks_later_releases_of_the_supported_line() -> None:
    known = catalogue(
        release("13.7.7", day="2025-07-01"),
        release("13.7.8", day="2025-08-20"),
        release("14.8.1", day="2025-08-20"),
        release("14.8.2", day="2025-11-03"),
        release("14.8.3", day="2025-12-12"),
    )
    asked = (parse_os_version("13.7.7"), None, None, "14")
    missing = known.missing_on_unsupported_line(*asked)
    assert [str(one.version) for one in missing.releases] == ["14.8.3", "14.8.2", "13.7.8"]
    assert known.missing_on_unsupported_line(*asked) is missing
    unlisted = known.missing_on_unsupported_line(parse_os_version("12.7.6"), None, None, "14")
    assert [str(one.version) for one in unlisted.releases] == ["14.8.3", "14.8.2", "14.8.1"]


def test_missing_releases_list_each_cve_once_sorted() -> None:
    known = catalogue(
        release("26.1", cves=[CVE]),
        release("26.2", cves=[CVE, OTHER_CVE], exploited=[CVE]),
        kev(OTHER_CVE, CVE),
    )
    missing = known.missing("26", parse_os_version("26.0"), None, None)
    assert missing.cves == missing.exploited == (OTHER_CVE, CVE)
    assert missing.advisory_ids == ("macOS-26.2", "macOS-26.1")


def test_catalogue_round_trips_as_json() -> None:
    known = catalogue(
        release("26.2", cves=[CVE], exploited=[CVE]),
        kev(CVE, due=NOW + DAY, first_seen_at=NOW),
        retracted("26.1", first_seen_at=NOW),
    )
    again = Advisories.from_wire(known.to_wire())
    assert (again, again.digest, again.lines) == (known, known.digest, known.lines)
    assert known.digest != catalogue(release("26.2", cves=[CVE])).digest
