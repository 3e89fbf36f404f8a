"""Files of events: CloudEvents, one JSON object on each line."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pipeline.cli.output import fail
from runtime.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from schemas.envelope import Event

_MAX_BAD_LINES_SHOWN: Final = 20
_LINES_PER_STEP: Final = 1_000


def read_events(paths: Iterable[Path]) -> "Iterator[Event]":
    """Yield the events of all files in order, then exit 2 if any line was not an event.

    The first 20 such lines are printed on stderr. Blank lines are skipped; a line that is too large
    ends its file. Exit 2 at once if a file cannot be read.
    """
    from schemas.envelope import MAX_EVENT_BYTES, InvalidEvent, decode

    bad = 0
    for path in paths:
        with _opened(path) as (stream, advance):
            number = 0
            while line := stream.readline(MAX_EVENT_BYTES + 2):
                number += 1
                advance(len(line))
                if not line.strip():
                    continue
                try:
                    yield decode(line)
                except InvalidEvent as error:
                    bad += 1
                    if bad <= _MAX_BAD_LINES_SHOWN:
                        sys.stderr.write(printable(f"{path}:{number}: {error}") + "\n")
                    if error.code == "too_large":
                        break
    if bad:
        fail(f"lines that are not events: {bad}; nothing was decided: correct or remove them")


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[IO[bytes], _Advance]]":
    """Yield the open stream of a file or of stdin, and a function to call with each line's size.

    Exit 2 if the file cannot be read. The function advances a progress bar, if stderr is a
    terminal.
    """
    from rich.progress import Progress

    from pipeline.cli.printable_console import printable_console

    console = printable_console(stderr=True)
    try:
        stream = sys.stdin.buffer if str(path) == "-" else path.open("rb")
        size = None if str(path) == "-" else path.stat().st_size
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    with stream, Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        advance = _Advance(bar, bar.add_task(f"reading {path.name}", total=size))
        try:
            yield stream, advance
        except OSError as error:
            fail(f"cannot read {path}: {error.strerror}")


class _Advance:
    """Advances a progress bar, once per 1,000 lines."""

    def __init__(self, bar: "Progress", task: "TaskID") -> None:
        self._bar = bar
        self._task = task
        self._lines = 0
        self._bytes = 0

    def __call__(self, size: int) -> None:
        self._lines += 1
        self._bytes += size
        if self._lines % _LINES_PER_STEP == 0:
            self._bar.update(self._task, completed=self._bytes)
