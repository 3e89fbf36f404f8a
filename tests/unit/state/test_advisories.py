"""What Apple released, joined from its sources."""

import itertools

import pytest

from pipeline.state.advisories import Release
from schemas.envelope import AdvisoryEvent
from schemas.macos import parse_build, parse_os_version
from tests.factories import DAY, HOUR, NOW, at, catalogue, kev, raised, release, retracted

CVE, OTHER_CVE = "CVE-2025-43529", "CVE-2025-14174"


def only(*events: AdvisoryEvent, line: str = "26") -> Release:
    (found,) = catalogue(*events).lines[line]
    return found


def test_a_later_snapshot_of_a_source_replaces_the_earlier() -> None:
    first = release("26.2", cves=[CVE], severity="low", heard_at=NOW - DAY)
    later = release("26.2", cves=[OTHER_CVE], severity="high", heard_at=NOW)
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
    gone = retracted("26.2", source="admin", heard_at=NOW)
    assert "26" not in catalogue(release("26.2"), gone).lines


def test_exploitation_counts_from_when_it_was_first_heard_of() -> None:
    events = [
        release("26.2", cves=[CVE], heard_at=at("2025-12-12")),
        raised("26.2", cves=[CVE], exploited=[CVE], heard_at=at("2025-12-15")),
        raised("26.2", cves=[CVE], exploited=[CVE], heard_at=at("2025-12-20")),
        kev(CVE, due=at("2026-01-05"), heard_at=at("2025-12-18")),
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
        kev(CVE, OTHER_CVE, due=NOW + 9 * DAY, heard_at=NOW),
        kev(CVE, due=NOW + 5 * DAY, heard_at=NOW - HOUR),
    ]
    for order in itertools.permutations(events):
        found = only(*order)
        assert found.due[CVE] - found.due[OTHER_CVE] == -4 * 86_400_000_000


def test_the_same_word_again_changes_nothing() -> None:
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
