"""`drydock decide`: fold files of events and print one decision per Mac. No broker, no state."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.event_files import read_events
from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import emit, fail, note
from pipeline.cli.time_arguments import parse_time

if TYPE_CHECKING:
    from pipeline.policy.model import Policy
    from schemas.decisions import Decision
    from schemas.envelope import Event


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
        fold_events(_until(moment, read_events(events))),
        rules,
        moment,
        fast_paths=fast_paths_wanted(),
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
    """Yield the events that are known at `now`; the number of the others goes to stderr."""
    from pipeline.decide.batch import is_known_at

    left_out = 0
    for event in events:
        if is_known_at(event, now):
            yield event
        else:
            left_out += 1
    if left_out:
        note(f"{left_out} events are dated after the time of the decision")


def _print(decisions: "Iterable[Decision]") -> None:
    from rich.table import Table

    from pipeline.cli.printable_console import printable_console

    console = printable_console()
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
