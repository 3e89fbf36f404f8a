"""The lines and the seconds of each test, from one run without a mutant."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import coverage


class Record:
    """The tests that run each line of the mutated modules, and the time of each test."""

    def __init__(self, folder: Path, lines: Path, seconds: Path) -> None:
        """Read the data of coverage and the file of seconds; `folder` holds the modules."""
        self._seconds: dict[str, float] = json.loads(seconds.read_text())
        self._lines: dict[str, dict[int, list[str]]] = {}
        self._rank: dict[str, int] = defaultdict(int)
        kept = coverage.CoverageData(str(lines))
        kept.read()
        for name in kept.measured_files():
            path = Path(name).resolve().relative_to(folder.resolve()).as_posix()
            self._lines[path] = kept.contexts_by_lineno(name)
            for contexts in self._lines[path].values():
                for test in contexts:
                    self._rank[test] += 1

    def is_empty(self) -> bool:
        """Return True if no line of the modules is recorded."""
        return not any(self._lines.values())

    def tests(self, path: str, changed: range) -> list[str]:
        """Return the tests of the changed lines; those that run the fewest lines come first.

        A line that runs only at import belongs to all tests: some only read its constant. Those
        that run other lines of its module come first.
        """
        lines = self._lines.get(path, {})
        contexts = {test for line in changed for test in lines.get(line, ())}
        if contexts != {""}:
            return self._ranked(contexts - {""})
        of_module = {test for each in lines.values() for test in each} - {""}
        return [*self._ranked(of_module), *self._ranked(self._seconds.keys() - of_module)]

    def _ranked(self, tests: Iterable[str]) -> list[str]:
        return sorted(tests, key=lambda test: (self._rank[test], test))

    def limits(self, tests: Iterable[str], factor: float, least_s: float) -> dict[str, float]:
        """Return the seconds that each test may take: a multiple of its recorded time."""
        return {test: max(least_s, factor * self._seconds.get(test, 0.0)) for test in tests}
