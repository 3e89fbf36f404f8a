"""Runs of mutants in a copy of the tree: the working tree is never changed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.mutation.operators import Mutant
from tests.mutation.record import Record
from tests.mutation.recording import HUNG_CODE

_PYTEST: Final = ("-q", "-p", "tests.mutation.recording", "-p", "no:cacheprovider", "--no-header")
# Limits of the run without a mutant: only a test that never ends exceeds them.
_BASELINE_S: Final = 3600.0
_BASELINE_TEST_S: Final = 900
# Time for the start of Python and for collection, on a busy computer.
_START_S: Final = 60.0
# Least limit of one test. A longer test may take this multiple of its recorded time: the computer
# may be that much busier than at the record.
_TEST_S: Final = 15.0
_FACTOR: Final = 5.0
_FIRST: Final = 20


class Fate(StrEnum):
    """The outcome of the tests for one mutant."""

    KILLED = "killed"  # a test failed
    BROKEN = "broken"  # the tests could not be collected
    HUNG = "hung"  # a test did not end in time, and ends in time without the mutant
    UNCLEAR = "unclear"  # the tests do not pass in time without the mutant either: not counted
    SURVIVED = "survived"
    UNTESTED = "untested"  # no test runs the line: it counts as survived


class Tree:
    """A copy of the tree into which mutants are written."""

    def __init__(
        self, root: Path, folder: Path, *, start_s: float = _START_S, test_s: float = _TEST_S
    ) -> None:
        """Copy the files that git does not ignore; `digest` names their content.

        A mutant hangs after `test_s` in one test, or after a multiple of the test's recorded time
        if that is longer; and after `start_s` and the sum of these limits in all tests.
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
        content = hashlib.sha256()
        for name in sorted(filter(None, listed.split("\0"))):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, folder / name)
                content.update(f"{name}\0".encode() + (root / name).read_bytes())
        self.digest = content.hexdigest()

    def read(self, path: str) -> str:
        """Return the text of a file."""
        return (self._folder / path).read_text()

    def record(
        self, tests: Sequence[str], modules: Sequence[str], excluded: Sequence[str] = ()
    ) -> Record:
        """Return the lines that each test runs, and its time; from a file if it is recorded.

        Raises RuntimeError if a test fails.
        """
        asked = json.dumps([self.digest, tests, modules, excluded]).encode()
        name = f".recorded-{hashlib.sha256(asked).hexdigest()[:16]}"
        lines, seconds, report = (self._folder / f"{name}.{part}" for part in ("db", "json", "txt"))
        if not seconds.exists():
            self._run_all(tests, modules, excluded, lines, seconds, report)
        record = Record(self._folder, lines, seconds)
        if record.is_empty():
            raise RuntimeError(f"coverage recorded no line of {', '.join(modules)}")
        return record

    def _run_all(
        self,
        tests: Sequence[str],
        modules: Sequence[str],
        excluded: Sequence[str],
        lines: Path,
        seconds: Path,
        report: Path,
    ) -> None:
        """Run the tests under coverage; `seconds` exists only when all of them have passed."""
        # The settings of `make coverage` do not apply: its `source` would switch `--include` off.
        settings = self._folder / ".coverage-settings"
        settings.write_text("[run]\n")
        unfinished = seconds.with_suffix(".unfinished")
        command = ["-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={lines}"]
        command += [f"--include={','.join(modules)}", "-m", "pytest", *_PYTEST]
        command += [f"--timeout={_BASELINE_TEST_S}", f"--write-seconds={unfinished}"]
        command += [f"--deselect={each}" for each in excluded]
        with report.open("w") as output:
            code = self._python([*command, *tests], output.fileno(), _BASELINE_S, {})
        if code != 0:
            raise RuntimeError(f"the tests do not pass:\n{report.read_text()[-3000:]}")
        unfinished.rename(seconds)

    def fate(self, mutant: Mutant, record: Record) -> Fate:
        """Return the outcome of the tests that run the changed lines."""
        tests = record.tests(mutant.path, mutant.lines)
        # Python 3.11 reports no line for some awaits: run the tests of the statement around them.
        is_run = bool(tests)
        tests = tests or record.tests(mutant.path, mutant.lines_around)
        fate = Fate.UNTESTED
        # The tests that run the fewest lines kill most mutants, and pytest collects few files.
        for some in filter(None, (tests[:_FIRST], tests[_FIRST:])):
            fate = self._run_mutant(mutant, some, record)
            if fate is Fate.HUNG and self._run(some, record) is not Fate.SURVIVED:
                return Fate.UNCLEAR
            if fate is not Fate.SURVIVED:
                return fate
        return fate if is_run else Fate.UNTESTED

    def _run_mutant(self, mutant: Mutant, tests: Sequence[str], record: Record) -> Fate:
        path = self._folder / mutant.path
        original = path.read_bytes()
        self._forget_compiled(path)
        path.write_text(mutant.source())
        try:
            return self._run(tests, record)
        finally:
            path.write_bytes(original)
            self._forget_compiled(path)

    @staticmethod
    def _forget_compiled(path: Path) -> None:
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()

    def _run(self, tests: Sequence[str], record: Record) -> Fate:
        limits = record.limits(tests, _FACTOR, self._test_s)
        (self._folder / ".tests").write_text("\n".join(tests))
        (self._folder / ".limits").write_text(json.dumps(limits))
        code = self._python(
            ["-m", "pytest", *_PYTEST, "-x", "--read-limits=.limits", "@.tests"],
            subprocess.DEVNULL,
            self._start_s + sum(limits.values()),
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


def _environment(root: Path) -> dict[str, str]:
    """Return the environment of the tests.

    `CI` is removed: in CI a skipped test of reference data would fail.
    """
    given = {name: value for name, value in os.environ.items() if name != "CI"}
    given["HYPOTHESIS_PROFILE"] = "mutation"
    given.setdefault("DRYDOCK_REFERENCE_DATA", str(root.parent / "shared" / "data"))
    return given
