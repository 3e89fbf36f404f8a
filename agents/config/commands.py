"""The commands `check` and `doctor`, of `drydock-agent` and of `drydock`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.command_output import emit, fail, fail_attention

if TYPE_CHECKING:
    from agents.config.file import AgentConfigDocument

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


def check(
    file: Annotated[Path, typer.Argument(help="The configuration, a YAML file; - is stdin.")],
    strict: Annotated[bool, typer.Option(help="Exit 1 for warnings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Validate the configuration file of sites.

    Prints each problem with its line, or a summary of each site: methods, servers, secrets that can
    be used here (never their values), and the Macs that may be erased. Nothing is contacted. Exit
    0: valid; 1: invalid, a secret cannot be used, or with --strict a warning; 2: unreadable.
    """
    import json
    import os

    from agents.config.check import summary_lines, summary_row, unusable_secrets
    from agents.config.lint import lint
    from runtime.yaml_file import problem_line

    document = read_config(file, as_json=as_json)
    warnings = lint(document)
    for problem in warnings:
        emit(problem_line(file, problem, "warning", as_json=as_json))
    missing = 0
    for name, site in document.config.sites.items():
        row = summary_row(name, site, os.environ)
        missing += len(unusable_secrets(site, os.environ))
        for line in [json.dumps(row)] if as_json else summary_lines(row):
            emit(line)
    if not as_json:
        emit("every other site is in dry run")
    if missing:
        fail_attention(f"{file}: {_count(missing, 'secret')} cannot be used here")
    if warnings and strict:
        fail_attention(f"{file}: {_count(len(warnings), 'warning')}")


def doctor(
    config: Annotated[Path, typer.Option(help="The configuration of sites, a YAML file.")],
    as_json: AsJson = False,
) -> None:
    """Look for weak settings in the configuration, its secrets and its MDM servers.

    Each server gets a few requests that change nothing. A `note` is a setting that cannot be seen
    from here: check it yourself. Exit 0: no warning; 1: a warning or an error; 2: unreadable.
    """
    import json
    import os
    from datetime import UTC, datetime

    from agents.config.doctor import Level, examine

    document = read_config(config, as_json=as_json)
    bad = 0
    for found in examine(document, os.environ, lambda: datetime.now(UTC)):
        bad += found.level in (Level.WARNING, Level.ERROR)
        row = {"kind": "check", **found._asdict()}
        emit(json.dumps(row, ensure_ascii=False) if as_json else found.line())
    if bad:
        fail_attention(f"{config}: {_count(bad, 'warning or error', 'warnings or errors')}")


def read_config(file: Path, *, as_json: bool = False) -> "AgentConfigDocument":
    """Return the configuration.

    Exit 1 for an invalid file, after printing its problems; 2 for an unreadable one.
    """
    from agents.config.file import AgentConfigError, parse_agent_config
    from runtime.yaml_file import UnreadableFileError, problem_line, read_yaml_text

    try:
        return parse_agent_config(read_yaml_text(file))
    except UnreadableFileError as error:
        fail(str(error))
    except AgentConfigError as error:
        for problem in error.problems:
            emit(problem_line(file, problem, "error", as_json=as_json))
        count = _count(len(error.problems), "problem")
        fail_attention(f"{file} is not a valid configuration: {count}")


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"
