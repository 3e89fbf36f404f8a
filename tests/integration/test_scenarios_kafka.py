"""Every scenario gives the same results on 1, 2 and 3 workers as on the embedded form."""

from pathlib import Path

import pytest

from tests import scenario
from tests.embedded_shell import EmbeddedShell
from tests.kafka.kafka_shell import KafkaShell
from tests.kafka.workers import Workers
from tests.scenario import ScenarioResult


def embedded_result(name: str, folder: Path) -> ScenarioResult:
    shell = EmbeddedShell(folder)
    try:
        return scenario.play(scenario.read(name), shell)
    finally:
        shell.close()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", scenario.names())
def test_scenario_on_workers_has_the_embedded_result(
    name: str, count: int, workers: Workers, tmp_path: Path
) -> None:
    for _ in range(count):
        workers.start()
    wanted = embedded_result(name, tmp_path / "embedded")
    try:
        found = scenario.play(scenario.read(name), KafkaShell(workers))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{workers.logs()}") from error
    assert found.job_ids == wanted.job_ids
    if scenario.read(name).get("capacity_shared"):
        # If another partition has the capacity of the site, a waiting job is already issued; the
        # embedded form holds it. Only the last step is equal.
        assert found.steps[-1] == wanted.steps[-1]
    else:
        assert found.steps == wanted.steps
