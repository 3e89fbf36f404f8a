"""Struck statements have no effect until the source states something else, or a person ends it."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.advisories import Advisories, Release
from pipeline.state.change import NO_CHANGE
from pipeline.state.fleet import Fleet
from schemas.envelope import Event
from schemas.events.control import Strike, StrikeScope
from tests import factories as make
from tests.factories import DAY, HOUR, NOW
from tests.strategies import events

STATED = make.release("26.2", first_seen_at=NOW - DAY, exploited=["CVE-2026-1000"])
REPEATED = STATED.model_copy(update={"id": "again", "time": NOW + HOUR})


def folded(*given: Event) -> Advisories:
    fleet = Fleet()
    for event in given:
        fleet.apply(event)
    return fleet.advisories


def releases(*given: Event, line: str = "26") -> tuple[Release, ...]:
    return folded(*given).lines.get(line, ())


def test_struck_statement_has_no_effect_although_its_source_repeats_it() -> None:
    assert releases(STATED)
    assert releases(STATED, make.struck(STATED)) == ()
    assert releases(STATED, make.struck(STATED), REPEATED) == ()


def test_statement_with_other_content_counts_and_is_known_since_the_strike() -> None:
    other = make.raised("26.2", first_seen_at=NOW + HOUR, severity="low")
    (found,) = releases(STATED, make.struck(STATED), other)
    assert found.severity == "low"
    # A deadline that began with the struck statement would be over at once.
    assert found.known_us == NOW.timestamp() * 1e6
    (before,) = releases(STATED, other)
    assert before.known_us == (NOW - DAY).timestamp() * 1e6


def test_restored_statement_counts_as_before() -> None:
    acts = (make.struck(STATED), make.restored(STATED, NOW + HOUR))
    assert releases(STATED, *acts) == releases(STATED)


def test_strike_affects_the_statement_of_its_own_source() -> None:
    apple = make.release("26.2", source="gdmf", first_seen_at=NOW - DAY)
    (found,) = releases(STATED, apple, make.struck(STATED))
    assert found.exploited == {}
    assert found.known_us == (NOW - DAY).timestamp() * 1e6


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "severity": ({"field": "severity"}, {"severity": None}),
    "exploitation": ({"field": "exploited_cves"}, {"exploited": {}}),
    "builds": ({"field": "builds"}, {"builds": ()}),
    "one exploited CVE": (
        {"field": "exploited_cves", "value": "CVE-2026-1000"},
        {"exploited": {}, "cves": frozenset({make.cve_of("26.2")})},
    ),
    "one CVE": (
        {"field": "cves", "value": make.cve_of("26.2")},
        {"cves": frozenset({"CVE-2026-1000"})},
    ),
}


@pytest.mark.parametrize(("part", "left"), PARTS.values(), ids=PARTS.keys())
def test_struck_part_has_no_effect_and_the_rest_has(
    part: dict[str, Any], left: dict[str, Any]
) -> None:
    (found,) = releases(STATED, make.struck(STATED, **part), REPEATED)
    assert {name: getattr(found, name) for name in left} == left
    assert found.released_us == releases(STATED)[0].released_us
    acts = make.struck(STATED, **part), make.restored(STATED, NOW + HOUR, **part)
    (whole,) = releases(STATED, *acts)
    assert whole == releases(STATED)[0]


def test_struck_value_of_a_list_stays_struck_in_another_list() -> None:
    cves = ["CVE-2026-1000", "CVE-2026-2000"]
    more = make.raised("26.2", first_seen_at=NOW + DAY, exploited=cves)
    part: dict[str, Any] = {"field": "exploited_cves", "value": "CVE-2026-1000"}
    (found,) = releases(STATED, make.struck(STATED, **part), more)
    assert [*found.exploited] == ["CVE-2026-2000"]


# The strike, then the day on which the release was known, and that of each exploited CVE that SOFA
# and an operator list after it. The strike is on day 0; all was known on day -10.
CORRECTED: dict[str, tuple[dict[str, Any], int, dict[str, int]]] = {
    "one CVE": (
        {"field": "exploited_cves", "value": "CVE-2026-2000"},
        -10,
        {"CVE-2026-1000": -10, "CVE-2026-2000": 0},
    ),
    "all exploited CVEs": (
        {"field": "exploited_cves"},
        -10,
        {"CVE-2026-1000": 0, "CVE-2026-2000": 0},
    ),
    "severity": ({"field": "severity"}, -10, {"CVE-2026-1000": -10, "CVE-2026-2000": -10}),
    "statement": ({}, 0, {"CVE-2026-1000": 0, "CVE-2026-2000": 0}),
}


@pytest.mark.parametrize(("part", "known", "exploited"), CORRECTED.values(), ids=CORRECTED.keys())
def test_strike_moves_the_times_of_what_was_struck_only(
    part: dict[str, Any], known: int, exploited: dict[str, int]
) -> None:
    both = ["CVE-2026-1000", "CVE-2026-2000"]
    stated = make.release("26.2", first_seen_at=NOW - 10 * DAY, exploited=both)
    corrected = make.raised("26.2", first_seen_at=NOW + DAY, exploited=both[:1])
    other = make.release("26.2", source="admin", first_seen_at=NOW + 2 * DAY, exploited=both[1:])
    (found,) = releases(stated, make.struck(stated, **part), corrected, other)
    assert found.known_us == (NOW + known * DAY).timestamp() * 1e6
    days = {cve: (us - NOW.timestamp() * 1e6) / 86400e6 for cve, us in found.exploited.items()}
    assert days == exploited


def test_older_statement_without_the_struck_cve_does_not_date_it_back() -> None:
    apple = make.release("26.2", source="gdmf", first_seen_at=NOW - 10 * DAY)
    cves = ["CVE-2026-1000"]
    again = make.raised("26.2", first_seen_at=NOW + DAY, exploited=cves, severity="low")
    (found,) = releases(apple, STATED, make.struck(STATED), again)
    assert found.exploited == {"CVE-2026-1000": NOW.timestamp() * 1e6}
    assert found.known_us == (NOW - 10 * DAY).timestamp() * 1e6


def test_struck_entry_of_the_catalogue_of_exploited_cves_has_no_effect() -> None:
    entry = make.kev("CVE-2026-1000", first_seen_at=NOW - DAY)
    plain = make.release("26.2", first_seen_at=NOW - DAY, cves=["CVE-2026-1000"])
    assert releases(plain, entry)[0].exploited
    assert not releases(plain, entry, make.struck(entry))[0].exploited


def test_acts_count_in_any_order() -> None:
    acts = [STATED, REPEATED, make.struck(STATED), make.restored(STATED, NOW - HOUR)]
    found = {json.dumps(folded(*order).to_wire()) for order in itertools.permutations(acts)}
    assert len(found) == 1


def test_repeated_act_changes_nothing() -> None:
    fleet = Fleet()
    for version in ("26.1", "26.2"):
        fleet.apply(make.release(version))
    strike = make.struck(make.release("26.2"))
    assert fleet.apply(strike).lines == {"26": None}
    assert fleet.apply(strike) is NO_CHANGE


def test_catalogue_with_strikes_is_stored_and_read() -> None:
    for acts in ((make.struck(STATED),), (make.restored(STATED),)):
        catalogue = folded(STATED, *acts)
        again = Advisories.from_wire(json.loads(json.dumps(catalogue.to_wire())))
        assert (again.digest, again.lines) == (catalogue.digest, catalogue.lines)
    assert folded(STATED, make.struck(STATED)).digest != folded(STATED).digest


@given(st.lists(events(), max_size=12))
def test_catalogue_of_any_events_is_stored_and_read(given_events: Iterable[Event]) -> None:
    catalogue = folded(*given_events)
    again = Advisories.from_wire(json.loads(json.dumps(catalogue.to_wire())))
    assert (again.digest, again.lines) == (catalogue.digest, catalogue.lines)


INVALID: dict[str, dict[str, Any]] = {
    "value without a field": {"value": "CVE-2026-1000"},
    "value of no list": {"field": "severity", "value": "high"},
    "neither content nor value": {"field": "severity"},
    "content and value": {"field": "cves", "value": "CVE-2026-1000", "sha256": "0" * 64},
    "unknown field": {"field": "os_version", "sha256": "0" * 64},
}


@pytest.mark.parametrize("fields", INVALID.values(), ids=INVALID.keys())
def test_strike_of_no_part_is_invalid(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"value|field|list|Input"):
        Strike.model_validate({"advisory_id": "macOS-26.2", "source": "sofa"} | fields)


def test_key_of_a_scope_names_its_parts() -> None:
    scope = StrikeScope(advisory_id="macOS-26.2", source="sofa", field="cves", value="CVE-2026-1")
    assert scope.key == "macOS-26.2 sofa cves CVE-2026-1"
