"""docs/glossary.md has one meaning for each word."""

import re
from pathlib import Path

from schemas.jobs import Action

GLOSSARY = (Path(__file__).resolve().parents[2] / "docs" / "glossary.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in row)
    for row in re.findall(r"^\| ([^|]+)\| ([^|]+)\|([^|]*)\|$", GLOSSARY, re.MULTILINE)
    if row[0].strip() not in ("word", "---")
]
WORDS = [word for word, _, _ in ROWS]


def test_word_has_one_row() -> None:
    assert len(WORDS) == len(set(WORDS)) > 80


def test_meaning_is_a_sentence() -> None:
    assert [word for word, meaning, _ in ROWS if not re.fullmatch(r"[A-Z].+\.", meaning)] == []


def test_word_is_not_rejected_for_its_own_meaning() -> None:
    assert [word for word, _, rejected in ROWS if word in rejected.split(", ")] == []


def test_rejected_word_has_another_meaning_or_none() -> None:
    """A defined word is rejected for another meaning only if readers confuse the two."""
    rejected = {word for _, _, cell in ROWS for word in cell.split(", ") if word}
    assert rejected & set(WORDS) == {"agent", "dry run", "executor", "simulation", "worker"}


def test_glossary_lists_every_action() -> None:
    (meaning,) = (meaning for word, meaning, _ in ROWS if word == "action")
    assert set(re.findall(r"`(\w+)`", meaning)) == {action.value for action in Action}
