"""docs/explanation/faults.md names tests that exist."""

import re
from pathlib import Path

from tests.tidy.test_fast_paths import ROOT, names_in

PAGE = ROOT / "docs" / "explanation" / "faults.md"
FOLDER = ROOT / "tests" / "faults"
_NAME = re.compile(r"`((?:tests/\w+/)?test_\w+\.py)(?:::(test_\w+))?`")


def named() -> list[tuple[Path, str]]:
    """Return the file and the function, or an empty text, of each test that the page names."""
    found = _NAME.findall(PAGE.read_text())
    return [(ROOT / name if "/" in name else FOLDER / name, function) for name, function in found]


def test_each_named_test_exists() -> None:
    assert len(named()) > 30
    missing = [
        (path.name, function)
        for path, function in named()
        if not path.exists() or (function and function not in names_in(path))
    ]
    assert missing == []
