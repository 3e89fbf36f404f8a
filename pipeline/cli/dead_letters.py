"""`drydock dead-letters`: what could not be used, why, and another try."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.log_options import format_time, open_log, print_table
from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, DataDir, send_request

app = typer.Typer(
    help="What could not be used, why, and another try.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Seq = Annotated[int, typer.Argument(help="Its number in the list.", min=1)]


@app.command("list")
def list_letters(
    data_dir: DataDir,
    code: Annotated[str | None, typer.Option(help="Only those with this code.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those replayed since, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what was set aside, oldest first."""
    from schemas.dead_letters import DeadLetterCode

    if code is not None and code not in set(DeadLetterCode):
        fail(f"no code {code!r}; there are {', '.join(DeadLetterCode)}")
    with open_log(data_dir) as log:
        letters = [
            (one, json.loads(one.body))
            for one in log.dead_letters(open_only=not everything)
            if code is None or one.code == code
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
    data_dir: DataDir,
    raw: Annotated[bool, typer.Option("--raw", help="Print the kept bytes and no more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one with its bytes, secrets cut out."""
    import base64
    import sys

    with open_log(data_dir) as log:
        letters = log.dead_letters(seq=seq)
    if not letters:
        fail(f"there is no dead letter {seq}")
    fields: dict[str, Any] = json.loads(letters[0].body)
    kept = fields.pop("raw", None)
    if raw:
        if kept is None:
            fail("its bytes were not kept")
        sys.stdout.buffer.write(base64.b64decode(kept))
        return
    if as_json:
        emit(json.dumps({"seq": seq, **fields, "raw": kept}))
        return
    for name, value in fields.items():
        emit(f"{name}: {value}")
    if kept is not None:
        emit("")
        emit(_harmless(base64.b64decode(kept).decode("utf-8", "backslashreplace")))


@app.command()
def replay(
    data_dir: DataDir,
    seqs: Annotated[
        list[int] | None, typer.Argument(help="Their numbers; none: all.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Translate dead letters again, after what failed on them was mended.

    Exit 1 if one of them still cannot be used.
    """
    with open_log(data_dir) as log:
        wanted = seqs or [one.seq for one in log.dead_letters(open_only=True)]
    failed = 0
    for seq in wanted:
        failed += not _replay(data_dir, seq, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _replay(data_dir: Path, seq: int, *, as_json: bool) -> bool:
    from pipeline.embedded.operator_requests import replay as order

    response = send_request(
        data_dir, "POST", f"/v1/dead-letters/{seq}/replay", order(seq, _redactor(data_dir)),
        refusable=True,
    )  # fmt: skip
    refused = response.get("error")
    if as_json:
        emit(json.dumps({"seq": seq, "replayed": refused is None, **response}))
    else:
        emit(f"{seq}: {refused or str(response['events']) + ' events'}")
    return refused is None


def _redactor(data_dir: Path) -> Any:
    from pipeline.embedded.server import REDACTION_KEY
    from pipeline.ingest.redaction import Redactor

    try:
        return Redactor((data_dir / "keys" / REDACTION_KEY).read_bytes())
    except (OSError, ValueError) as error:
        fail(f"cannot read the redaction key of {data_dir}: {error}")


def _harmless(text: str) -> str:
    """Foreign text for a terminal: what could steer it is spelled out."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\x{ord(character):02x}"
        for character in text
    )


def _location(fields: dict[str, Any]) -> str:
    return " ".join(part for part in (fields.get("origin"), fields.get("where")) if part)
