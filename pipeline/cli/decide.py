"""`drydock decide`: fold files of events and print one decision per Mac. No broker, no state."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import emit, fail
from pipeline.cli.time_arguments import parse_time

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pipeline.policy.model import Policy
    from schemas.decisions import Decision
    from schemas.envelope import Event

_MAX_BAD_LINES_SHOWN = 20
_LINES_PER_STEP = 1_000
_CLOCK_MARGIN = timedelta(minutes=5)


def decide(
    policy: Annotated[Path, typer.Option("--policy", help="The policy, a YAML file.")],
    events: Annotated[
        list[Path],
        typer.Option(
            "--events", help="CloudEvents, one JSON object per line; - is stdin. Repeatable."
        ),
    ],
    now: Annotated[
        str | None,
        typer.Option("--now", help="Decide as of this time: ISO 8601 with a zone; default: now."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one decision per line.")
    ] = False,
) -> None:
    """Fold files of events and print one decision per Mac.

    Decisions come in the order of UDIDs. The order of events and repeats do not matter. Policies
    among the events are ignored: --policy is in force. Each Mac is decided for alone, so the limit
    on a site's open jobs holds no Mac here. Events dated after the time of the decision are left
    out, and counted on stderr. If a line is not an event, nothing is decided (exit 2).
    """
    from pipeline.decide.batch import decide_all, fold_events

    moment = _parse_now(now)
    rules = _policy(policy)
    decisions = decide_all(
        fold_events(_until(moment, _read(events))), rules, moment, fast_paths=fast_paths_wanted()
    )
    if as_json:
        for decision in decisions:
            emit(decision.model_dump_json())
    else:
        _print(decisions)


def _parse_now(text: str | None) -> datetime:
    """Return the time of --now; the current time if it is not given. Exit 2 if it is invalid."""
    clock = datetime.now(UTC)
    try:
        return clock if text is None else parse_time(text, clock)
    except ValueError as error:
        fail(f"--now: {error}")


def _policy(path: Path) -> "Policy":
    """Return the policy of a file. Exit 2 if it is unreadable or invalid."""
    from pipeline.policy.file import PolicyError, read_policy

    try:
        return read_policy(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        fail(f"{path} is not UTF-8 text")
    except PolicyError as error:
        first = error.problems[0]
        count = len(error.problems) - 1
        more = f" (and {count} more: run `drydock policy check`)" if count else ""
        fail(f"{path}:{first.line}:{first.column}: {first.path}: {first.message}{more}")


def _until(now: datetime, events: "Iterable[Event]") -> "Iterator[Event]":
    """Yield the events that are not dated after `now`, and a few minutes of clocks that are ahead.

    A later time is not yet known at `now`, or is that of a wrong clock: it would win until then.
    """
    left_out = 0
    for event in events:
        if event.time > now + _CLOCK_MARGIN:
            left_out += 1
        else:
            yield event
    if left_out:
        sys.stderr.write(f"drydock: {left_out} events are dated after the time of the decision\n")


def _read(paths: Iterable[Path]) -> "Iterator[Event]":
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
                        sys.stderr.write(f"{path}:{number}: {error}\n")
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
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
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


def _print(decisions: "Iterable[Decision]") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table()
    for column in ("Mac", "site", "decision", "action", "method", "target", "reason", "deadline"):
        table.add_column(column)
    reasons: Counter[tuple[str, str]] = Counter()
    for one in decisions:
        reasons[one.decision.value, one.reason.value] += 1
        table.add_row(
            one.serial or one.udid,
            one.site or "",
            one.decision.value,
            one.action or "",
            one.method or "",
            str(one.target.version) if one.target else "",
            one.reason.value,
            f"{one.deadline_at:%Y-%m-%d %H:%M}" if one.deadline_at else "",
        )
    console.print(table)
    for (verdict, reason), count in sorted(reasons.items()):
        console.print(f"{count:>7} {verdict} {reason}")
