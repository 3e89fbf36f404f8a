"""Situations from public reports and practice, each with the decision that an admin expects.

A row is the case, its policy, the time, and for each Mac: verdict, action, method, target, reason,
and the findings. The cases `truth-*` have Apple's own data.
"""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app

CASES = Path(__file__).parents[2] / "data" / "decisions"
DEFAULT = "default.policy.yaml"
TRUTH = "truth-policy.yaml"
AUGUST = "2026-08-19T12:00:00Z"

ROWS = [
    (
        "01a-loan-on-dead-line",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        ["hold reinstall startosinstall 26.2 awaiting_approval"],
    ),
    (
        "01b-loan-newer-than-feed",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        [
            "hold reinstall erase_device 26.4 awaiting_approval newer_than_feeds",
            "hold reinstall erase_device 26.3 awaiting_approval runs_beta newer_than_feeds",
        ],
    ),
    (
        "02a-mdm-job-outlives-checkout",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        ["send reenroll profiles_renew checked_out"],
    ),
    ("03-report-from-the-future", DEFAULT, "2025-12-16T21:00:00Z", ["nothing compliant"]),
    (
        "04-jamf-checkin-carries-old-record",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        ["nothing compliant version_contradicted"],
    ),
    (
        "05-authenticate-without-tokenupdate",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        ["send reenroll profiles_renew enrollment_incomplete"],
    ),
    (
        "06-deferral-of-another-release",
        DEFAULT,
        "2026-01-20T20:00:00Z",
        ["send update ddm 26.2 security_update", "hold update ddm 26.3 deferred"],
    ),
    (
        "07-exemption-ends-at-utc-midnight",
        "07-exempt.policy.yaml",
        "2026-01-10T00:30:00Z",
        ["hold update ddm 26.2 exempt", "send update ddm 26.2 security_update"],
    ),
    (
        "08-upgrade-to-27-silent",
        "08-to-27.policy.yaml",
        "2026-10-20T20:00:00Z",
        ["send upgrade ddm 27.0 policy_upgrade"],
    ),
    (
        "09-firmware-newer-or-beta",
        "09-firmware.policy.yaml",
        "2025-12-16T21:00:00Z",
        ["nothing compliant firmware_newer", "send update ddm 26.2 security_update runs_beta"],
    ),
    (
        "10-laptop-in-a-drawer",
        DEFAULT,
        "2025-12-28T20:00:00Z",
        ["send update ddm 26.2 security_update"],
    ),
    (
        "12-erase-without-preconditions",
        "12-erase-first.policy.yaml",
        "2025-12-16T21:00:00Z",
        [
            "hold reinstall startosinstall 26.2 awaiting_approval",
            "hold reinstall startosinstall 11.7.10 awaiting_approval",
            "hold reinstall erase_device 26.2 awaiting_approval not_in_ade",
            "nothing compliant",
        ],
    ),
    (
        "13a-forked-build-hides-release",
        DEFAULT,
        "2024-11-05T21:00:00Z",
        ["send update ddm 15.1 security_update"],
    ),
    (
        "14-expired-release-as-target",
        DEFAULT,
        "2026-08-19T20:00:00Z",
        ["send update ddm 26.6.1 security_update"],
    ),
    (
        "15-bsi-past-deadline",
        DEFAULT,
        "2026-03-25T21:00:00Z",
        ["send update ddm 26.3.1 (a) security_update"],
    ),
    (
        "19-renamed-mac-moves-site",
        DEFAULT,
        "2025-12-17T04:30:00Z",
        ["hold update ddm 26.2 outside_window"] * 2,
    ),
    (
        "20a-loan-waits-and-takes-the-slow-way",
        DEFAULT,
        "2025-12-16T12:00:00Z",
        ["hold reinstall erase_device 26.2 awaiting_approval"] * 2,
    ),
    (
        "21-no-second-method-before-reinstall",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        ["send update softwareupdate 26.2 security_update"],
    ),
    (
        "22-beta-counts-as-compliant",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        [
            "nothing uncertain runs_beta newer_than_feeds",
            "nothing no_advisory runs_beta newer_than_feeds",
        ],
    ),
    (
        "23-reason-texts",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        [
            "hold update softwareupdate 26.2 other_update_running",
            "hold update ddm 26.2 low_power",
            "hold update ddm 26.2 stale_inventory",
        ],
    ),
    ("24-reenrolment-by-tokenupdate-only", DEFAULT, "2025-12-22T20:00:00Z", ["nothing compliant"]),
    (
        "26-exploited-in-one-line-only",
        DEFAULT,
        "2025-12-16T21:00:00Z",
        ["send update ddm 15.7.3 security_update", "send update ddm 26.2 security_update"],
    ),
    ("truth-01-target-not-offered", TRUTH, AUGUST, ["send update ddm 15.7.9 security_update"]),
    (
        "truth-02-compliant-though-not-listed",
        TRUTH,
        AUGUST,
        ["send update ddm 15.7.9 security_update"],
    ),
    (
        "truth-04-upgrade-to-27",
        "truth-policy-to-27.yaml",
        "2026-09-20T12:00:00Z",
        ["send upgrade ddm 27.0 policy_upgrade"],
    ),
    ("truth-09-new-device-id", TRUTH, AUGUST, ["nothing uncertain device_not_listed"] * 2),
]


def decide(case: str, policy: str, now: str) -> list[dict[str, object]]:
    arguments = ["--policy", str(CASES / policy), "--events", str(CASES / f"{case}.jsonl")]
    result = CliRunner().invoke(app, ["decide", *arguments, "--now", now, "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def summary(decision: dict[str, object]) -> str:
    target = decision.get("target")
    version = target["version"] if isinstance(target, dict) else None
    words = [decision["decision"], decision.get("action"), decision.get("method"), version]
    findings = decision["findings"]
    assert isinstance(findings, list)
    return " ".join(str(word) for word in (*words, decision["reason"], *findings) if word)


@pytest.mark.parametrize(
    ("case", "policy", "now", "want"), [pytest.param(*row, id=row[0]) for row in ROWS]
)
def test_decision_is_the_one_that_an_admin_expects(
    case: str, policy: str, now: str, want: list[str]
) -> None:
    assert [summary(one) for one in decide(case, policy, now)] == want


def test_exploitation_of_a_cve_sets_the_deadline_in_every_line() -> None:
    found = decide("26-exploited-in-one-line-only", DEFAULT, "2025-12-16T21:00:00Z")
    assert [one["severity"] for one in found] == ["exploited", "exploited"]
    assert {one["deadline_at"] for one in found} == {"2025-12-18T18:00:00Z"}


def test_exposure_of_a_dead_line_counts_from_its_last_fixes() -> None:
    """Line 11 had its last fixes on 2023-09-11, whenever Apple posts its installer again."""
    (found,) = decide("truth-03-line-11-exposure", TRUTH, AUGUST)
    cves = found["cves"]
    assert isinstance(cves, list)
    assert found["severity"] == "exploited"
    assert len(cves) > 100


@pytest.mark.parametrize(
    ("case", "now", "gate", "words"),
    [
        ("23-reason-texts", "2025-12-16T21:00:00Z", "fresh", "the limit is 14 days"),
        ("06-deferral-of-another-release", "2026-01-20T20:00:00Z", "deferral", "waits 7 days"),
    ],
)
def test_a_text_has_the_limit_and_no_clock(case: str, now: str, gate: str, words: str) -> None:
    details = [
        one["detail"]
        for decision in decide(case, DEFAULT, now)
        for one in decision["gates"]  # type: ignore[attr-defined]
        if one["gate"] == gate and not one["passed"]
    ]
    assert any(words in detail for detail in details)
    assert not [detail for detail in details if "0:00:00" in detail]
