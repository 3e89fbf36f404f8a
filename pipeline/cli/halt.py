"""`drydock halt`: stop new jobs in a scope."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.halt_switch import (
    Bootstrap,
    Everything,
    KeysDir,
    OneAdvisory,
    OneSite,
    ScopeName,
    publish_halt_change,
    refuse_two_forms,
    scope_key,
)
from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, By, FleetOrDataDir, send_request
from pipeline.cli.time_arguments import parse_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.envelope import HaltSetEvent


def halt(  # noqa: PLR0913, PLR0917 - a command's options
    scope: ScopeName = None,
    everything: Everything = False,
    site: OneSite = None,
    advisory: OneAdvisory = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    why: Annotated[str, typer.Option(help="The reason, for people.")] = "",
    until: Annotated[
        str | None, typer.Option(help="Time at which it ends: ISO 8601 with a zone, or +4h.")
    ] = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Stop new jobs in a scope. Jobs that are under way at a Mac go on to their end.

    On Kafka the halt takes effect within five seconds at every site; an agent that cannot read the
    halts starts no job. With --data-dir it is for the embedded service; if that does not respond or
    its data cannot be opened, the halt is left there for its next start.
    """
    from pipeline.embedded import control_events, operator_requests

    refuse_two_forms(data_dir, bootstrap)
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
        from pipeline.cli.control_topic import open_fleet

        publish_halt_change(
            open_fleet(bootstrap, keys),
            wanted,
            lambda now: control_events.halt_set(wanted, by, why, request.until, now),
        )
        response = {"halted": wanted.key}
    else:
        response = send_request(
            data_dir,
            "POST",
            "/v1/halts",
            prepare,
            body,
            otherwise=_leaving(
                data_dir, lambda now: control_events.halt_set(wanted, by, why, request.until, now)
            ),
        )
    emit(json.dumps(response) if as_json else f"halted: {response['halted']}")


def _leaving(
    data_dir: Path, make: "Callable[[datetime], HaltSetEvent]"
) -> "Callable[[str], dict[str, str]]":
    """Return the function that leaves a halt in a data directory, for the reason that it is given.

    It exits with 2 if the halt cannot be written there.
    """

    def leave(reason: str) -> dict[str, str]:
        from pipeline.embedded.halt_requests import leave_halt

        event = make(datetime.now(UTC))
        try:
            leave_halt(data_dir, event)
        except OSError as error:
            fail(f"NOT halted: {reason}; {data_dir}: {error.strerror}")
        sys.stderr.write(
            f"drydock: the service did not take the halt ({reason}): it is left in {data_dir},"
            " and the service reads it before it starts a job\n"
        )
        return {"halted": event.data.scope.key}

    return leave


def _end(until: str | None) -> str | None:
    """Return the time of --until in ISO 8601; None without one. Exit 2 unless it is to come."""
    try:
        return None if until is None else parse_end(until, datetime.now(UTC)).isoformat()
    except ValueError as error:
        fail(f"--until: {error}")
