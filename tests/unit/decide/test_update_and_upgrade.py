"""The need to update or upgrade, and its release."""

from typing import Any

import pytest

from pipeline.decide.decision import decide
from schemas.decisions import Reason, Verdict
from schemas.findings import FindingCode
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    apple,
    at,
    catalogue,
    cve_of,
    mac,
    narrowed,
    policy,
    raised,
    release,
    retracted,
    situation,
)
from tests.unit.decide.outcomes import summary

NEO: dict[str, Any] = {"model": "Mac17,5", "device_id": "J700AP"}


INTEL_2017: dict[str, Any] = {"model": "iMac18,3", "device_id": "Mac-BE088AF8C5EB4FA2"}


FIFTY_SEVEN = ("J700AP", "J604AP", *(f"J{number}AP" for number in range(100, 155)))


UPDATES = [
    pytest.param("26.1", {}, ("send", "security_update", "26.2"), id="one-behind"),
    pytest.param("26.0", {}, ("send", "security_update", "26.2"), id="straight-to-the-newest"),
    pytest.param("26.2", {}, ("nothing", "compliant", None), id="at-the-newest"),
    pytest.param("26.3", {}, ("nothing", "uncertain", None), id="ahead-within-the-line"),
    pytest.param("27.0", {}, ("nothing", "no_advisory", None), id="ahead-of-the-newest-line"),
    pytest.param("15.7.2", {}, ("send", "security_update", "15.7.3"), id="older-supported-line"),
    pytest.param("14.8.3", {}, ("nothing", "compliant", None), id="oldest-supported-line"),
    pytest.param(None, {}, ("nothing", "os_unknown", None), id="version-unknown"),
    pytest.param(
        "26.2", {"build": "25C5048a"}, ("send", "security_update", "26.2"), id="beta-of-the-newest"
    ),
    pytest.param("26.3", {"build": "25D5087f"}, ("nothing", "uncertain", None), id="beta-of-next"),
    pytest.param("26.2", {"build": "25C2056"}, ("nothing", "compliant", None), id="other-branch"),
    pytest.param("26.2", {"build": "25C50"}, ("send", "security_update", "26.2"), id="early-build"),
    pytest.param("26.2", {"build": None}, ("nothing", "compliant", None), id="build-unknown"),
]


@pytest.mark.parametrize(("version", "facts", "want"), UPDATES)
def test_update_target_is_the_newest_release_of_the_line(
    version: str, facts: dict[str, Any], want: tuple[str, ...]
) -> None:
    assert summary(decide(situation(mac(version, **facts)))) == want


def test_release_without_cves_is_a_routine_update() -> None:
    s = situation(
        advisories=apple(release("26.1.1", cves=[], day="2025-12-01")), device=mac("26.2")
    )
    assert decide(s).reason is Reason.COMPLIANT
    bare = catalogue(release("26.1", cves=[]), release("26.2", cves=[], severity=None))
    assert decide(situation(advisories=bare)).reason is Reason.ROUTINE_UPDATE


def test_reason_is_no_advisory_without_any_advisory() -> None:
    assert decide(situation(advisories=catalogue())).reason is Reason.NO_ADVISORY


UPGRADES = [
    pytest.param("13.7.8", {}, ("send", "line_out_of_support", "26.2"), id="dead-to-the-newest"),
    pytest.param(
        "13.7.8",
        {"model": "MacBookPro15,2", "device_id": "J132AP"},
        ("send", "line_out_of_support", "15.7.3"),
        id="as-far-as-the-model-goes",
    ),
    pytest.param(
        "13.7.8",
        INTEL_2017,
        ("nothing", "unfixable_hardware", None),
        id="hardware-runs-nothing-newer",
    ),
    pytest.param(
        "13.7.7",
        INTEL_2017 | {"build": "22H700"},
        ("send", "security_update", "13.7.8"),
        id="such-hardware-gets-its-last-update",
    ),
    pytest.param(
        "13.7.8", {"model": "Foo99,1"}, ("nothing", "model_unknown", None), id="model-unknown"
    ),
    pytest.param(
        "13.7.8", {"model": None}, ("nothing", "model_unknown", None), id="model-not-reported"
    ),
]


@pytest.mark.parametrize(("version", "facts", "want"), UPGRADES)
def test_mac_on_a_dead_line_is_upgraded_as_far_as_its_model_allows(
    version: str, facts: dict[str, Any], want: tuple[str, ...]
) -> None:
    decision = decide(situation(mac(version, **facts)))
    assert summary(decision) == want


def test_unfixable_hardware_is_a_finding_with_its_holes() -> None:
    decision = decide(situation(mac("13.7.8", **INTEL_2017)))
    assert decision.findings == (FindingCode.HARDWARE_ENDED,)
    assert decision.finding_details == ("hardware_ended: macOS 13",)
    assert decision.cves
    assert decision.action is None


SUPPORTED = [
    pytest.param("26", ["26", "15", "14"], id="26-is-newest"),
    pytest.param("27", ["27", "26", "15"], id="27-is-newest"),
    pytest.param("15", ["15", "14", "13"], id="15-is-newest"),
    pytest.param("28", ["28", "27", "26"], id="28-is-newest"),
]


@pytest.mark.parametrize(("newest", "lines"), SUPPORTED)
def test_three_lines_are_supported(newest: str, lines: list[str]) -> None:
    between = [release(f"{major}.0", build="") for major in range(27, int(newest))]
    known = catalogue(release(f"{newest}.0", build=""), release("13.7.8"), *between)
    assert list(known.supported_lines) == lines


def test_a_supplement_makes_no_line_the_newest() -> None:
    assert apple(release("27.0 (a)", build="")).supported_lines == ("26", "15", "14")


POLICY_UPGRADES = [
    pytest.param({"to": "26"}, "15.7.3", ("send", "policy_upgrade", "26.2"), id="wanted"),
    pytest.param({"to": "15"}, "26.1", ("send", "security_update", "26.2"), id="no-downgrade"),
    pytest.param({"to": "26"}, "26.2", ("nothing", "compliant", None), id="there-already"),
    pytest.param({}, "15.7.3", ("nothing", "compliant", None), id="not-wanted"),
    pytest.param(
        {"to": "15"},
        "13.7.8",
        ("send", "line_out_of_support", "15.7.3"),
        id="not-beyond-the-policys-line",
    ),
    pytest.param(
        {"out_of_support": False},
        "13.7.8",
        ("nothing", "exempt", None),
        id="policy-keeps-dead-lines",
    ),
    pytest.param(
        {"out_of_support": False, "to": "26"},
        "13.7.8",
        ("send", "policy_upgrade", "26.2"),
        id="wanted-although-dead-lines-are-kept",
    ),
    pytest.param({"to": "13"}, "13.7.8", ("nothing", "no_advisory", None), id="to-a-dead-line"),
    pytest.param(
        {"supported_lines": ["26"]},
        "15.7.3",
        ("send", "line_out_of_support", "26.2"),
        id="listed-in-the-policy",
    ),
    pytest.param(
        {"supported_lines": ["15"]},
        "26.1",
        ("send", "security_update", "26.2"),
        id="newer-than-the-policys-list",
    ),
]


@pytest.mark.parametrize(("upgrades", "version", "want"), POLICY_UPGRADES)
def test_upgrade_follows_the_policy(
    upgrades: dict[str, Any], version: str, want: tuple[str, ...]
) -> None:
    s = situation(mac(version), rules=policy(upgrades=upgrades))
    assert summary(decide(s)) == want


def test_policy_upgrade_is_not_needed_if_the_model_cannot_run_it() -> None:
    air = mac("15.7.3", model="MacBookAir9,1", device_id="J230KAP")
    assert decide(situation(air, rules=policy(upgrades={"to": "26"}))).reason is Reason.COMPLIANT


def test_mac_on_a_dead_line_without_an_offered_release_is_not_compliant() -> None:
    only_others = catalogue(
        *(release(v, device_ids=["J1AP", "J2AP"]) for v in ("26.2", "15.7.3", "14.8.3")),
        release("13.7.8"),
    )
    decision = decide(situation(mac("13.7.8"), advisories=only_others))
    assert decision.reason is Reason.NO_ADVISORY
    assert FindingCode.LINE_ENDED in decision.findings
    assert "no release to move to" in decision.finding_details[0]


def test_release_narrowed_to_one_device_id_is_offered_to_that_device_only() -> None:
    wide = release("26.3.2", device_ids=FIFTY_SEVEN, day="2026-01-10")
    base = [release(v, device_ids=FIFTY_SEVEN) for v in ("26.1", "26.2")]
    small = narrowed("26.3.2", device_ids=["J700AP"], day="2026-01-10", first_seen_at=NOW - HOUR)
    for device, first, then in (
        (mac("26.2"), "26.3.2", None),
        (mac("26.2", **NEO), "26.3.2", "26.3.2"),
        (mac("26.2", device_id=None), "26.3.2", None),
    ):
        before = decide(situation(device, advisories=catalogue(*base, wide)))
        after = decide(situation(device, advisories=catalogue(*base, wide, small)))
        assert summary(before)[2] == first
        assert summary(after)[2] == then


DEVICE_IDS = [
    pytest.param("J604AP", True, id="listed"),
    pytest.param("j604ap", True, id="listed-in-other-case"),
    pytest.param("J999AP", False, id="other-hardware"),
    pytest.param(None, True, id="not-reported-and-the-list-is-wide"),
]


@pytest.mark.parametrize(("device_id", "offered"), DEVICE_IDS)
def test_wide_release_is_offered_to_listed_and_unknown_device_ids(
    device_id: str | None, offered: bool
) -> None:
    known = apple(release("26.3", day="2026-01-10", device_ids=FIFTY_SEVEN))
    assert (summary(decide(situation(mac("26.2", device_id=device_id), advisories=known)))[2]) == (
        "26.3" if offered else None
    )


def test_release_is_offered_only_to_devices_that_every_source_lists() -> None:
    known = apple(
        release("26.3", device_ids=["J604AP", "J700AP"], severity=None),
        release("26.3", device_ids=["J700AP"], source="gdmf", cves=[]),
    )
    assert decide(situation(mac("26.2"), advisories=known)).reason is Reason.COMPLIANT


def test_mac_that_lacks_only_a_supplement_gets_supplement_pending() -> None:
    known = apple(release("26.2 (a)", build="25C771280a", day="2026-01-10"))
    decision = decide(situation(mac("26.2"), advisories=known))
    assert (decision.decision, decision.reason) == (Verdict.NOTHING, Reason.SUPPLEMENT_PENDING)
    assert decision.cves
    for done in (mac("26.2 (a)", build=None), mac("26.2", build="25C771280a")):
        assert decide(situation(done, advisories=known)).reason is Reason.COMPLIANT


def test_a_retracted_release_is_no_target_and_can_come_back() -> None:
    gone = retracted("26.2", first_seen_at=NOW - 2 * DAY)
    back = release("26.2", first_seen_at=NOW - DAY)
    assert decide(situation(advisories=apple(gone))).reason is Reason.COMPLIANT
    assert decide(situation(advisories=apple(gone, back))).reason is Reason.SECURITY_UPDATE


def test_mac_is_exposed_to_the_cves_of_all_newer_releases_of_its_line() -> None:
    empty_last = apple(release("26.3", cves=[], severity=None, day="2026-01-10"))
    decision = decide(situation(mac("26.0"), advisories=empty_last))
    assert decision.target is not None
    assert str(decision.target.version) == "26.3"
    assert set(decision.cves) == {cve_of("26.1"), cve_of("26.2")}
    assert decision.advisory_ids == ("macOS-26.3", "macOS-26.2", "macOS-26.1")


def test_exploited_cve_of_an_intermediate_release_sets_the_deadline() -> None:
    known = [release(v, day="2026-01-10", severity="low") for v in ("26.1", "26.2")]
    bad = raised(
        "26.1",
        day="2026-01-10",
        severity="low",
        exploited=["CVE-2025-43529"],
        first_seen_at=at("2026-01-13"),
    )
    before = decide(situation(mac("26.0"), advisories=catalogue(*known)))
    after = decide(situation(mac("26.0"), advisories=catalogue(*known, bad)))
    assert (before.exploited_cves, before.deadline_at) == ((), at("2026-01-10") + 30 * DAY)
    assert after.exploited_cves == ("CVE-2025-43529",)
    assert after.deadline_at == at("2026-01-13") + 3 * DAY
    assert summary(after)[2] == "26.2"


def test_finding_on_a_dead_line_names_the_policys_limit() -> None:
    stuck = catalogue(
        *(release(v, device_ids=["J1AP", "J2AP"]) for v in ("26.2", "15.7.3", "14.8.3")),
        release("13.7.8"),
    )
    for upgrades, ends in (({}, "to it"), ({"to": "15"}, "up to macOS 15")):
        s = situation(mac("13.7.8"), advisories=stuck, rules=policy(upgrades=upgrades))
        finding = decide(s).finding_details[0]
        assert finding.endswith(ends)
