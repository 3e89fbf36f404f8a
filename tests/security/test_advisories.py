"""Attacks on advisories by senders that may submit statements (A2, A9, A10)."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.security.target import Target, envelope, release, report, target

SENDERS = """\
senders:
  - {name: mirror, kind: advisories, secrets: [file:%(folder)s/mirror]}
"""
MIRROR = "the-secret-of-the-mirror"
LINES = {"26": ("26.2", "26.1", "26.0"), "15": ("15.7.3", "15.7.2"), "14": ("14.8.3",)}


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("advisories")
    (folder / "mirror").write_text(MIRROR)
    (folder / "senders.yaml").write_text(SENDERS % {"folder": folder})
    with target(folder, "--senders", str(folder / "senders.yaml")) as found:
        for line, versions in LINES.items():
            for version in versions:
                found.accept(stated(line, version), "sofa")
        found.accept(report("MAC-V1"))
        yield found


def stated(line: str, version: str, **data: Any) -> dict[str, Any]:
    return release(os_line=line, os_version=version, **({"builds": []} | data))


def mirrored(at: Target, event: dict[str, Any]) -> None:
    response = at.post("/v1/events", event, None, **{"X-Drydock-Secret": MIRROR})
    assert response.status_code == 200, response.text


def findings(at: Target, source: str = "") -> dict[str, int]:
    """Return the number of findings about a source, or all, by code."""
    found = at.status()["feed_findings"]
    codes = [one["code"] for one in found if one["detail"].startswith(source)]
    return {code: codes.count(code) for code in set(codes)}


def test_a02_retraction_by_another_source_takes_back_nothing(at: Target) -> None:
    before = at.decision("MAC-V1")
    assert before["cves"]
    for line, versions in LINES.items():
        for version in versions:
            gone = stated(line, version, source="other")
            mirrored(at, gone | {"type": "drydock.advisory.retracted.v1"})
    assert at.decision("MAC-V1") == before


def test_a02_many_retractions_with_a_feeds_own_secret_have_no_effect(at: Target) -> None:
    before = at.decision("MAC-V1")
    for line, versions in LINES.items():
        for version in versions:
            gone = stated(line, version) | {"type": "drydock.advisory.retracted.v1"}
            at.accept(gone, "sofa")
    assert at.decision("MAC-V1")["cves"] == before["cves"]
    assert findings(at, "sofa")["retraction_held"] == 6


def test_a02_narrowing_by_another_source_hides_no_release(at: Target) -> None:
    before = at.decision("MAC-V1")
    for kind in ("narrowed", "published"):
        narrow = stated("26", "26.2", source="other", device_ids=["J1AP"])
        mirrored(at, narrow | {"type": f"drydock.advisory.{kind}.v1"})
    assert at.decision("MAC-V1")["cves"] == before["cves"]


@pytest.mark.parametrize("kind", ["severity_raised", "published"])
def test_a09_deadline_of_a_statement_that_is_dated_back_begins_at_its_receipt(
    at: Target, kind: str
) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC).isoformat()
    exploited = ["CVE-2020-0001"]
    forged = stated("26", "26.9", source="other", released_at=long_ago, exploited_cves=exploited)
    mirrored(at, forged | {"type": f"drydock.advisory.{kind}.v1", "time": long_ago})
    at.accept(report("MAC-V1", hostname=f"after-{kind}"))
    deadline = datetime.fromisoformat(at.decision("MAC-V1")["deadline_at"])
    assert deadline > datetime.now(UTC) + timedelta(days=1)


def test_a09_due_date_is_set_by_cisas_login_alone(at: Target) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    data = {"source": "other", "cves": ["CVE-2025-14174"], "kev_due_at": soon}
    forged = envelope(
        "advisory.severity_raised",
        "CVE-2025-14174",
        {**data, "exploited_cves": ["CVE-2025-14174"]},
    )
    mirrored(at, forged)
    deadline = datetime.fromisoformat(at.decision("MAC-V1")["deadline_at"])
    assert deadline > datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize("version", ["99.9", "28.0", "27.0", "19.1"])
def test_a10_impossible_major_version_moves_no_mac(at: Target, version: str) -> None:
    at.accept(report("MAC-V2", os_version="14.8.2", build="23J126"))
    before = at.decision("MAC-V2")
    mirrored(at, stated(version.partition(".")[0], version, source="other"))
    if version in ("99.9", "19.1"):
        at.accept(stated(version.partition(".")[0], version), "sofa")
    assert at.decision("MAC-V2") == before
    assert findings(at)["release_implausible"] >= 1


def test_a10_release_of_the_future_moves_no_mac(at: Target) -> None:
    before = at.decision("MAC-V1")
    ahead = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    mirrored(at, stated("26", "26.99", source="other", released_at=ahead))
    at.accept(stated("26", "26.98", released_at=ahead), "sofa")
    assert at.decision("MAC-V1") == before
