"""`drydock explain`: why a Mac is where it is, gate by gate."""

import json
from typing import Annotated

import typer

from pipeline.cli.log_options import TIME_HELP, AsJson, DataDir, open_log, parse_option_time
from pipeline.cli.output import emit, fail


def explain(
    name: Annotated[str, typer.Argument(help="Serial number, UDID or enrollment id.")],
    data_dir: DataDir,
    at: Annotated[str | None, typer.Option(help=f"As it was at this time {TIME_HELP}.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a Mac is where it is: its last decision with every gate in order, what it is
    exposed to, its jobs and what came of them, what was last heard of it."""
    from pipeline.cli.explanation import explanation_wire, print_explanation
    from pipeline.replay.explain import explain as look

    with open_log(data_dir) as log:
        then = parse_option_time("--at", at, log)
        found = look(log, name, at=then)
    if found is None:
        fail(f"the log knows no Mac by the name {name!r}")
    if as_json:
        emit(json.dumps(explanation_wire(found)))
    else:
        print_explanation(found)
