"""What Apple released, joined from its sources."""

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


def test_a_later_snapshot_of_a_source_replaces_the_earlier() -> None:
    first = release("26.2", cves=[CVE], severity="low", first_seen_at=NOW - DAY)
    later = release("26.2", cves=[OTHER_CVE], severity="high", first_seen_at=NOW)
    for events in ((first, later), (later, first)):
        found = only(*events)
        assert set(found.cves) == {OTHER_CVE}
        assert found.severity == "high"
        assert found.known_us == catalogue(first).lines["26"][0].known_us


def test_sources_are_joined() -> None:
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
    assert found.build is None, "hardware decides between several"
    assert set(found.device_ids or ()) == {"j604ap"}


def test_one_source_that_retracts_is_enough_to_hold_it_back() -> None:
    gone = retracted("26.2", source="admin", first_seen_at=NOW)
    assert "26" not in catalogue(release("26.2"), gone).lines


def test_exploitation_counts_from_the_first_report_of_it() -> None:
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


def test_overlapping_cve_lists_end_the_same_in_any_order() -> None:
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
def test_whether_a_release_is_reached(version: str, build: str | None, reached: bool) -> None:
    parsed = None if build is None else parse_build(build)
    assert only(release("26.2")).reached_by(parse_os_version(version), parsed) is reached


def test_what_is_missing_is_worked_out_once_for_each_kind_of_mac() -> None:
    known = catalogue(release("26.2"), release("26.1"))
    asked = ("26", parse_os_version("26.0"), None, "J604AP")
    assert known.missing(*asked) is known.missing(*asked)
    assert [str(one.version) for one in known.missing(*asked).releases] == ["26.2", "26.1"]


# --- which Macs a release is for ---

IDS = tuple(f"J{number}AP" for number in range(100, 140))
SHARES = [
    pytest.param(40, 19, True, id="less-than-half-of-the-widest"),
    pytest.param(40, 20, False, id="half-of-the-widest"),
    pytest.param(12, 9, True, id="few-although-the-widest-is-small"),
    pytest.param(12, 10, False, id="ten-are-never-few"),
]


@pytest.mark.parametrize(("widest", "share", "specific"), SHARES)
def test_a_release_is_for_some_hardware_only_by_its_share_of_the_widest_list(
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


def test_a_release_without_a_list_is_for_every_mac() -> None:
    found = only(release("26.2"))
    assert found.offered_to(None)
    assert found.offered_to("J999AP")
    assert not found.specific


# --- when things were known ---


def test_a_release_counts_from_the_first_day_that_a_source_names() -> None:
    found = only(
        release("26.2", day="2025-12-12", first_seen_at=NOW),
        release("26.2", day="2025-12-10", source="gdmf", first_seen_at=NOW - HOUR),
    )
    assert found.released_us == to_us(at("2025-12-10"))
    assert found.known_us == to_us(NOW - HOUR)
    undated = only(release("26.2", released_at=None, first_seen_at=NOW - DAY))
    assert undated.released_us == undated.known_us == to_us(NOW - DAY)


def test_an_older_snapshot_shows_when_a_release_was_first_known() -> None:
    later = release("26.2", cves=[CVE], first_seen_at=NOW)
    known = catalogue(later).apply(release("26.2", cves=[OTHER_CVE], first_seen_at=NOW - DAY))
    (found,) = known.lines["26"]
    assert (set(found.cves), found.known_us) == ({CVE}, to_us(NOW - DAY))


def test_a_date_of_cisa_that_had_passed_when_it_was_read_binds_no_mac() -> None:
    moment = DAY / 86_400
    for due, kept in ((NOW, False), (NOW - DAY, False), (NOW + moment, True)):
        found = only(release("26.2", cves=[CVE]), kev(CVE, due=due, first_seen_at=NOW))
        assert (CVE in found.due) is kept
        assert found.exploited == {CVE: to_us(NOW)}


def test_a_list_of_exploited_holes_fixes_none() -> None:
    known = catalogue(release("26.2", cves=[CVE]), kev(OTHER_CVE))
    assert known.cves == {CVE}
    assert list(known.lines) == ["26"]


# --- lines, and what is missing ---


def test_without_a_release_no_line_is_supported() -> None:
    for known in (catalogue(), catalogue(kev(CVE)), catalogue(release("26.2 (a)", build=""))):
        assert (known.newest_major, known.supported_lines) == (None, ())


def test_macs_on_a_dead_line_lack_what_was_fixed_since_its_last_release() -> None:
    known = catalogue(
        release("13.7.7", day="2025-07-01"),
        release("13.7.8", day="2025-08-20"),
        release("14.8.1", day="2025-08-20"),
        release("14.8.2", day="2025-11-03"),
        release("14.8.3", day="2025-12-12"),
    )
    asked = (parse_os_version("13.7.7"), None, None, "14")
    missing = known.missing_on_dead_line(*asked)
    assert [str(one.version) for one in missing.releases] == ["14.8.3", "14.8.2", "13.7.8"]
    assert known.missing_on_dead_line(*asked) is missing
    unlisted = known.missing_on_dead_line(parse_os_version("12.7.6"), None, None, "14")
    assert [str(one.version) for one in unlisted.releases] == ["14.8.3", "14.8.2", "14.8.1"]


def test_what_is_missing_names_each_hole_once_in_order() -> None:
    known = catalogue(
        release("26.1", cves=[CVE]),
        release("26.2", cves=[CVE, OTHER_CVE], exploited=[CVE]),
        kev(OTHER_CVE, CVE),
    )
    missing = known.missing("26", parse_os_version("26.0"), None, None)
    assert missing.cves == missing.exploited == (OTHER_CVE, CVE)
    assert missing.advisory_ids == ("macOS-26.2", "macOS-26.1")


def test_a_catalogue_is_read_as_it_was_written() -> None:
    known = catalogue(
        release("26.2", cves=[CVE], exploited=[CVE]),
        kev(CVE, due=NOW + DAY, first_seen_at=NOW),
        retracted("26.1", first_seen_at=NOW),
    )
    again = Advisories.from_wire(known.to_wire())
    assert (again, again.digest, again.lines) == (known, known.digest, known.lines)
    assert known.digest != catalogue(release("26.2", cves=[CVE])).digest
