"""`drydock explain`: what is known, decided, done, reported and remaining for a Mac."""

import json
from typing import Annotated

import typer

from pipeline.cli.log_options import TIME_HELP, AsJson, DataDir, open_log, parse_option_time
from pipeline.cli.output import emit, fail


def explain(
    name: Annotated[str, typer.Argument(help="Serial number, UDID or enrollment id.")],
    data_dir: DataDir,
    at: Annotated[str | None, typer.Option(help=f"As of this time {TIME_HELP}.")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain the last decision for a Mac, gate by gate.

    Prints five sections: known (fields with source, time and age), decided (gates in order with the
    settings of the policy, and each method with the reason for which it was passed over), done
    (jobs with results), reported (the last events), and remaining.
    """
    from pipeline.cli.explanation import explanation_wire, print_explanation
    from pipeline.replay.explain import explain as look

    with open_log(data_dir) as log:
        then = parse_option_time("--at", at, log)
        found = look(log, name, at=then)
    if found is None:
        fail(f"the log has no Mac {name!r}: give a serial number, UDID or enrollment id")
    if as_json:
        emit(json.dumps(explanation_wire(found)))
    else:
        print_explanation(found)
