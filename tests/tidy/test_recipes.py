"""The files and names in the recipes of CONTRIBUTING.md exist."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.test_fast_paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = PAGE.partition("## Recipes")[2].partition("## The contract")[0]
PATH = re.compile(r"[\w/.-]+/[\w.-]*|\w+\.(?:py|md|yaml|json|tsv)")
# Constants, classes and private functions; NAME is the reader's own.
IDENTIFIER = re.compile(r"[A-Z_]\w+")
ROWS = [
    row
    for row in re.findall(r"^\|(.+?)\|(.+)\|$", RECIPES, re.MULTILINE)
    if "---" not in row[0] and row[0].strip() != "file"
]


def quoted(text: str, form: re.Pattern[str]) -> list[str]:
    found = re.findall(r"`([^`]+)`", text)
    return [one for one in found if form.fullmatch(one) and "NAME" not in one]


def paths_of(text: str) -> Iterator[Path]:
    """Yield the named files and folders; a bare file name is beside the path before it."""
    beside = ROOT
    for name in quoted(text, PATH):
        path = ROOT / name if (ROOT / name).exists() else beside / name
        beside = path if path.is_dir() else path.parent
        yield path


def words_in(paths: list[Path]) -> set[str]:
    """Return the words of the Python files, and of those in the folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.glob("*.py"))]
    return {
        word
        for file in files
        if file.suffix == ".py"
        for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))
    }


def test_each_path_exists() -> None:
    paths = [path for row in ROWS for path in paths_of("".join(row))]
    assert len(paths) > 50
    assert [path for path in paths if not path.exists()] == []


def test_each_name_is_in_a_file_of_its_row() -> None:
    found = []
    for row in ROWS:
        words = words_in(list(paths_of("".join(row))))
        if words:
            found += [(name, name in words) for name in quoted("".join(row), IDENTIFIER)]
    assert len(found) > 20
    assert [name for name, is_there in found if not is_there] == []


def test_each_test_to_run_exists() -> None:
    named = " ".join(re.findall(r"^Tests: ([^.]*(?:\.py[^.]*)*)", RECIPES, re.MULTILINE))
    paths = re.findall(r"tests/[\w/.]+", named)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path.rstrip(".")).exists()] == []
