"""Disagreements of SOFA, GDMF and KEV about a release."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.state.feed_comparison import compare_feeds
from schemas.envelope import AdvisoryEvent
from schemas.findings import FeedFindingCode
from tests.factories import DAY, NOW, at, catalogue, kev, release

CVE = "CVE-2025-10001"


def gdmf(version: str, **values: Any) -> AdvisoryEvent:
    return release(version, source="gdmf", cves=(), severity=None, **values)


# events of the feeds -> code and release of each finding
CASES = [
    pytest.param([release("26.2"), gdmf("26.2")], [], id="agree"),
    pytest.param([release("26.2")], [], id="without-apples-list"),
    pytest.param([gdmf("26.2")], [], id="without-sofa"),
    pytest.param(
        [release("26.1"), gdmf("26.1"), gdmf("26.2")],
        [(FeedFindingCode.SOFA_LACKS_RELEASE, "macOS-26.2")],
        id="sofa-lacks-it",
    ),
    pytest.param(
        [release("26.2"), gdmf("26.2"), gdmf("27.0", build="26A428")],
        [(FeedFindingCode.SOFA_LACKS_RELEASE, "macOS-27.0")],
        id="sofa-lacks-the-newest-line",
    ),
    pytest.param(
        [release("26.2"), gdmf("26.2"), gdmf("11.7.11", build="20G1500")],
        [],
        id="older-line-than-any-of-sofa",
    ),
    pytest.param(
        [release("26.2"), gdmf("26.2"), gdmf("26.1", expires_at=NOW - DAY)],
        [],
        id="offer-has-expired",
    ),
    pytest.param(
        [release("26.2"), release("26.1"), gdmf("26.1")],
        [(FeedFindingCode.GDMF_LACKS_RELEASE, "macOS-26.2")],
        id="not-offered-yet",
    ),
    pytest.param(
        [release("26.2"), release("26.1"), gdmf("26.2")], [], id="older-one-is-offered-no-more"
    ),
    pytest.param(
        [release("26.2"), gdmf("26.2", build="25C57")],
        [(FeedFindingCode.BUILDS_DIFFER, "macOS-26.2")],
        id="other-build",
    ),
    pytest.param(
        [release("26.2"), gdmf("26.2", build="25C56,25C57")], [], id="one-build-is-the-same"
    ),
    pytest.param(
        [
            release("26.2", device_ids=["J700AP"]),
            gdmf("26.2", device_ids=["J700AP", "J604AP"]),
        ],
        [(FeedFindingCode.DEVICES_DIFFER, "macOS-26.2")],
        id="other-devices",
    ),
    pytest.param(
        [
            release("26.2", device_ids=["J700ap", "Mac-937A206F2EE63C01"]),
            gdmf("26.2", device_ids=["J700AP"]),
        ],
        [],
        id="same-devices-in-other-forms",
    ),
    pytest.param(
        [release("26.2", day="2026-01-10"), gdmf("26.2", day="2025-12-12")],
        [(FeedFindingCode.DATES_DIFFER, "macOS-26.2")],
        id="sofa-is-weeks-late",
    ),
    pytest.param(
        [release("26.2", day="2025-12-12"), gdmf("26.2", day="2026-01-10")],
        [],
        id="posted-again-by-apple",
    ),
    pytest.param(
        [release("26.2", cves=[CVE]), kev(CVE)],
        [(FeedFindingCode.SOFA_LACKS_EXPLOITATION, "macOS-26.2")],
        id="in-kev-only",
    ),
    pytest.param([release("26.2", cves=[CVE], exploited=[CVE]), kev(CVE)], [], id="in-both"),
    pytest.param([release("26.2", cves=[CVE], exploited=[CVE])], [], id="in-sofa-only"),
]


@pytest.mark.parametrize(("events", "found"), CASES)
def test_disagreement_is_found(
    events: list[AdvisoryEvent], found: list[tuple[FeedFindingCode, str]]
) -> None:
    findings = compare_feeds(catalogue(*events), NOW)
    assert [(one.code, one.advisory_id) for one in findings] == found


def test_finding_has_what_each_feed_has() -> None:
    ids = [f"J{number}AP" for number in range(9)]
    known = catalogue(
        release("26.2", device_ids=["J700AP"], build="25C56", day="2026-01-10"),
        gdmf("26.2", device_ids=["J700AP", *ids], build="25C57", day="2025-12-12"),
        gdmf("26.3", build="25D100"),
    )
    assert {one.code.value: one.detail for one in compare_feeds(known, NOW)} == {
        "sofa_lacks_release": "Apple offers it: 25D100",
        "builds_differ": "SOFA: 25C56; GDMF: 25C57",
        "devices_differ": "GDMF only: J0AP, J1AP, J2AP, J3AP, J4AP and 4 more",
        "dates_differ": "SOFA: 2026-01-10; GDMF: 2025-12-12",
    }


def test_expired_offer_is_compared_until_it_expires() -> None:
    known = catalogue(release("26.1"), gdmf("26.1"), gdmf("26.2", expires_at=at("2026-03-01")))
    before = compare_feeds(known, at("2026-03-01") - timedelta(seconds=1))
    assert [one.code for one in before] == [FeedFindingCode.SOFA_LACKS_RELEASE]
    assert compare_feeds(known, at("2026-03-01")) == ()
