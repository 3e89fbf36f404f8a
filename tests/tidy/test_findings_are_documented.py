"""docs/reference/findings.md has each code of a finding with its sentence."""

import re
from pathlib import Path

from schemas.findings import SENTENCES, FindingCode

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "findings.md"


def test_each_finding_has_its_sentence() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == {code.value: sentence for code, sentence in SENTENCES.items()}
    assert set(SENTENCES) == set(FindingCode)
