"""`drydock decide`: fold a file of events, print one decision a Mac. No broker, no data dir."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import emit, fail
from pipeline.cli.time_arguments import parse_time

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pipeline.decide.policy import Policy
    from schemas.decisions import Decision
    from schemas.envelope import Event

_MAX_BAD_LINES_SHOWN = 20
_LINES_A_STEP = 1_000


def decide(
    policy: Annotated[Path, typer.Option("--policy", help="The policy, a YAML file.")],
    events: Annotated[
        list[Path],
        typer.Option(
            "--events", help="CloudEvents, one JSON object a line; - is stdin. May be repeated."
        ),
    ],
    now: Annotated[
        str | None,
        typer.Option("--now", help="Decide as of this time, ISO 8601 with a zone; default: now."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One decision a line.")] = False,
) -> None:
    """Fold events and print one decision for each Mac, in the order of their UDIDs.

    The order of the lines and repeated lines change nothing. Policies among the events are passed
    over: --policy is the one that counts. Every Mac is looked at alone, so a site's limit on open
    jobs holds nobody back here. With a line that is no event nothing is decided (exit 2).
    """
    from pipeline.decide.batch import decide_all, fold_events

    moment = _parse_now(now)
    rules = _policy(policy)
    decisions = decide_all(
        fold_events(_read(events)), rules, moment, fast_paths=fast_paths_wanted()
    )
    if as_json:
        for decision in decisions:
            emit(decision.model_dump_json())
    else:
        _print(decisions)


def _parse_now(text: str | None) -> datetime:
    clock = datetime.now(UTC)
    try:
        return clock if text is None else parse_time(text, clock)
    except ValueError as error:
        fail(f"--now: {error}")


def _policy(path: Path) -> "Policy":
    from pipeline.decide.policy_file import PolicyError, read_policy

    try:
        return read_policy(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        fail(f"{path} is not UTF-8")
    except PolicyError as error:
        first = error.problems[0]
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        fail(f"{path}:{first.line}:{first.column}: {first.path}: {first.message}{more}")


def _read(paths: Iterable[Path]) -> "Iterator[Event]":
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
        fail(f"{bad} line{'s are' if bad > 1 else ' is'} no event; nothing was decided")


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[IO[bytes], _Advance]]":
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
    """Moves a progress bar on, but not for every line."""

    def __init__(self, bar: "Progress", task: "TaskID") -> None:
        self._bar = bar
        self._task = task
        self._lines = 0
        self._bytes = 0

    def __call__(self, size: int) -> None:
        self._lines += 1
        self._bytes += size
        if self._lines % _LINES_A_STEP == 0:
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
