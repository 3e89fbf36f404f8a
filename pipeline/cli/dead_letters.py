"""`drydock dead-letters`: list, show and replay inputs that could not be used."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.log_options import format_time, open_log, print_table
from pipeline.cli.output import emit, end_output, fail
from pipeline.cli.readings import ReadDir, Server, TokenFile, open_readings
from pipeline.cli.sender_options import Senders
from pipeline.cli.service_client import AsJson, DataDir, send_request
from runtime.printable import printable

app = typer.Typer(
    help="List, show and replay inputs that could not be used.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Seq = Annotated[int, typer.Argument(help="The number of the dead letter, from `list`.", min=1)]


@app.command("list")
def list_letters(
    data_dir: ReadDir = None,
    code: Annotated[str | None, typer.Option(help="Only dead letters with this code.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Include replayed ones.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the dead letters, oldest first."""
    from schemas.dead_letters import DeadLetterCode

    if code is not None and code not in set(DeadLetterCode):
        fail(f"unknown code {code!r}; one of: {', '.join(DeadLetterCode)}")
    with open_readings(data_dir, server, token_file) as readings:
        letters = [
            (one, json.loads(one.body))
            for one in readings.dead_letters(open_only=not everything, code=code, limit=limit)
        ]
    if as_json:
        for one, fields in letters:
            fields.pop("raw", None)
            replayed_at = None if one.replayed_at is None else one.replayed_at.isoformat()
            emit(json.dumps({"seq": one.seq, "replayed_at": replayed_at, **fields}))
        return
    rows = [
        (
            str(one.seq),
            format_time(one.at),
            one.code,
            one.source,
            _location(letter),
            letter["detail"],
        )
        for one, letter in letters
    ]
    if rows:
        print_table(("seq", "at", "code", "source", "where", "detail"), rows)
    else:
        emit("there are no dead letters")


@app.command()
def show(
    seq: Seq,
    data_dir: ReadDir = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print only the stored bytes.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its bytes; secrets are redacted."""
    import base64
    import sys

    with open_readings(data_dir, server, token_file) as readings:
        letters = readings.dead_letters(seq=seq)
    if not letters:
        fail(f"there is no dead letter {seq}: `drydock dead-letters list --all` has the numbers")
    fields: dict[str, Any] = json.loads(letters[0].body)
    kept = fields.pop("raw", None)
    if raw:
        if kept is None:
            fail(f"the bytes of dead letter {seq} were not kept")
        try:
            sys.stdout.buffer.write(base64.b64decode(kept))
        except BrokenPipeError:
            end_output()
        return
    if as_json:
        emit(json.dumps({"seq": seq, **fields, "raw": kept}))
        return
    for name, value in fields.items():
        emit(f"{name}: {value}")
    if kept is not None:
        emit("")
        emit(printable(base64.b64decode(kept).decode("utf-8", "backslashreplace")))


@app.command()
def replay(
    data_dir: DataDir,
    seqs: Annotated[
        list[int] | None,
        typer.Argument(help="Numbers from `list`; default: all not yet replayed.", min=1),
    ] = None,
    senders: Senders = None,
    as_json: AsJson = False,
) -> None:
    """Translate dead letters again, after their cause is fixed.

    Exit 1 if one of them still cannot be used.
    """
    with open_log(data_dir) as log:
        wanted = seqs or [one.seq for one in log.dead_letters(open_only=True)]
    failed = 0
    for seq in wanted:
        failed += not _replay(data_dir, seq, senders, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _replay(data_dir: Path, seq: int, senders: Path | None, *, as_json: bool) -> bool:
    """Return True if the dead letter was replayed, False if it was refused; print the result.

    Exit 2 if the service or the data directory cannot be used.
    """
    from pipeline.config import SenderSettings
    from pipeline.embedded.operator_requests import replay as replay_request
    from pipeline.gateway.senders_file import open_logins
    from runtime.logs import make_log

    logins = open_logins(senders, SenderSettings(), make_log())()
    request = replay_request(seq, _redactor(data_dir), logins.sender)
    path = f"/v1/dead-letters/{seq}/replay"
    response = send_request(data_dir, "POST", path, request, refusable=True)
    refused = response.get("error")
    if as_json:
        emit(json.dumps({"seq": seq, "replayed": refused is None, **response}))
    else:
        emit(refused or f"dead letter {seq}: replayed as {response['events']} events")
    return refused is None


def _redactor(data_dir: Path) -> Any:
    """Return the redactor of the service. Exit 2 if its key cannot be read."""
    from pipeline.gateway.secret_file import REDACTION_KEY
    from pipeline.ingest.redaction import Redactor

    try:
        return Redactor((data_dir / "keys" / REDACTION_KEY).read_bytes())
    except (OSError, ValueError) as error:
        fail(f"cannot read the redaction key of {data_dir}: {error}")


def _location(fields: dict[str, Any]) -> str:
    """Return the origin of the input and the path in it, as far as they are known."""
    return " ".join(part for part in (fields.get("origin"), fields.get("where")) if part)
