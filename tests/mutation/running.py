"""Runs of mutants in a copy of the tree: the working tree is never changed."""

import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Final

import coverage

from tests.mutation.operators import Mutant
from tests.mutation.recording import HUNG_CODE

_PYTEST: Final = ("-q", "-p", "tests.mutation.recording", "-p", "no:cacheprovider", "--no-header")
_BASELINE_S: Final = 900
# Time for the start of Python and for collection, on a busy computer.
_START_S: Final = 30.0
_TEST_S: Final = 30.0
_FIRST: Final = 20


class Fate(StrEnum):
    """The outcome of the tests for one mutant."""

    KILLED = "killed"  # a test failed
    BROKEN = "broken"  # the tests could not be collected
    HUNG = "hung"  # the tests did not end in time
    SURVIVED = "survived"
    UNTESTED = "untested"  # no test runs the line: it counts as survived


class Tree:
    """A copy of the tree into which mutants are written."""

    def __init__(
        self, root: Path, folder: Path, *, start_s: float = _START_S, test_s: float = _TEST_S
    ) -> None:
        """Copy the files that git does not ignore.

        A mutant hangs after `test_s` in one test, or after `start_s` and three times the time that
        all tests take without a mutant.
        """
        self._folder = folder
        self._start_s = start_s
        self._test_s = test_s
        self._environment = _environment(root)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, folder / name)

    def read(self, path: str) -> str:
        """Return the text of a file."""
        return (self._folder / path).read_text()

    def record(self, tests: Sequence[str], modules: Sequence[str]) -> "Record":
        """Return the lines that each test runs. Raises RuntimeError if a test fails."""
        data = self._folder / f".coverage-{len(list(self._folder.glob('.coverage-*')))}"
        report = data.with_suffix(".output")
        # The settings of `make coverage` do not apply: its `source` would switch `--include` off.
        settings = self._folder / ".coverage-settings"
        settings.write_text("[run]\n")
        command = ["-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={data}"]
        command.append(f"--include={','.join(modules)}")
        with report.open("w") as output:
            begun = monotonic()
            code = self._python(
                [*command, "-m", "pytest", *_PYTEST, *tests], output.fileno(), _BASELINE_S, {}
            )
        if code != 0:
            raise RuntimeError(f"the tests do not pass:\n{report.read_text()[-3000:]}")
        record = Record(self._folder, data, monotonic() - begun)
        if record.is_empty():
            raise RuntimeError(f"coverage recorded no line of {', '.join(modules)}")
        return record

    def fate(self, mutant: Mutant, record: "Record") -> Fate:
        """Return the outcome of the tests that run the changed lines."""
        tests = record.tests(mutant.path, mutant.lines)
        # Python 3.11 reports no line for some awaits: run the tests of the statement around them.
        is_run = bool(tests)
        tests = tests or record.tests(mutant.path, mutant.lines_around)
        path = self._folder / mutant.path
        original = path.read_bytes()
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_text(mutant.source())
        try:
            fate = Fate.UNTESTED
            # The tests that run the fewest lines kill most mutants, and pytest collects few files.
            for some in filter(None, (tests[:_FIRST], tests[_FIRST:])):
                fate = self._run(some, self._start_s + 3 * record.seconds)
                if fate is not Fate.SURVIVED:
                    return fate
            return fate if is_run else Fate.UNTESTED
        finally:
            path.write_bytes(original)

    def _run(self, tests: Sequence[str], limit_s: float) -> Fate:
        (self._folder / ".tests").write_text("\n".join(tests))
        code = self._python(
            ["-m", "pytest", *_PYTEST, "-x", f"--timeout={self._test_s}", "@.tests"],
            subprocess.DEVNULL,
            limit_s,
            {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        if code is None:
            return Fate.HUNG
        known = {0: Fate.SURVIVED, 1: Fate.KILLED, HUNG_CODE: Fate.HUNG}
        return known.get(code, Fate.BROKEN)

    def _python(
        self, arguments: Sequence[str], output: int, limit_s: float, more: Mapping[str, str]
    ) -> int | None:
        """Return the exit code; None after the limit, when all its processes are killed."""
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self._folder,
            env={**self._environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                return process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                # The whole process group, because some tests start programs.
                os.killpg(process.pid, signal.SIGKILL)
                return None


class Record:
    """The tests that run each line of the mutated modules."""

    def __init__(self, folder: Path, data: Path, seconds: float) -> None:
        self.seconds = seconds
        self._lines: dict[str, dict[int, list[str]]] = {}
        self._rank: dict[str, int] = defaultdict(int)
        kept = coverage.CoverageData(str(data))
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

        A line that runs only at import belongs to all tests of its module.
        """
        lines = self._lines.get(path, {})
        contexts = {test for line in changed for test in lines.get(line, ())}
        if contexts == {""}:
            contexts = {test for each in lines.values() for test in each}
        return sorted(contexts - {""}, key=lambda test: (self._rank[test], test))


def _environment(root: Path) -> dict[str, str]:
    """Return the environment of the tests.

    `CI` is removed: in CI a skipped test of reference data would fail.
    """
    given = {name: value for name, value in os.environ.items() if name != "CI"}
    given["HYPOTHESIS_PROFILE"] = "mutation"
    given.setdefault("DRYDOCK_REFERENCE_DATA", str(root.parent / "shared" / "data"))
    return given
