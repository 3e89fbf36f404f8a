"""`drydock devices|jobs|approvals|halts|findings list`: rows, selected by options."""

import csv
import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipeline.cli.log_options import TIME_HELP, parse_option_time, print_table
from pipeline.cli.output import OutputEnded, emit, end_output, fail
from pipeline.cli.readings import ReadDir, Server, TokenFile, open_readings

if TYPE_CHECKING:
    from pipeline.embedded.list_selection import ListName, Selection
    from pipeline.embedded.lists import Row


class Format(StrEnum):
    """The form of a list: a table, one JSON array, one JSON object a line, or CSV with a header."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


Output = Annotated[Format, typer.Option("-o", "--output", help="The form of the list.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only so many rows.")]
Watch = Annotated[
    float | None,
    typer.Option(
        "--watch",
        min=0.1,
        metavar="SECONDS",
        help="Read again every so many seconds, and print rows that are new or changed.",
    ),
]
SiteName = Annotated[str | None, typer.Option("--site", help="Only of this site.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Only these Macs: UDID, serial number or host name.", metavar="[MAC]..."),
]

jobs = typer.Typer(help="List jobs.", no_args_is_help=True, rich_markup_mode=None)
approvals = typer.Typer(help="List approvals.", no_args_is_help=True, rich_markup_mode=None)
halts = typer.Typer(help="List halts.", no_args_is_help=True, rich_markup_mode=None)
findings = typer.Typer(help="List findings.", no_args_is_help=True, rich_markup_mode=None)
_GROUPS = (jobs, approvals, halts, findings)


def _group() -> None:
    """Keep `list` a subcommand: Typer runs the only command of a group without its name."""


for _app in _GROUPS:
    _app.callback()(_group)


def list_devices(  # noqa: PLR0913, PLR0917 - a command's options
    data_dir: ReadDir = None,
    macs: Names = None,
    site: SiteName = None,
    decision: Annotated[str | None, typer.Option(help="Only with this verdict.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only decided for this reason.")] = None,
    severity: Annotated[str | None, typer.Option(help="Only with this worst exposure.")] = None,
    limit: Limit = None,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="UDID", help="The next page: only Macs after the last one of --limit."
        ),
    ] = None,
    output: Output = Format.TABLE,
    watch: Watch = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List the Macs with their last decision, by UDID.

    Exit 2 for a name that no Mac has; a similar one is suggested.
    """
    from pipeline.embedded.list_selection import ListName, Selection
    from schemas.decisions import Reason, Severity, Verdict

    wanted = {
        "decision": _one_of("--decision", decision, Verdict),
        "reason": _one_of("--reason", reason, Reason),
        "severity": _one_of("--severity", severity, Severity),
    }
    selection = Selection(wanted, site, macs or (), limit=limit, after=after)
    source = _Source(data_dir, server, token_file)
    _show(source, ListName.DEVICES, selection, output, watch)


@jobs.command("list")
def list_jobs(  # noqa: PLR0913, PLR0917 - a command's options
    data_dir: ReadDir = None,
    macs: Names = None,
    site: SiteName = None,
    action: Annotated[str | None, typer.Option(help="Only with this action.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only with this outcome; or open.")] = None,
    error: Annotated[str | None, typer.Option(help="Only with this error code.")] = None,
    since: Annotated[str | None, typer.Option(help=f"Only issued since T {TIME_HELP}.")] = None,
    limit: Limit = None,
    output: Output = Format.TABLE,
    watch: Watch = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List the jobs that are kept for each Mac, the newest first."""
    from pipeline.embedded.list_selection import ListName, Selection
    from pipeline.embedded.lists import OPEN
    from schemas.jobs import Action
    from schemas.results import ErrorCode, Outcome

    wanted = {
        "action": _one_of("--action", action, Action),
        "outcome": _one_of("--outcome", outcome, (*Outcome, OPEN)),
        "error": _one_of("--error", error, ErrorCode),
    }
    source = _Source(data_dir, server, token_file)
    selection = Selection(wanted, site, macs or (), source.time("--since", since), limit)
    _show(source, ListName.JOBS, selection, output, watch)


@approvals.command("list")
def list_approvals(
    data_dir: ReadDir = None,
    site: SiteName = None,
    limit: Limit = None,
    output: Output = Format.TABLE,
    watch: Watch = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List the Macs that wait for an approval, then the approvals in force."""
    from pipeline.embedded.list_selection import ListName, Selection

    selection = Selection(site=site, limit=limit)
    source = _Source(data_dir, server, token_file)
    _show(source, ListName.APPROVALS, selection, output, watch)


@halts.command("list")
def list_halts(
    data_dir: ReadDir = None,
    output: Output = Format.TABLE,
    watch: Watch = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List the halts in force, with author and reason."""
    from pipeline.embedded.list_selection import ListName, Selection

    source = _Source(data_dir, server, token_file)
    _show(source, ListName.HALTS, Selection(), output, watch)


@findings.command("list")
def list_findings(  # noqa: PLR0913, PLR0917 - a command's options
    data_dir: ReadDir = None,
    macs: Names = None,
    site: SiteName = None,
    code: Annotated[str | None, typer.Option(help="Only with this code.")] = None,
    limit: Limit = None,
    output: Output = Format.TABLE,
    watch: Watch = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List the findings of the Macs, by code."""
    from pipeline.embedded.list_selection import ListName, Selection
    from schemas.findings import FindingCode

    wanted = {"finding": _one_of("--code", code, FindingCode)}
    selection = Selection(wanted, site, macs or (), limit=limit)
    source = _Source(data_dir, server, token_file)
    _show(source, ListName.FINDINGS, selection, output, watch)


def _one_of(option: str, text: str | None, values: Iterable[Any]) -> str | None:
    """Return the value of an option that has one of these values. Exit 2 for another one."""
    from pipeline.embedded.mac_names import suggestion

    if text is None:
        return None
    known = [str(one) for one in values]
    if text not in known:
        hint = suggestion(text, known) or f"; one of: {', '.join(known)}"
        fail(f"{option}: no {text!r}{hint}")
    return text


class _Source(NamedTuple):
    """The options that name a data directory or a service; each call reads it anew."""

    data_dir: Path | None
    server: str | None
    token_file: Path | None

    def time(self, option: str, text: str | None) -> datetime | None:
        with open_readings(*self) as readings:
            return parse_option_time(option, text, readings)

    def rows(self, name: "ListName", selection: "Selection") -> "list[Row]":
        with open_readings(*self) as readings:
            return readings.rows(name, selection)


def _show(
    source: "_Source",
    name: "ListName",
    selection: "Selection",
    output: Format,
    watch: float | None,
) -> None:
    """Print the rows of a list on stdout; a reader that ends early, such as `head`, is no error.

    With `watch` it goes on: every so many seconds it prints the rows that are new or changed.
    """
    if watch is not None and output is Format.JSON:
        fail("--watch prints rows one after another: give -o jsonl, csv or table")
    shown = source.rows(name, selection)
    try:
        _print(name, shown, output)
        while watch is not None:
            time.sleep(watch)
            rows = source.rows(name, selection)
            changed = changed_rows(shown, rows)
            if changed:
                _print(name, changed, output, is_first=False)
            shown = rows
    except OutputEnded:
        return


def changed_rows(before: "Iterable[Row]", after: "Iterable[Row]") -> "list[Row]":
    """Return the rows of `after` that `before` has not, in their order."""
    known = {json.dumps(row) for row in before}
    return [row for row in after if json.dumps(row) not in known]


def _print(
    name: "ListName", rows: Iterable["Row"], output: Format, *, is_first: bool = True
) -> None:
    """Print rows of a list. Raises OutputEnded if the reader has ended."""
    try:
        _write(name, rows, output, is_first=is_first)
        sys.stdout.flush()
    except BrokenPipeError:
        end_output()


def _write(name: "ListName", rows: Iterable["Row"], output: Format, *, is_first: bool) -> None:
    from pipeline.embedded.list_selection import COLUMNS

    columns = COLUMNS[name]
    if output is Format.TABLE:
        print_table(columns, [tuple(map(_cell, columns, repeat(row))) for row in rows])
    elif output is Format.JSON:
        emit(json.dumps(list(rows)))
    elif output is Format.JSONL:
        for row in rows:
            emit(json.dumps(row))
    else:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        if is_first:
            writer.writeheader()
        writer.writerows({name: _plain(row[name]) for name in columns} for row in rows)


def _cell(column: str, row: "Row") -> str:
    value = row[column]
    return "" if value is None else str(value)


def _plain(value: str | int | None) -> str | int | None:
    """Return a value that a spreadsheet does not read as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
