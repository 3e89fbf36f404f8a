"""`drydock explain`: what is known, decided, done, reported and remaining for a Mac."""

import json
from typing import Annotated

import typer

from pipeline.cli.log_options import TIME_HELP, AsJson, parse_option_time
from pipeline.cli.output import emit, fail
from pipeline.cli.readings import ReadDir, Server, TokenFile, open_readings


def explain(
    name: Annotated[str, typer.Argument(help="Serial number, UDID, enrollment id or host name.")],
    data_dir: ReadDir = None,
    at: Annotated[str | None, typer.Option(help=f"As of this time {TIME_HELP}.")] = None,
    entry: Annotated[
        int | None, typer.Option(min=1, help="As of this entry of the log, by its number.")
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Explain the last decision for a Mac, gate by gate.

    Prints five sections: known (fields with source, time and age), decided (gates in order with the
    settings of the policy, and each method with the reason for which it was passed over), done
    (jobs with results), reported (the last events), and remaining. The decision that sends a job
    and the hold after it have the same time; to see the first one, give its number with --entry.
    """
    from pipeline.cli.explanation import explanation_wire, print_explanation

    if at is not None and entry is not None:
        fail("--at and --entry exclude each other: give one")
    with open_readings(data_dir, server, token_file) as readings:
        then = parse_option_time("--at", at, readings)
        found = readings.explanation(name, then, entry)
    if as_json:
        emit(json.dumps(explanation_wire(found)))
    else:
        print_explanation(found)
