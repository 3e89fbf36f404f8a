"""Situations from public reports and practice, each with the decision that an admin expects.

Decision, target, reason and findings are in examples/decisions; here is what these examples cannot
express. The cases `truth-*` have Apple's own data.
"""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "decisions"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def decide(case: str, policy: str, now: str) -> list[dict[str, object]]:
    events = EXAMPLES / "events" / f"{case}.jsonl"
    arguments = ["--policy", str(EXAMPLES / "policies" / policy), "--events", str(events)]
    result = CliRunner().invoke(app, ["decide", *arguments, "--now", now, "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_decision_is_the_one_that_an_admin_expects(file: Path) -> None:
    result = CliRunner().invoke(app, ["policy", "test", str(file)])
    assert result.exit_code == 0, result.output


def test_exploitation_of_a_cve_sets_the_deadline_in_every_line() -> None:
    found = decide("26-exploited-in-one-line-only", "default.yaml", "2025-12-16T21:00:00Z")
    assert [one["severity"] for one in found] == ["exploited", "exploited"]
    assert {one["deadline_at"] for one in found} == {"2025-12-18T18:00:00Z"}


def test_exposure_of_a_dead_line_counts_from_its_last_fixes() -> None:
    """Line 11 had its last fixes on 2023-09-11, whenever Apple posts its installer again."""
    (found,) = decide("truth-03-line-11-exposure", "apple-data.yaml", "2026-08-19T12:00:00Z")
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
        for decision in decide(case, "default.yaml", now)
        for one in decision["gates"]  # type: ignore[attr-defined]
        if one["gate"] == gate and not one["passed"]
    ]
    assert any(words in detail for detail in details)
    assert not [detail for detail in details if "0:00:00" in detail]
