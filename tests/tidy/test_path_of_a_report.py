"""docs/explanation/path-of-a-report.md names files and functions that exist."""

import re

from tests.tidy.test_fast_paths import ROOT, names_in

PAGE = ROOT / "docs" / "explanation" / "path-of-a-report.md"


def test_each_hop_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/.]+\.py)(?::(\w+))?`", text))
    assert len(named) > 25
    assert [file for file, _ in named if not (ROOT / file).is_file()] == []
    assert [
        (file, name) for file, name in named if name and name not in names_in(ROOT / file)
    ] == []


def test_at_most_five_calls_return_upward() -> None:
    """Those from `process_records` on; the translation before it is one more."""
    text = PAGE.read_text(encoding="utf-8")
    front, _, rest = text.partition("## From the event")
    assert front.count("**return") == 1
    assert rest.count("**return") <= 5
