"""The tree keeps its own rules."""

from pathlib import Path

import pytest
import typer.main

from pipeline.cli.app import app
from schemas.topics import TOPICS
from tests.tidy import checks

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "check",
    [
        checks.import_direction,
        checks.purity,
        checks.harness_imports,
        checks.vague_names,
        checks.dependencies_explained,
        checks.locks_agree,
    ],
    ids=lambda check: check.__name__,
)
def test_tree_keeps_rule(check: checks.Check) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(
    "check", [checks.links_resolve, checks.machine_free], ids=lambda check: check.__name__
)
def test_tracked_files_keep_rule(check: checks.FilesCheck) -> None:
    assert check(checks.tracked_files(ROOT)) == []


def test_commands_in_readme_exist() -> None:
    command = typer.main.get_command(app)
    known = set(getattr(command, "commands", {}))
    assert checks.commands_exist((ROOT / "README.md").read_text(), known) == []


def test_documented_topics_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = {
        topic.name for topic in TOPICS if f"`{topic.name.replace('{site}', '<site>')}`" in text
    }
    assert named == {topic.name for topic in TOPICS}
