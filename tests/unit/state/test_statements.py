"""Statements of sources: what has no effect, whose values count, when a deadline begins."""

import itertools
from typing import Any

import pytest

from pipeline.state.advisories import Advisories
from pipeline.state.device import to_us
from pipeline.state.feed_comparison import compare_feeds
from schemas.envelope import AdvisoryEvent
from schemas.findings import FeedFindingCode
from tests.factories import DAY, HOUR, NOW, at, catalogue, kev, raised, release, retracted

KNOWN = ("26.2", "26.1", "26.0", "15.7.3", "15.7.2", "14.8.3")
CVE = "CVE-2025-43529"


def codes(known: Advisories) -> list[str]:
    return [one.code.value for one in compare_feeds(known, NOW)]


def from_document(event: AdvisoryEvent) -> AdvisoryEvent:
    return event.model_copy(update={"source": f"urn:drydock:feed:{event.data.source}"})


def received(event: AdvisoryEvent, when: Any) -> AdvisoryEvent:
    return event.model_copy(update={"receivedat": when})


IMPOSSIBLE = [
    pytest.param({"version": "99.9"}, id="far-ahead"),
    pytest.param({"version": "28.0"}, id="two-ahead"),
    pytest.param({"version": "20.1"}, id="between-15-and-26"),
    pytest.param({"version": "26.9", "day": "2026-03-01", "first_seen_at": NOW}, id="future"),
]


@pytest.mark.parametrize("source", ["sofa", "gdmf", "admin", "other"])
@pytest.mark.parametrize("values", IMPOSSIBLE)
def test_impossible_release_is_a_finding_without_effect(
    values: dict[str, Any], source: str
) -> None:
    known = catalogue(release("26.2"), release("15.7.3"))
    found = known.apply(release(**values, source=source))
    assert found.lines == known.lines
    assert (found.newest_major, found.supported_lines) == (26, ("26", "15", "14"))
    assert FeedFindingCode.RELEASE_IMPLAUSIBLE.value in codes(found)


def test_new_major_version_is_opened_by_feeds_one_step_at_a_time() -> None:
    assert catalogue(release("26.2"), release("27.0")).newest_major == 27
    assert catalogue(release("26.2"), release("27.0"), release("28.0")).newest_major == 28
    assert catalogue(release("26.2"), release("27.0", source="admin")).newest_major == 27


def test_new_major_version_of_another_source_counts_without_feeds_alone() -> None:
    alone = catalogue(release("27.0", source="other"))
    assert alone.newest_major == 27
    beside = catalogue(release("26.2"), release("27.0", source="other"))
    assert beside.newest_major == 26
    assert "release_implausible" in codes(beside)


def test_other_source_adds_cves_and_severity_to_a_release_of_a_feed_and_nothing_else() -> None:
    stated = release("26.2", severity="low", device_ids=["J604AP"])
    forged = release(
        "26.2",
        source="other",
        cves=[CVE],
        exploited=[CVE],
        severity="critical",
        build="25B78",
        day="2020-01-01",
        device_ids=[],
        expires_at=at("2025-01-01"),
        first_seen_at=NOW,
    )
    (found,) = catalogue(stated, forged).lines["26"]
    (before,) = catalogue(stated).lines["26"]
    assert found.cves == {*before.cves, CVE}
    assert found.severity == "critical"
    assert (found.builds, found.released_us, found.expires_us, found.device_ids) == (
        *(before.builds, before.released_us, before.expires_us, before.device_ids),
    )


def test_narrowing_affects_the_list_of_its_own_source() -> None:
    offers = release("26.2", source="gdmf", device_ids=["J604AP", "J700AP"])
    narrowed = release("26.2", device_ids=["J1AP"])
    (found,) = catalogue(narrowed, offers).lines["26"]
    assert set(found.device_ids or ()) == {"j604ap", "j700ap"}
    (found,) = catalogue(narrowed, release("26.2", source="other", device_ids=[])).lines["26"]
    assert set(found.device_ids or ()) == {"j1ap"}


@pytest.mark.parametrize("count", [3, 4])
def test_many_retractions_by_events_have_no_effect(count: int) -> None:
    losses = [retracted(one, first_seen_at=NOW + HOUR) for one in KNOWN[:count]]
    known = catalogue(*map(release, KNOWN))
    for order in itertools.islice(itertools.permutations(losses), 6):
        found = known
        for one in order:
            found = found.apply(one)
        left = sum(len(one) for one in found.lines.values())
        assert left == len(KNOWN) - (count if count == 3 else 0)
        assert codes(found).count("retraction_held") == (0 if count == 3 else count)


def test_retractions_of_a_document_and_of_other_weeks_count() -> None:
    known = catalogue(*map(release, KNOWN))
    accepted = [from_document(retracted(one, first_seen_at=NOW)) for one in KNOWN]
    assert catalogue(*map(release, KNOWN), *accepted).lines == {}
    for number, one in enumerate(KNOWN):
        known = known.apply(retracted(one, first_seen_at=NOW + 8 * number * DAY))
    assert known.lines == {}


def test_statement_after_held_retractions_is_in_force_and_stays() -> None:
    known = catalogue(*map(release, KNOWN))
    for one in KNOWN:
        known = known.apply(retracted(one, first_seen_at=NOW))
    again = known.apply(release("26.2", severity="critical", first_seen_at=NOW + HOUR))
    assert again.lines["26"][0].severity == "critical"
    assert Advisories.from_wire(again.to_wire()) == again


def test_statement_that_is_dated_back_is_known_from_its_receipt() -> None:
    old = at("2020-01-01")
    forged = raised("26.2", cves=[CVE], exploited=[CVE], day="2020-01-01", first_seen_at=old)
    (found,) = catalogue(received(forged, NOW)).lines["26"]
    assert found.known_us == to_us(NOW)
    assert found.exploited == {CVE: to_us(NOW)}


def test_due_date_of_another_source_than_kev_does_not_count() -> None:
    stated = release("26.2", cves=[CVE])
    forged = kev(CVE, due=NOW + DAY, first_seen_at=NOW)
    forged = forged.model_copy(update={"data": forged.data.model_copy(update={"source": "other"})})
    (found,) = catalogue(stated, forged).lines["26"]
    assert found.due == {}
    assert found.exploited == {CVE: to_us(NOW)}
