"""`python -m tests.chaos`: kill, freeze, tamper; then print the faults that the checker found.

Exit code 0 without faults, 1 with a fault or a refused input.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from tests.chaos.checker import Kind
from tests.chaos.run import Options, RunSummary, run

_NUMBERS: Final = {
    "seed": "Seed of the fleet, its faults, the strikes and the changes to events",
    "minutes": "Duration of the strikes",
    "macs": "Number of Macs",
    "kills": "Number of kills",
    "speed": "Seconds of the Macs' clock in one real second",
    "outages": "Number of broker outages",
    "settle_s": "Seconds without progress after which the checker judges",
}


def main() -> int:
    """Run chaos with the options of the command line; return the exit code."""
    given = _arguments()
    folder = Path(given.folder or tempfile.mkdtemp(prefix="drydock-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    usual = Options.short(folder) if given.short else Options(folder=folder)
    asked = {name: getattr(given, name) for name in _NUMBERS if getattr(given, name) is not None}
    options = replace(usual, **asked)
    summary = run(options, _say)
    text = json.dumps(_as_json(summary, options)) if given.json else _as_table(summary, options)
    sys.stdout.write(text + "\n")
    if not summary.findings.faults and given.folder is None:
        shutil.rmtree(folder)
    return 1 if summary.findings.faults or summary.refused else 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _arguments() -> argparse.Namespace:
    usual = Options(folder=Path())
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="A few Macs, a few kills.")
    for name, what in _NUMBERS.items():
        number = getattr(usual, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(number), help=f"{what} (usually {number:g}).")
    parser.add_argument(
        "--folder", help="Keep logs and data here. Without it, they stay only after a fault."
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _as_json(summary: RunSummary, options: Options) -> dict[str, Any]:
    findings = asdict(summary.findings) | {
        "faults": [f"{fault.kind}: {fault.what}" for fault in summary.findings.faults]
    }
    return {
        "seed": options.seed,
        **findings,
        **{kind.value: summary.findings.count(kind) for kind in Kind},
        "struck": dict(summary.struck),
        "sent": dict(summary.sent),
        "ended_by_themselves": summary.alone,
        "exit_codes": summary.codes,
        "refused": summary.refused,
        "settled_s": summary.settled_s,
    }


def _as_table(summary: RunSummary, options: Options) -> str:
    found = summary.findings
    kills = sum(count for what, count in summary.struck.items() if what.startswith("kill "))
    lines = [
        f"seed {options.seed}: {options.macs} Macs, {options.minutes:g} minutes, {kills} kills",
        *(f"  {what}: {count}" for what, count in sorted(summary.struck.items())),
        *(f"  events {what}: {count}" for what, count in sorted(summary.sent.items())),
        f"  ended by themselves: {len(summary.alone)}",
        f"events in {found.events_in}",
        f"  = folded {found.folded} + dead-lettered {found.dead_lettered}",
        f"intents {found.intents}, jobs {found.jobs}",
        f"  carried out exactly once {found.once}",
        f"  ended untouched {sum(found.untouched.values())}: {_counted(found.untouched)}",
        f"  closed by the Mac's own report {found.closed}",
        *(f"{kind.value} {found.count(kind)}" for kind in Kind),
        *(f"  {fault.kind}: {fault.what}" for fault in found.faults[:50]),
    ]
    if summary.settled_s is not None:
        lines.append(f"settled {summary.settled_s:.0f} s after the last strike")
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in sorted(counts.items())) or "none"


if __name__ == "__main__":
    sys.exit(main())
