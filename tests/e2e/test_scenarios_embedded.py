"""Scenarios on the embedded form: no decision needs a sweep, and a restart loses nothing."""

from datetime import timedelta
from pathlib import Path

import pytest

from schemas.decisions import Decision
from tests import scenario
from tests.embedded_shell import EmbeddedShell

NEVER, AT_EVERY_STEP = timedelta(days=7), timedelta(minutes=1)


def play(name: str, shell: EmbeddedShell) -> tuple[scenario.ScenarioResult, list[Decision]]:
    """Play a scenario; return its result after each step, and all decisions."""
    try:
        return scenario.play(scenario.read(name), shell), [one.decision for one in shell.records()]
    finally:
        shell.close()


@pytest.mark.parametrize("name", scenario.names())
def test_sweep_at_every_step_of_a_scenario_decides_nothing(name: str, tmp_path: Path) -> None:
    swept = EmbeddedShell(tmp_path / "swept", sweep_every=AT_EVERY_STEP)
    unswept = EmbeddedShell(tmp_path / "unswept", sweep_every=NEVER)
    assert play(name, swept) == play(name, unswept)
    assert swept.sweeps >= len(scenario.read(name)["steps"]) - 1
    assert unswept.sweeps == 0


@pytest.mark.parametrize("name", scenario.names())
def test_restart_before_every_hand_over_of_a_scenario_changes_nothing(
    name: str, tmp_path: Path
) -> None:
    restarted = EmbeddedShell(tmp_path / "restarted", restarts=True)
    assert play(name, restarted) == play(name, EmbeddedShell(tmp_path / "alive"))
