"""Write the pages of docs/reference that are made from the code.

usage: PYTHONPATH=. python tools/reference_pages.py (from the root of the project)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from schemas import sentences
from tools.metrics_page import metrics_page

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "reference"

_FINDINGS: Final = """\
# Findings

A finding is something wrong or unknown about a Mac that no job corrects. `findings` of a decision
has the codes, `finding_details` the observations behind them. If it is unknown whether a Mac lacks
a fix, it is `uncertain`, not `compliant`.

"""
_FEEDS: Final = """
## Feeds

SOFA, Apple's list of offers (GDMF) and CISA's catalogue (KEV) are compared. `drydock status` lists
each disagreement with its release, the metric `drydock_feed_findings` counts them. Decisions go on
with what is known: a release of either feed is a target, the devices are Apple's, and a CVE that
one feed calls exploited is.

"""
_CODES: Final = """\
# Codes

The codes of decisions and results are closed sets: log, metric, record and `--json` have the same
words. [Findings](findings.md) have a page of their own. "It" is the Mac.

"""
_REASONS: Final = """\
## Reasons

Each decision has one reason. Its verdict is `send`, `hold` or `nothing`; a held job has the reason
of its first closed gate.

"""
_GATES: Final = """
## Gates

A gate is a check that a job passes before it is sent. All are evaluated, in this order. A gate is
open if its sentence is true.

"""
_METHODS: Final = """
## Methods

The policy lists the methods of each action in its order of preference.

"""
_ERRORS: Final = """
## Error codes

A result that is not `succeeded` has one.

"""


def pages() -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    codes = (
        *(_CODES, _REASONS, _table("reason", sentences.REASONS)),
        *(_GATES, _table("gate", sentences.GATES)),
        *(_METHODS, _table("method", sentences.METHODS)),
        *(_ERRORS, _table("error code", sentences.ERRORS)),
    )
    return {
        "findings.md": "".join(
            (
                *(_FINDINGS, _table("code", sentences.FINDINGS)),
                *(_FEEDS, _table("code", sentences.FEED_FINDINGS)),
            )
        ),
        "codes.md": "".join(codes),
        "metrics.md": metrics_page(),
    }


def _table(heading: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {heading} | meaning |", "| --- | --- |"]
    lines += [f"| `{code}` | {sentence} |" for code, sentence in rows.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
