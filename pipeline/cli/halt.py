"""`drydock halt`: no new work starts in a scope."""

import json
from typing import Annotated

import typer

from pipeline.cli.halt_switch import (
    Bootstrap,
    Everything,
    OneAdvisory,
    OneSite,
    ScopeName,
    scope_key,
    tell_fleet,
)
from pipeline.cli.output import emit, fail
from pipeline.cli.steering import AsJson, By, FleetOrDataDir, steer


def halt(  # noqa: PLR0913, PLR0917 - a command's options
    scope: ScopeName = None,
    everything: Everything = False,
    site: OneSite = None,
    advisory: OneAdvisory = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    why: Annotated[str, typer.Option(help="What people will read.")] = "",
    until: Annotated[
        str | None, typer.Option(help="When it ends by itself: ISO 8601 with a zone.")
    ] = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Start no new work in a scope. What is under way at a Mac is left to end.

    On Kafka every executor knows within five seconds; one that cannot read the halts starts
    nothing. With --data-dir it is for the embedded service.
    """
    from pipeline.embedded import commands, steering

    if data_dir is not None and bootstrap is not None:
        fail("--data-dir is an embedded service, --bootstrap a fleet on Kafka: choose one")
    key = scope_key(scope, everything=everything, site=site, advisory=advisory)
    order = {"scope": key, "by": by, "why": why, "until": until}
    body = json.dumps(order).encode()
    try:
        prepare = steering.halt(body)
        wanted, said = steering.scope_of(key), steering.HaltOrder.model_validate_json(body)
    except (steering.InvalidOrderError, ValueError) as error:
        fail(str(error))
    if data_dir is None:
        tell_fleet(bootstrap, wanted, lambda now: commands.halt(wanted, by, why, said.until, now))
        answer = {"halted": wanted.key}
    else:
        answer = steer(data_dir, "POST", "/v1/halts", prepare, body)
    emit(json.dumps(answer) if as_json else f"halted: {answer['halted']}")
