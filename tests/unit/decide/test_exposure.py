"""Exposure of a Mac: missing releases, severity and deadline."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.exposure import exposure
from pipeline.state.advisories import Advisories
from pipeline.state.device import to_us
from schemas.decisions import Reason, Severity, Verdict
from schemas.findings import FindingCode
from tests.factories import DAY, at, catalogue, kev, mac, policy, release, situation

ONE, TWO = "CVE-2025-43529", "CVE-2025-14174"


def deadline(advisories: Advisories, **deadlines: Any) -> int | None:
    s = situation(advisories=advisories, rules=policy(deadlines=deadlines))
    return exposure(s).deadline_us(s.policy.deadlines)


def test_a_changed_policy_changes_the_deadline_of_a_known_catalogue() -> None:
    known = catalogue(release("26.2", day="2026-01-15"))
    s, changed = (
        situation(advisories=known, rules=policy(deadlines={"high": high})) for high in ("5d", "9d")
    )
    exposed = exposure(s)
    assert exposure(changed).cve_releases is exposed.cve_releases
    for _ in range(2):
        assert exposed.deadline_us(s.policy.deadlines) == to_us(at("2026-01-20"))
        assert exposed.deadline_us(changed.policy.deadlines) == to_us(at("2026-01-24"))


def test_mac_that_lacks_no_release_has_no_deadline() -> None:
    assert deadline(catalogue(release("26.1"))) is None


def test_the_first_of_the_missing_releases_sets_the_deadline() -> None:
    known = catalogue(release("26.1.1", day="2026-01-05"), release("26.2", day="2026-01-12"))
    assert deadline(known, high="10d") == to_us(at("2026-01-15"))


def test_first_exploited_cve_sets_the_deadline() -> None:
    known = catalogue(
        release("26.2", day="2026-01-01", cves=[ONE, TWO], severity="low"),
        kev(ONE, first_seen_at=at("2026-01-05")),
        kev(TWO, first_seen_at=at("2026-01-09")),
    )
    assert deadline(known, kev_due_dates=False) == to_us(at("2026-01-05") + 3 * DAY)


def test_cisa_date_is_ignored_if_past_when_the_release_was_first_known() -> None:
    known = catalogue(
        release("26.2", day="2026-01-10", cves=[ONE, TWO]),
        kev(ONE, due=at("2026-01-10"), first_seen_at=at("2026-01-09")),
        kev(TWO, due=at("2026-01-12"), first_seen_at=at("2026-01-09")),
    )
    assert deadline(known) == to_us(at("2026-01-12"))


SEVERITIES = [
    pytest.param([("26.1.1", "critical"), ("26.2", "low")], Severity.CRITICAL, id="worst-of-two"),
    pytest.param([("26.1.1", "medium"), ("26.2", None)], Severity.HIGH, id="unrated-holes"),
    pytest.param([], Severity.ROUTINE, id="none"),
]


@pytest.mark.parametrize(("releases", "severity"), SEVERITIES)
def test_severity_is_that_of_the_worst_missing_release(
    releases: list[tuple[str, str | None]], severity: Severity
) -> None:
    known = catalogue(
        release("26.1"), *(release(version, severity=rated) for version, rated in releases)
    )
    assert exposure(situation(advisories=known)).severity is severity


def test_a_mac_of_unknown_version_is_exposed_to_nothing() -> None:
    exposed = exposure(situation(mac(None)))
    assert (exposed.cves, exposed.line.releases) == ((), ())


def test_mac_on_an_unsupported_line_has_the_cves_of_the_oldest_supported_line() -> None:
    known = catalogue(*(release(v) for v in ("26.2", "15.7.3", "14.8.3", "13.7.8")))
    exposed = exposure(situation(mac("13.7.8"), advisories=known))
    assert exposed.line.releases == ()
    assert [str(one.version) for one in exposed.cve_releases.releases] == ["14.8.3"]


def test_deadline_is_computed_once_for_a_kind_of_mac_and_a_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = catalogue(release("26.2", day="2026-01-15"))
    s = situation(advisories=known, rules=policy(deadlines={"high": "5d"}))
    first = exposure(s).deadline_us(s.policy.deadlines)
    monkeypatch.setattr("pipeline.decide.exposure.due_us", None)
    assert exposure(s).deadline_us(s.policy.deadlines) == first


@pytest.mark.parametrize(
    ("zone", "hours"), [("Europe/London", 0), ("Asia/Tokyo", -9), ("America/New_York", 5)]
)
def test_due_date_of_cisa_ends_with_the_day_of_the_site(zone: str, hours: int) -> None:
    end = at("2026-01-25") - timedelta(seconds=1)
    known = catalogue(release("26.2", cves=[ONE], day="2026-01-15"), kev(ONE, due=end))
    rules = policy(
        sites={"london": {"time_zone": zone}}, deadlines={"exploited": "90d", "high": "90d"}
    )
    s = situation(advisories=known, rules=rules)
    assert decide(s).deadline_at == end + timedelta(hours=hours)


def test_due_date_that_passed_at_the_site_before_its_receipt_is_ignored() -> None:
    end = at("2026-01-25") - timedelta(seconds=1)
    listed = kev(ONE, due=end, first_seen_at=end - timedelta(hours=2))
    known = catalogue(release("26.2", cves=[ONE], day="2026-01-15"), listed)
    rules = policy(
        sites={"london": {"time_zone": "Asia/Tokyo"}},
        deadlines={"exploited": "9d", "high": "90d"},
    )
    found = decide(situation(advisories=known, rules=rules))
    assert found.deadline_at == end - timedelta(hours=2) + 9 * DAY


@pytest.mark.parametrize(
    ("version", "reason"),
    [("26.1", Reason.UNCERTAIN), ("26.2", Reason.COMPLIANT), ("15.7.3", Reason.COMPLIANT)],
)
def test_release_for_hardware_that_is_not_listed_is_sent_to_nobody_and_met_by_nobody(
    version: str, reason: Reason
) -> None:
    known = catalogue(release("26.1"), release("15.7.3"), release("26.2", device_ids=[]))
    decision = decide(situation(mac(version), advisories=known))
    assert (decision.decision, decision.reason) == (Verdict.NOTHING, reason)
    listed = reason is Reason.COMPLIANT
    assert (FindingCode.DEVICE_NOT_LISTED in decision.findings) is not listed


FOR_NEO = release("26.2", device_ids=["J700AP"])
UNKNOWN: dict[str, Any] = {"model": "Mac99,1", "device_id": "J999AP"}


@pytest.mark.parametrize(
    ("known", "fields", "reason"),
    [
        pytest.param([FOR_NEO], {}, Reason.COMPLIANT, id="known-model"),
        pytest.param([FOR_NEO], UNKNOWN, Reason.UNCERTAIN, id="unknown-model"),
        pytest.param(
            [FOR_NEO], {"model": None, "device_id": None}, Reason.UNCERTAIN, id="no-model"
        ),
        pytest.param(
            [FOR_NEO, release("26.0", device_ids=["J999AP"])],
            UNKNOWN,
            Reason.COMPLIANT,
            id="unknown-model-that-apple-lists-elsewhere",
        ),
        pytest.param([], UNKNOWN, Reason.COMPLIANT, id="no-release-for-some-hardware"),
    ],
)
def test_release_for_some_hardware_leaves_unknown_hardware_uncertain(
    known: list[Any], fields: dict[str, Any], reason: Reason
) -> None:
    device = mac("26.1", **fields)
    found = decide(situation(device, advisories=catalogue(release("26.1"), *known)))
    assert found.reason is reason


def test_build_of_a_seed_is_never_a_target() -> None:
    known = catalogue(release("26.2", build="25C5428"), release("26.1"))
    target = decide(situation(mac("26.1"), advisories=known)).target
    assert target is not None
    assert (str(target.version), target.build) == ("26.2", None)
