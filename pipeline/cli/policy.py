"""`drydock policy`: validate and test a policy file, and put it in force on Kafka."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.halt_switch import Bootstrap, KeysDir
from pipeline.cli.output import emit, fail, fail_attention
from pipeline.cli.policy_history import diff, history, show
from pipeline.cli.service_client import AsJson, By

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.policy.file import PolicyDocument
    from pipeline.policy.model import Window

app = typer.Typer(help="Validate and test a policy, and put it in force.", no_args_is_help=True)

PolicyFile = Annotated[Path, typer.Argument(help="The policy, a YAML file; - is stdin.")]


@app.callback()
def _root() -> None:
    """Validate and test a policy, and put it in force."""


@app.command()
def check(
    file: PolicyFile,
    strict: Annotated[bool, typer.Option(help="Exit 1 for warnings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Validate a policy file.

    Prints each problem with its line, or a summary of the policy.
    Exit 0: valid; 1: invalid, or with --strict a warning; 2: unreadable.
    """
    _, document, warnings = _validated(file, as_json=as_json)
    if as_json:
        _summary_json(file, document, warnings)
    else:
        _summary(document)
    if warnings and strict:
        fail_attention(f"{file}: {warnings} warning{'s' if warnings > 1 else ''}")


@app.command("test")
def compare_with_examples(
    files: Annotated[
        list[Path], typer.Argument(help="Files of examples, in YAML.", metavar="FILE...")
    ],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="The policy to test; default: the one that FILE names."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test a policy with examples: a Mac, its fields, and the decision that you expect.

    Prints each difference with its line. With --json each example is one object. Exit 0: all
    decisions are as expected; 1: some differ; 2: a file is unreadable or invalid.
    """
    from pipeline.cli.policy_examples import compare_examples, print_compared

    differing = total = 0
    for file in files:
        for one in compare_examples(file, policy, as_json=as_json):
            total += 1
            differing += bool(one.differences)
            print_compared(file, one, as_json=as_json)
    if differing:
        fail_attention(f"{differing} of {total} examples differ")
    if not as_json:
        emit(f"{total} example{'s' if total > 1 else ''}: every decision is as expected")


@app.command()
def publish(
    file: PolicyFile,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    why: Annotated[str | None, typer.Option(help="The reason, for people.")] = None,
    by: By = "unknown",
    wait_s: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Seconds to retry while Kafka or its topics are away."),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Put a policy in force for a fleet on Kafka.

    Every worker then decides again. A policy that is in force already, signed by the present key,
    is not published again. Exit 0: it is in force; 1: invalid; 2: unreadable, or Kafka did not
    confirm it.
    """
    import json

    from pydantic import ValidationError

    from pipeline.cli.control_topic import FAULTS, open_fleet, unconfirmed
    from pipeline.cli.policy_publication import put_in_force
    from schemas.events.control import PolicyChanged

    text, document, _ = _validated(file, as_json=as_json)
    fleet = open_fleet(bootstrap, keys)
    try:
        wanted = PolicyChanged(digest=document.digest, text=text, by=by, why=why)
    except ValidationError as error:
        fail(f"--by and --why: {error.errors()[0]['msg']}")
    try:
        done = put_in_force(fleet, wanted, wait_s)
    except FAULTS as error:
        fail(unconfirmed(fleet.settings, error))
    result = "unchanged" if done.event is None else "in force"
    if as_json:
        row = {"kind": result, "file": str(file), "digest": document.digest}
        emit(json.dumps(row | {"previous": done.previous}, ensure_ascii=False))
    else:
        emit(f"{result}: digest {document.digest}")


app.command()(show)
app.command()(history)
app.command()(diff)


def _validated(file: Path, *, as_json: bool) -> "tuple[str, PolicyDocument, int]":
    """Return the file's text, its policy, and the number of warnings, after printing the problems.

    Exit 1 for an invalid policy, 2 for an unreadable file.
    """
    from datetime import UTC, datetime

    from pipeline.policy.file import PolicyError, read_document
    from pipeline.policy.lint import lint
    from runtime.yaml_file import UnreadableFileError, problem_line, read_yaml_text

    try:
        text = read_yaml_text(file)
    except UnreadableFileError as error:
        fail(str(error))
    try:
        document = read_document(text)
    except PolicyError as error:
        for problem in error.problems:
            emit(problem_line(file, problem, "error", as_json=as_json))
        count = len(error.problems)
        fail_attention(f"{file} is not a valid policy: {count} problem{'s' if count > 1 else ''}")
    warnings = lint(document, datetime.now(UTC).date())
    for problem in warnings:
        emit(problem_line(file, problem, "warning", as_json=as_json))
    return text, document, len(warnings)


def _summary_json(file: Path, document: "PolicyDocument", warnings: int) -> None:
    import json

    policy: dict[str, Any] = document.policy.model_dump(mode="json", by_alias=True)
    row = {
        "kind": "valid",
        "file": str(file),
        "digest": document.digest,
        "warnings": warnings,
        "policy": policy,
    }
    emit(json.dumps(row, ensure_ascii=False))


def _summary(document: "PolicyDocument") -> None:
    from rich.table import Table

    from pipeline.cli.printable_console import printable_console

    policy = document.policy
    out = printable_console()
    sites = Table(box=None)
    for heading in ("site", "time zone", "Macs", "open", "jobs", "uplink"):
        sites.add_column(heading, overflow="fold")
    for name, site in policy.sites.items():
        macs = [glob for _, globs in site.match for glob in globs]
        macs += ["all others"] if name == policy.default_site else []
        windows = [_window(one) for one in policy.windows_of(name)]
        uplink = f"{site.uplink_mbps:g} Mbit/s" + ("\ncache" if site.cache else "")
        sites.add_row(
            name,
            site.time_zone,
            "\n".join(macs) or "named by events",
            "\n".join(windows) or "never",
            str(site.max_jobs),
            uplink,
        )
    out.print(sites)
    times = Table("severity", "sent after", "forced after", box=None)
    for severity in type(policy.deadlines).model_fields:
        if severity in type(policy.deferrals).model_fields:
            waits, due = getattr(policy.deferrals, severity), getattr(policy.deadlines, severity)
            times.add_row(severity, _span(waits), _span(due))
    out.print()
    out.print(times)
    out.print()
    emit(f"valid; exemptions: {len(policy.exemptions)}; digest {document.digest}")


def _window(window: "Window") -> str:
    """Return a window as text: `mon-fri 19:00-06:00`, `every day`."""
    from pipeline.policy.model import DAYS

    runs: list[list[str]] = []
    for index, day in enumerate(DAYS):
        if day in window.days:
            if index and DAYS[index - 1] in window.days:
                runs[-1].append(day)
            else:
                runs.append([day])
    days = " ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    days = "every day" if len(set(window.days)) == len(DAYS) else days
    if window.start == window.end == "00:00":
        return days
    return f"{days} {window.start}-{window.end}"


def _span(span: "timedelta") -> str:
    """Return a duration as text, in days or hours: `2 d`, `36 h`; `at once` for none."""
    if not span:
        return "at once"
    hours = span.total_seconds() / 3600
    return f"{hours / 24:g} d" if hours % 24 == 0 else f"{hours:g} h"
