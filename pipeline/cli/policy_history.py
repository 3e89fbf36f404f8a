"""`drydock policy show`, `history` and `diff`: the policies of a fleet, past and present."""

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.log_options import (
    TIME_HELP,
    AsJson,
    format_time,
    parse_option_time,
    print_table,
)
from pipeline.cli.output import emit, fail
from pipeline.cli.readings import ReadDir, Server, TokenFile, open_readings

if TYPE_CHECKING:
    from pipeline.replay.operator_steps import PutInForce

_SHORTEST_DIGEST = 4


def _row(policy: "PutInForce") -> dict[str, str | int | None]:
    """Return everything but the text, as JSON values."""
    return {
        "entry": policy.seq,
        "at": policy.at.isoformat(),
        "digest": policy.digest,
        "by": policy.by,
        "why": policy.why,
    }


def show(
    data_dir: ReadDir = None,
    at: Annotated[str | None, typer.Option("--at", help=f"In force at T {TIME_HELP}.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the policy in force, with its author and reason, now or at a past time.

    The text is printed as it was given; author, time and digest are comments before it. Exit 2 if
    none was in force.
    """
    with open_readings(data_dir, server, token_file) as readings:
        until = parse_option_time("--at", at, readings)
        found = [one for one in readings.policies() if until is None or one.at <= until]
    if not found:
        fail("no policy was in force" if at else "no policy is in force")
    policy = found[-1]
    if as_json:
        emit(json.dumps(_row(policy) | {"text": policy.text}, ensure_ascii=False))
        return
    emit(f"# digest {policy.digest}")
    emit(f"# in force since {format_time(policy.at)}, by {policy.by}: {policy.why or 'no reason'}")
    emit(policy.text.rstrip("\n"))


def history(
    data_dir: ReadDir = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the policies that were put in force, oldest first, with author and reason.

    The log of `drydock query` has those since its start: `--keep-days`, and the one in force then.
    """
    with open_readings(data_dir, server, token_file) as readings:
        found = readings.policies()
    if as_json:
        for one in found:
            emit(json.dumps(_row(one), ensure_ascii=False))
        return
    rows = [
        (str(one.seq), format_time(one.at), one.digest[:12], one.by, one.why or "") for one in found
    ]
    print_table(("entry", "in force since", "digest", "by", "why"), rows)


def diff(
    before: Annotated[str, typer.Argument(help="A digest, its beginning, or a policy file.")],
    after: Annotated[
        str | None, typer.Argument(help="The same; default: the policy in force.")
    ] = None,
    data_dir: ReadDir = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Print the difference between two policies, as lines of a unified diff.

    Exit 0, also if they are equal; 2 if one is not known.
    """
    known: list[PutInForce] = []
    # DRYDOCK_SERVER is not asked about two files.
    names = [before] if after is None else [before, after]
    has_source = data_dir is not None or server is not None
    if has_source and (after is None or any(map(_can_be_a_digest, names))):
        with open_readings(data_dir, server, token_file) as readings:
            known = readings.policies()
    if after is None and not known:
        fail("name two policies, or --data-dir or --server with a policy in force")
    old = _text_of(before, known).splitlines()
    new = (known[-1].text if after is None else _text_of(after, known)).splitlines()
    for line in difflib.unified_diff(old, new, before, after or "in force", lineterm=""):
        emit(line)


def _can_be_a_digest(name: str) -> bool:
    return len(name) >= _SHORTEST_DIGEST and not set(name.lower()) - set("0123456789abcdef")


def _text_of(name: str, known: "list[PutInForce]") -> str:
    """Return the text of a policy by its digest, the beginning of that, or a file. Exit 2 if none.

    A digest of the log is meant before a file of the same name.
    """
    found = {
        one.digest: one.text
        for one in known
        if _can_be_a_digest(name) and one.digest.startswith(name.lower())
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if len(found) > 1:
        fail(f"{len(found)} policies have a digest that begins with {name}: give more of it")
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        fail(f"no policy {name}: `drydock policy history` lists those of the log")
