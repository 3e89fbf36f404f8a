"""Print the modules of which tests reach less than 80 % of the lines, least first.

usage: python tools/coverage_table.py REPORT.json (as `coverage json` writes it)
"""

import json
import sys
from pathlib import Path
from typing import Any

ENOUGH_PERCENT = 80.0


def table(report: dict[str, Any]) -> list[str]:
    """Return a line for each module under ENOUGH_PERCENT, and one for the total."""
    found = sorted(
        (entry["summary"]["percent_covered"], name, entry["summary"]["missing_lines"])
        for name, entry in report["files"].items()
    )
    lines = [
        f"{percent:5.1f} %  {missing:4} lines missed  {name}"
        for percent, name, missing in found
        if percent < ENOUGH_PERCENT
    ]
    total = report["totals"]["percent_covered"]
    return [*lines, f"{total:5.1f} %  of all {len(found)} modules; {len(lines)} are listed"]


if __name__ == "__main__":
    lines = table(json.loads(Path(sys.argv[1]).read_text()))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
