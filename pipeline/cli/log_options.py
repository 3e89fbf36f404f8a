"""Shared by the commands that read a log: options, opening the log, times, progress, tables."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from pipeline.cli.output import fail
from pipeline.cli.time_arguments import TIME_FORMATS, parse_time

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.embedded.log import Log

DataDir = Annotated[Path, typer.Option("--data-dir", help="The service's data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
TIME_HELP = f"({TIME_FORMATS})"
# The width if stdout is not a terminal: wide enough that rich cuts no cell.
_PAPER_WIDTH = 220


@contextmanager
def open_log(data_dir: Path) -> Iterator["Log"]:
    """Yield the log of a data directory, open to read only.

    Exit 2 if it cannot be read, at the start or in the `with` block.
    """
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


class HasLastTime(Protocol):
    """A log or its readings."""

    def last_at(self) -> datetime | None:
        """Return the latest time of an entry; None without one."""


def parse_option_time(option: str, text: str | None, log: HasLastTime) -> datetime | None:
    """Return the time of an option; None if the option is not given.

    A relative time counts back from the log's last entry. Exit 2, with the name of `option`, for an
    invalid text.
    """
    if text is None:
        return None
    try:
        return parse_time(text, log.last_at() or datetime(1970, 1, 1, tzinfo=UTC))
    except ValueError as error:
        fail(f"{option}: {error}")


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that sets the position of a progress bar, up to `total` if that is known.

    The bar has the label `what` and is on stderr; it is hidden if stderr is no terminal.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def console() -> "Console":
    """Return a console on stdout that prints text of Macs and feeds without reading markup."""
    from pipeline.cli.printable_console import printable_console

    found = printable_console()
    if not found.is_terminal:
        found.width = _PAPER_WIDTH
    return found


def format_time(at: datetime | None) -> str:
    """Return a time as text, in UTC; empty for None."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], title: str = "") -> None:
    """Print a table on stdout; no cell is read as markup."""
    from rich.table import Table

    table = Table(*columns, box=None, title=title or None, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console().print(table)
