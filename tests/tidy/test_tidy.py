"""The tree keeps its own rules."""

import re
from pathlib import Path

import pytest
import typer.main

from pipeline.cli.app import app
from schemas.topics import INTERNAL_TOPICS, TOPICS
from tests.tidy import checks

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "check",
    [
        checks.import_direction,
        checks.no_private_keys,
        checks.purity,
        checks.keyless_reconcile,
        checks.immutable_rules,
        checks.harness_imports,
        checks.written_once,
        checks.sqlite_openers,
        checks.vague_names,
        checks.fast_paths_compared,
        checks.long_functions,
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


COMMANDS = frozenset(getattr(typer.main.get_command(app), "commands", {}))
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_commands_in_readme_exist() -> None:
    assert checks.commands_exist(README, COMMANDS) == []


def test_readme_tables_list_every_command() -> None:
    assert checks.commands_listed(README, COMMANDS) == []


def test_every_module_in_the_import_rules_exists() -> None:
    known = {name for name, _ in checks.modules(ROOT)}
    named = {*checks.MAY_IMPORT, *checks.PURE}.union(*checks.MAY_IMPORT.values())
    assert sorted(named - known) == []


def test_documented_topics_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(drydock\.[a-z<>.0-9-]+)` \|", ARCHITECTURE, re.MULTILINE)
    topics = [*TOPICS, *INTERNAL_TOPICS]
    assert sorted(rows) == sorted(topic.name.replace("{site}", "<site>") for topic in topics)


def test_decision_pages_have_date_and_status() -> None:
    for page in DECISIONS:
        assert re.match(
            r"# \d+\. [^\n]+\n\n\*\*Date\.\*\* 20\d\d-\d\d-\d\d[^\n]*\*\*Status\.\*\* \w",
            page.read_text(),
        ), page.name


def test_decision_pages_are_numbered_without_gaps() -> None:
    numbers = [int(page.name.partition("-")[0]) for page in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_architecture_lists_every_decision_page() -> None:
    index = ARCHITECTURE.partition("\n## Decisions\n")[2]
    listed = re.findall(r"\]\(decisions/([^)]+)\)", index)
    assert listed == [page.name for page in DECISIONS]
