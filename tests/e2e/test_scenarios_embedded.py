"""Every scenario on the embedded form."""

from pathlib import Path

import pytest

from tests import scenario
from tests.embedded_shell import EmbeddedShell


@pytest.mark.parametrize("name", scenario.names())
def test_scenario_on_the_embedded_form(name: str, tmp_path: Path) -> None:
    shell = EmbeddedShell(tmp_path)
    try:
        scenario.play(scenario.read(name), shell)
    finally:
        shell.close()
