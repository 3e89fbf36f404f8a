"""`drydock decide`: events in, one decision per Mac out."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.demo.scenario import build, releases
from schemas.decisions import Decision
from schemas.envelope import InventoryEvent, encode
from schemas.events.inventory import InventoryReported

POLICY = "examples/policy.yaml"
NOW = "2025-12-16T03:00:00Z"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    lines = [encode(event) for event in releases()]
    at = datetime(2025, 12, 16, 1, tzinfo=UTC)
    for spec in build(1, 40).specs:
        data = InventoryReported(
            source="mdm",
            udid=spec.udid,
            serial=spec.serial,
            hostname=spec.hostname,
            model=spec.model,
            os_version=spec.os_version,
            build=spec.build,
            supervised=spec.supervised,
        )
        lines.append(
            encode(
                InventoryEvent(
                    id=spec.serial, source="/test", subject=spec.udid, time=at, data=data
                )
            )
        )
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def _decide(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["decide", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_one_decision_per_mac_is_printed_with_the_documented_fields(events: Path) -> None:
    code, out, _ = _decide("--policy", POLICY, "--events", str(events), "--now", NOW, "--json")
    printed = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [one["udid"] for one in printed] == sorted(spec.udid for spec in build(1, 40).specs)
    assert all(set(one) == set(Decision.model_fields) for one in printed)
    assert {one["decision"] for one in printed} >= {"send", "nothing"}


def test_order_and_repeats_of_lines_change_nothing(events: Path, tmp_path: Path) -> None:
    lines = events.read_bytes().splitlines() * 2
    random.Random(3).shuffle(lines)
    other = tmp_path / "shuffled.jsonl"
    other.write_bytes(b"\n".join(lines))
    options = ("--now", NOW, "--json")
    first = _decide("--policy", POLICY, "--events", str(events), *options)
    assert first == _decide("--policy", POLICY, "--events", str(other), *options)


def test_nothing_is_decided_if_a_line_is_not_an_event(events: Path) -> None:
    with events.open("ab") as stream:
        stream.write(b'{"specversion": "1.0"}\nnot json\n')
    number = events.read_bytes().count(b"\n")
    code, out, err = _decide("--policy", POLICY, "--events", str(events), "--json")
    assert (code, out) == (2, "")
    assert f"{events}:{number - 1}: unknown_type" in err
    assert f"{events}:{number}: not_json" in err
    assert err.splitlines()[-1] == (
        "drydock: lines that are not events: 2; nothing was decided: correct or remove them"
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--policy", "missing.yaml", "cannot read missing.yaml"),
        ("--events", "missing.jsonl", "cannot read missing.jsonl"),
        ("--now", "yesterday", "--now: 'yesterday' is not a time"),
        ("--now", "2025-12-16T03:00:00", "has no time zone"),
    ],
)
def test_unusable_option_is_one_line_on_stderr(
    events: Path, option: str, value: str, message: str
) -> None:
    options = {"--policy": POLICY, "--events": str(events), "--now": NOW} | {option: value}
    code, out, err = _decide(*(part for pair in options.items() for part in pair))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_invalid_policy_is_reported_with_its_line(events: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nsites:\n  london: {time_zone: Nowhere/Else}\n")
    code, _, err = _decide("--policy", str(policy), "--events", str(events))
    assert (code, f"{policy}:3:" in err) == (2, True)
