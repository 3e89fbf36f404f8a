"""The commands `check`, `try` and `doctor`, of `drydock-agent` and of `drydock`."""

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

    Prints each problem with its line, or a summary of each site: methods, servers, images, the
    cache of installers, secrets that can be used here (never their values), and the Macs that may
    be erased. Nothing is contacted. Exit 0: valid; 1: invalid, a secret cannot be used, or with
    --strict a warning; 2: unreadable.
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


def try_mac(
    serial: Annotated[str, typer.Argument(help="The serial number of the Mac.")],
    config: Annotated[Path, typer.Option(help="The configuration of sites, a YAML file.")],
    site: Annotated[str | None, typer.Option(help="The site; default: the only one.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the outputs of its tools here, without names and numbers."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read the state of one Mac over SSH, as before an order. Changes nothing on it.

    Exit 0: it responded; 1: it did not, or another Mac did; 2: unreadable configuration, no SSH.
    """
    import json

    from agents.config.try_mac import OtherMacError, read_mac
    from agents.mac import UnreachableError
    from agents.ssh.facts_table import facts_table, redacted
    from agents.ssh.report import UnreadableReportError

    sites = read_config(config, as_json=as_json).config.sites
    chosen = sites.get(site) if site else next(iter(sites.values())) if len(sites) == 1 else None
    if chosen is None or chosen.ssh is None:
        fail(f"{config}: choose a site that has `ssh` with --site: {', '.join(sites)}")
    try:
        report = read_mac(chosen.ssh, serial.upper())
    except (UnreachableError, UnreadableReportError, OtherMacError) as error:
        fail_attention(str(error))
    for fact in facts_table(report):
        row = {"kind": "fact", **fact._asdict()}
        emit(json.dumps(row, ensure_ascii=False) if as_json else f"{fact.name}: {fact.value}")
    if save is not None:
        owner = chosen.ssh.volume_owner
        names = frozenset({chosen.ssh.user, owner.user if owner else ""})
        try:
            save.write_text(json.dumps(redacted(report, names), indent=1) + "\n", "utf-8")
        except OSError as error:
            fail(f"cannot write {save}: {error.strerror or error}")


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
