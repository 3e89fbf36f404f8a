"""Checks of `drydock replay --kafka` on a fleet that ran: of all decisions, or of a period."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.demo.scenario import policy_text
from tests.chaos.programs import STAMPS_ENV
from tests.kafka.recorded import RecordedFleet

_RUN = CliRunner(env=STAMPS_ENV)


def replay_lines(fleet: RecordedFleet, *options: str) -> list[dict[str, Any]]:
    """Return the JSON lines of `drydock replay --kafka` with these options, which must exit 0."""
    done = _RUN.invoke(app, ["replay", "--kafka", *fleet.options, "--json", *options])
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def verified(fleet: RecordedFleet, *period: str) -> dict[str, Any]:
    """Return the report of `--verify`, which must find no difference."""
    [report] = replay_lines(fleet, "--verify", *period)
    assert report["difference"] is None, report
    return report


def macs_of_a_longer_deadline(
    fleet: RecordedFleet, folder: Path, since: datetime | None = None, until: datetime | None = None
) -> set[str]:
    """Return the Macs that a longer deadline for exploited CVEs changes in a period.

    They must be those with a decision about exploited CVEs: in the period, or as their last one
    before its end, since each Mac is also decided again at the end. Each such decision must get a
    later deadline, and the unchanged policy must change none. `folder` gets the policies.
    """
    end = () if until is None else ("--until", until.isoformat())
    period = end if since is None else ("--since", since.isoformat(), *end)
    last = {one["udid"]: one for one in replay_lines(fleet, *end)}
    decided = [*replay_lines(fleet, *period), *last.values()]
    concerned = {one["udid"] for one in decided if one["severity"] == "exploited"}
    policy = folder / "policy.yaml"
    policy.write_text(policy_text().replace("exploited: 3d", "exploited: 4d"))
    assert policy.read_text() != policy_text()
    *changes, summary = replay_lines(fleet, "--policy", str(policy), *period)
    assert set(summary["by_mac"]) == concerned, set(summary["by_mac"]) ^ concerned
    assert all(change["then"]["deadline_at"] < change["under"]["deadline_at"] for change in changes)
    policy.write_text(policy_text())
    assert replay_lines(fleet, "--policy", str(policy), *period)[-1]["changes"] == 0
    return concerned
