"""`python -m tests.faults.random`: random faults on the embedded form by seed, then the checker.

Prints the schedule and the faults of each seed that fails. Exit code 0 without faults, else 1.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.chaos.checker import Findings, Kind
from tests.faults.random import embedded_seed
from tests.faults.random.schedule import Strike

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


def main() -> int:
    """Run the seeds of the command line; return the exit code."""
    given = _arguments()
    first, _, last = given.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    runs = _embedded(seeds, given.macs)
    failed = []
    for seed, strikes, findings, seconds in runs:
        counts = ", ".join(f"{kind.value} {findings.count(kind)}" for kind in Kind)
        _print(
            f"seed {seed}: {counts}; jobs {findings.jobs}, once {findings.once},"
            f" events {findings.events_in}; {seconds:.1f} s of CPU"
        )
        if findings.faults:
            failed.append(seed)
            for strike in strikes:
                _print(f"    {strike}")
            for fault in findings.faults[: given.show]:
                _print(f"  {fault.kind.value}: {fault.what}")
    _print(f"{len(seeds)} seeds, failed: {failed or 'none'}")
    return 1 if failed else 0


def _embedded(
    seeds: Sequence[int], macs: int
) -> Iterator[tuple[int, list[Strike], Findings, float]]:
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
        strikes = embedded_seed.schedule_of(seed)
        began_s = time.process_time()
        try:
            findings = embedded_seed.run_seed(folder, seed, strikes, macs)
        finally:
            shutil.rmtree(folder)
        yield seed, strikes, findings, time.process_time() - began_s


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults.random", description=__doc__)
    parser.add_argument("--seeds", default="1-10", help="First and last seed, such as 1-200.")
    parser.add_argument("--macs", type=int, default=embedded_seed.MACS)
    parser.add_argument("--show", type=int, default=20, help="Faults to print for each seed.")
    return parser.parse_args()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
