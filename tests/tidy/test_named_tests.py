"""Pages that list failures with their tests name tests that exist, in every row."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.tidy.test_fast_paths import ROOT, names_in

_NAME: Final = re.compile(r"`((?:tests/(?:\w+/)+)?\w+\.py)(?:::(test_\w+))?`")


@dataclass(frozen=True)
class Page:
    """A page with tables whose last column has tests; a name without a folder is in `folder`."""

    file: str
    folder: str
    least: int

    @property
    def rows(self) -> list[str]:
        """The last column of each row that is neither a heading nor the line below it."""
        text = (ROOT / "docs" / "explanation" / self.file).read_text(encoding="utf-8")
        cells = [line.split("|")[-2].strip() for line in text.splitlines() if line.startswith("|")]
        return [cell for cell in cells if cell not in ("test", "---")]

    def named(self, cell: str) -> list[tuple[Path, str]]:
        """Return the file and the function, or an empty text, of each test in a cell."""
        return [
            (ROOT / name if "/" in name else ROOT / self.folder / name, function)
            for name, function in _NAME.findall(cell)
        ]


FAULTS: Final = Page("faults.md", "tests/faults", 30)
MDM_FAILURES: Final = Page("mdm-failures.md", "tests/unit/agents/mdm", 60)
PAGES: Final = [pytest.param(one, id=one.file) for one in (FAULTS, MDM_FAILURES)]


@pytest.mark.parametrize("page", PAGES)
def test_each_named_test_exists(page: Page) -> None:
    found = [one for cell in page.rows for one in page.named(cell)]
    assert len(found) > page.least
    defined = {path: names_in(path) for path, _ in found if path.exists()}
    missing = [
        (path.name, function)
        for path, function in found
        if path not in defined or (function and function not in defined[path])
    ]
    assert missing == []


def test_each_failure_of_mdm_has_a_test() -> None:
    assert [cell for cell in MDM_FAILURES.rows if not MDM_FAILURES.named(cell)] == []
