"""What the commands that read the past share: opening its log, its times, progress, tables."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import fail
from pipeline.cli.time_arguments import TIME_FORMATS, parse_time

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.embedded.log import Log

DataDir = Annotated[Path, typer.Option("--data-dir", help="The service's data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
TIME_HELP = f"({TIME_FORMATS})"
# Where nobody's terminal says how wide it is, nothing is cut off.
_PAPER_WIDTH = 220


@contextmanager
def open_log(data_dir: Path) -> Iterator["Log"]:
    """The log of a data directory, read-only. Ends the command, exit 2, if it cannot be read."""
    import sqlite3

    from pipeline.embedded.log import Log, StoreError
    from pipeline.replay.log import UnreadableLog

    try:
        with Log.open(data_dir) as log:
            yield log
    except (StoreError, UnreadableLog) as error:
        fail(str(error))
    except sqlite3.Error as error:
        fail(f"cannot read {data_dir}: {error}")


def parse_option_time(option: str, text: str | None, log: "Log") -> datetime | None:
    """The time that an option gives; relative ones count from the log's end."""
    if text is None:
        return None
    try:
        return parse_time(text, log.last_at() or datetime(1970, 1, 1, tzinfo=UTC))
    except ValueError as error:
        fail(f"{option}: {error}")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where somebody looks; gives a function to tell it how far."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def console() -> "Console":
    """Stdout for tables. What Macs and feeds said is text, never markup."""
    from rich.console import Console

    found = Console(markup=False, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = _PAPER_WIDTH
    return found


def format_time(at: datetime | None) -> str:
    """A time for people, in UTC."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], title: str = "") -> None:
    """A table on stdout; nothing of it is markup."""
    from rich.table import Table

    table = Table(*columns, box=None, title=title or None, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console().print(table)
