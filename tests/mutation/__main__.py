"""`python -m tests.mutation`: change the core modules at random places, and run their tests.

This program is our own because no maintained library fits: cosmic-ray 8 writes its mutants into the
working tree and drops no statement and no returned value; mutmut 3 changes no module-level code and
no decorated function; neither draws a seeded sample.

The folder `.mutation` keeps the times of the tests and the fates found so far. A run that was
stopped continues there, and a larger sample runs only what it adds. A change of any file of the
tree begins anew, because any of them may change a fate; `--survivors` runs only the mutants that
survived before.

Exit 0 if at least 90 % of the sampled mutants that are not equivalent are killed, 1 if not, 2 if
`equivalents.toml` or an option names something that does not exist, or if another run is going on.
"""

import argparse
import fcntl
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

from tests.mutation import equivalents
from tests.mutation.modules import EXCLUDED, MODULES
from tests.mutation.operators import Mutant, mutants
from tests.mutation.progress import SURVIVORS, Progress
from tests.mutation.record import Record
from tests.mutation.running import Fate, Tree

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".mutation"
MINIMUM: Final = 0.9
_EQUIVALENT: Final = "equivalent"
Statements = Sequence[Sequence[Mutant]]


def sample(statements: Statements, count: int, seed: str) -> list[Mutant]:
    """Return mutants of `count` statements drawn by a seed, one of each, in the file's order.

    The draw is by statement: drawn by mutant, long tables of names would fill the sample. A larger
    sample of a seed contains each smaller one.
    """
    random = Random(seed)
    shuffled = list(statements)
    random.shuffle(shuffled)
    drawn = [random.choice(each) for each in shuffled][:count]
    return sorted(drawn, key=lambda each: each.line)


def main() -> int:
    """Run mutants of the core modules and print the table of killed ones."""
    given = _arguments()
    FOLDER.mkdir(exist_ok=True)
    with _only_run(FOLDER / "lock") as is_alone:
        if not is_alone:
            _print_line(f"another run works in {FOLDER.name}: wait for its end, or stop it")
            return 2
        tree = Tree(ROOT, FOLDER / "tree")
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
        progress = Progress(FOLDER / "fates.jsonl", tree.digest)
        drawn = {
            path: _selected(given, path, statements[path], progress)
            for path in given.module or MODULES
        }
        table = _run(tree, drawn, progress, {entry.key for entry in entries}, given.verbose)
    return _report(table, given.seed)


@contextmanager
def _only_run(lock: Path) -> Iterator[bool]:
    """Yield False if another process is inside."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _selected(
    given: argparse.Namespace, path: str, statements: Statements, progress: Progress
) -> list[Mutant]:
    everything = [mutant for part in statements for mutant in part]
    if given.survivors:
        return [mutant for mutant in everything if progress.is_survivor(mutant)]
    if given.line:
        return [mutant for mutant in everything if mutant.line in given.line]
    return sample(statements, given.per_module, f"{given.seed}:{path}")


def _run(
    tree: Tree,
    drawn: Mapping[str, Sequence[Mutant]],
    progress: Progress,
    known: set[tuple[str, str, str, str]],
    verbose: bool,
) -> dict[str, Counter[str]]:
    """Return the number of mutants of each fate, by module."""
    records: dict[tuple[str, ...], Record] = {}
    table: dict[str, Counter[str]] = {}
    for path, chosen in drawn.items():
        counted = table[path] = Counter()
        tests = MODULES[path]
        for each in chosen:
            if each.key in known:
                counted[_EQUIVALENT] += 1
                continue
            fate = progress.fates.get(each.key)
            if fate is None:
                if tests not in records:
                    records[tests] = tree.record(tests, list(MODULES), list(EXCLUDED))
                fate = tree.fate(each, records[tests])
                progress.add(each, fate)
            counted[fate] += 1
            if verbose or fate in (*SURVIVORS, Fate.UNCLEAR):
                _print_line(f"{fate}: {each.path}:{each.line} inside {each.inside!r}")
                _print_line(f"    {each.original}\n    {each.mutated}")
    return table


def _report(table: dict[str, Counter[str]], seed: int) -> int:
    """Print the table, and return the exit code."""
    total: Counter[str] = Counter()
    _print_line(
        "\n| module | killed / run | broken | hung | unclear | equivalent |"
        "\n| --- | --- | --- | --- | --- | --- |"
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
    others = (counted[each] for each in (Fate.BROKEN, Fate.HUNG, Fate.UNCLEAR, _EQUIVALENT))
    return f"| {name} | {numbers} | {' | '.join(str(each) for each in others)} |"


def _run_count(counted: Counter[str]) -> int:
    return sum(counted[fate] for fate in Fate if fate is not Fate.UNCLEAR)


def _killed(counted: Counter[str]) -> int:
    return _run_count(counted) - sum(counted[fate] for fate in SURVIVORS)


def _print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=1, help="Seed that draws the mutants")
    parser.add_argument(
        "--per-module", type=int, default=3, help="Number of mutants of each module"
    )
    parser.add_argument(
        "--module", action="append", choices=list(MODULES), metavar="PATH", help="Only this module"
    )
    parser.add_argument(
        "--line", action="append", type=int, help="All mutants of the statement at this line"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="All mutants that survived the last run of them"
    )
    parser.add_argument("--verbose", action="store_true", help="Print killed mutants too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
