"""docs/deploy.md describes every Secret that the chart expects, and names existing commands."""

import re

import pytest
import typer.main

from pipeline.cli.app import app
from tests.deploy.chart import ROOT, SHAPES, Helm, Object, containers, pod, values, workloads
from tests.tidy import checks

TEXT = (ROOT / "docs" / "deploy.md").read_text()


def test_commands_in_deploy_page_exist() -> None:
    known = set(getattr(typer.main.get_command(app), "commands", {}))
    assert checks.commands_exist(TEXT, known) == []


def test_values_in_deploy_page_exist() -> None:
    """Code in backticks that begins with a group of values, such as `worker.`, names a value."""
    groups = {name: value for name, value in values().items() if isinstance(value, dict)}
    named = re.findall(rf"`((?:{'|'.join(groups)})\.[\w.]+)", TEXT)
    assert named
    for name in named:
        node: object = groups
        for part in name.split("."):
            assert isinstance(node, dict) and part in node, name  # noqa: PT018 - one question
            node = node[part]


def secrets_of(workload: Object) -> set[str]:
    """Return the Secrets that a workload's pods need to start."""
    found = {
        volume["secret"]["secretName"] for volume in pod(workload)["volumes"] if "secret" in volume
    }
    for each in containers(workload):
        found |= {
            source["secretRef"]["name"]
            for source in each.get("envFrom", [])
            if "secretRef" in source
        }
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_expected_secrets_are_documented(helm: Helm, shape: str) -> None:
    """Secrets with names from the chart only: operators name the others in their values."""
    (keys, senders) = (values()["keys"], values()["gateway"]["sendersSecret"])
    ours = {*keys.values(), senders}
    wanted = {name for one in workloads(helm.objects(shape)) for name in secrets_of(one)} & ours
    assert wanted
    assert {name for name in wanted if f"`{name}`" not in TEXT} == set()
