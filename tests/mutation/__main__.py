"""`python -m tests.mutation`: change the core modules at random places, and run their tests.

This program is our own because no maintained library fits: cosmic-ray 8 writes its mutants into the
working tree and drops no statement and no returned value; mutmut 3 changes no module-level code and
no decorated function; neither draws a seeded sample.

Exit 0 if at least 90 % of the sampled mutants that are not equivalent are killed, 1 if not, 2 if
`equivalents.toml` or an option names something that does not exist.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Final

from tests.mutation import equivalents
from tests.mutation.modules import MODULES
from tests.mutation.operators import Mutant, mutants
from tests.mutation.running import Fate, Record, Tree

ROOT: Final = Path(__file__).resolve().parents[2]
MINIMUM: Final = 0.9
SURVIVORS: Final = (Fate.SURVIVED, Fate.UNTESTED)


def sample(statements: Sequence[Sequence[Mutant]], count: int, seed: str) -> list[Mutant]:
    """Return mutants of `count` statements drawn by a seed, one of each, in the file's order.

    The draw is by statement: drawn by mutant, long tables of names would fill the sample.
    """
    random = Random(seed)
    drawn = random.sample(list(statements), min(count, len(statements)))
    return sorted((random.choice(each) for each in drawn), key=lambda each: each.line)


def main() -> int:
    """Run mutants of the core modules and print the table of killed ones."""
    given = _arguments()
    paths = given.module or list(MODULES)
    with tempfile.TemporaryDirectory(prefix="drydock-mutation-") as folder:
        tree = Tree(ROOT, Path(folder))
        statements = {path: mutants(path, tree.read(path)) for path in MODULES}
        entries = equivalents.read(equivalents.FILE.read_text())
        everything = [each for lists in statements.values() for part in lists for each in part]
        unmatched = equivalents.unmatched(entries, everything)
        for entry in unmatched:
            _print_line(
                f"{equivalents.FILE.name}: no such mutant in {entry.path}: {entry.original}"
            )
        if unmatched:
            return 2
        known = {entry.key for entry in entries}
        records: dict[tuple[str, ...], Record] = {}
        table: dict[str, Counter[str]] = {}
        for path in paths:
            tests = MODULES[path]
            if tests not in records:
                records[tests] = tree.record(tests, list(MODULES))
            drawn = sample(statements[path], given.per_module, f"{given.seed}:{path}")
            if given.line:
                drawn = [m for part in statements[path] for m in part if m.line in given.line]
            table[path] = _run(tree, drawn, records[tests], known, verbose=given.verbose)
    return _report(table, given.seed)


def _run(
    tree: Tree,
    drawn: Iterable[Mutant],
    record: Record,
    known: set[tuple[str, str, str, str]],
    *,
    verbose: bool,
) -> Counter[str]:
    counted: Counter[str] = Counter()
    for each in drawn:
        if each.key in known:
            counted["equivalent"] += 1
            continue
        fate = tree.fate(each, record)
        counted[fate] += 1
        if verbose or fate in SURVIVORS:
            _print_line(f"{fate}: {each.path}:{each.line} inside {each.inside!r}")
            _print_line(f"    {each.original}\n    {each.mutated}")
    return counted


def _report(table: dict[str, Counter[str]], seed: int) -> int:
    """Print the table, and return the exit code."""
    total: Counter[str] = Counter()
    _print_line(
        "\n| module | killed / run | broken | hung | equivalent |\n| --- | --- | --- | --- | --- |"
    )
    for path, counted in table.items():
        _print_line(_row(path, counted))
        total += counted
    _print_line(_row(f"all, seed {seed}", total))
    run = _run_count(total)
    rate = _killed(total) / run if run else 1.0
    _print_line(
        f"\n{rate:.1%} of the mutants that are not equivalent are killed (at least {MINIMUM:.0%})"
    )
    return 0 if rate >= MINIMUM else 1


def _row(name: str, counted: Counter[str]) -> str:
    numbers = f"{_killed(counted)}/{_run_count(counted)}"
    others = (counted[Fate.BROKEN], counted[Fate.HUNG], counted["equivalent"])
    return f"| {name} | {numbers} | {' | '.join(str(each) for each in others)} |"


def _run_count(counted: Counter[str]) -> int:
    return sum(counted[fate] for fate in Fate)


def _killed(counted: Counter[str]) -> int:
    return _run_count(counted) - sum(counted[fate] for fate in SURVIVORS)


def _print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=1, help="Seed that draws the mutants")
    parser.add_argument(
        "--per-module", type=int, default=10, help="Number of mutants of each module"
    )
    parser.add_argument(
        "--module", action="append", choices=list(MODULES), metavar="PATH", help="Only this module"
    )
    parser.add_argument(
        "--line", action="append", type=int, help="All mutants of the statement at this line"
    )
    parser.add_argument("--verbose", action="store_true", help="Print killed mutants too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
