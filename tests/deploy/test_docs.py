"""docs/deploy.md tells of every Secret that the chart expects, with commands that are there."""

import re

import pytest
import typer.main

from pipeline.cli.app import app
from tests.deploy.chart import ROOT, SHAPES, Helm, Object, containers, pod, values, workloads
from tests.tidy import checks

TEXT = (ROOT / "docs" / "deploy.md").read_text()


def test_commands_exist() -> None:
    known = set(getattr(typer.main.get_command(app), "commands", {}))
    assert checks.commands_exist(TEXT, known) == []


def test_values_exist() -> None:
    """What is written like a value, and begins with a group of values, is one."""
    groups = {name: value for name, value in values().items() if isinstance(value, dict)}
    named = re.findall(rf"`((?:{'|'.join(groups)})\.[\w.]+)", TEXT)
    assert named
    for name in named:
        node: object = groups
        for part in name.split("."):
            assert isinstance(node, dict) and part in node, name  # noqa: PT018 - one question
            node = node[part]


def secrets_of(workload: Object) -> set[str]:
    """The Secrets without which its pods do not start."""
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
    """Those with names of the chart's own; the others are named in values by whoever makes them."""
    (keys, senders) = (values()["keys"], values()["gateway"]["sendersSecret"])
    ours = {*keys.values(), senders}
    wanted = {name for one in workloads(helm.objects(shape)) for name in secrets_of(one)} & ours
    assert wanted
    assert {name for name in wanted if f"`{name}`" not in TEXT} == set()
