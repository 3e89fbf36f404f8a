"""`drydock halt`: stop new jobs in a scope."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from pipeline.cli.halt_switch import (
    Bootstrap,
    Everything,
    OneAdvisory,
    OneSite,
    ScopeName,
    publish_halt_change,
    scope_key,
)
from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, By, FleetOrDataDir, send_request
from pipeline.cli.time_arguments import parse_end


def halt(  # noqa: PLR0913, PLR0917 - a command's options
    scope: ScopeName = None,
    everything: Everything = False,
    site: OneSite = None,
    advisory: OneAdvisory = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    why: Annotated[str, typer.Option(help="The reason, for people.")] = "",
    until: Annotated[
        str | None, typer.Option(help="Time at which it ends: ISO 8601 with a zone, or +4h.")
    ] = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Stop new jobs in a scope. Jobs that are under way at a Mac go on to their end.

    On Kafka the halt takes effect within five seconds at every site; an agent that cannot read the
    halts starts no job. With --data-dir it is for the embedded service.
    """
    from pipeline.embedded import control_events, operator_requests

    if data_dir is not None and bootstrap is not None:
        fail("--data-dir is an embedded service, --bootstrap a fleet on Kafka: choose one")
    key = scope_key(scope, everything=everything, site=site, advisory=advisory)
    request_fields = {"scope": key, "by": by, "why": why, "until": _end(until)}
    body = json.dumps(request_fields).encode()
    try:
        prepare = operator_requests.halt(body)
        wanted, request = (
            operator_requests.parse_scope(key),
            operator_requests.HaltRequest.model_validate_json(body),
        )
    except (operator_requests.InvalidRequestError, ValueError) as error:
        fail(str(error))
    if data_dir is None:
        publish_halt_change(
            bootstrap,
            wanted,
            lambda now: control_events.halt_set(wanted, by, why, request.until, now),
        )
        response = {"halted": wanted.key}
    else:
        response = send_request(data_dir, "POST", "/v1/halts", prepare, body)
    emit(json.dumps(response) if as_json else f"halted: {response['halted']}")


def _end(until: str | None) -> str | None:
    """Return the time of --until in ISO 8601; None without one. Exit 2 unless it is to come."""
    try:
        return None if until is None else parse_end(until, datetime.now(UTC)).isoformat()
    except ValueError as error:
        fail(f"--until: {error}")
