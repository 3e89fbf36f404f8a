"""`drydock resume`: work may start again in a scope."""

import json
from urllib.parse import quote

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


def resume(
    scope: ScopeName = None,
    everything: Everything = False,
    site: OneSite = None,
    advisory: OneAdvisory = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Clear a halt. Other halts that cover the same jobs stay."""
    from pipeline.embedded import commands, steering

    if data_dir is not None and bootstrap is not None:
        fail("--data-dir is an embedded service, --bootstrap a fleet on Kafka: choose one")
    key = scope_key(scope, everything=everything, site=site, advisory=advisory)
    try:
        prepare, wanted = steering.resume(key, by), steering.scope_of(key)
    except steering.InvalidOrderError as error:
        fail(str(error))
    if data_dir is None:
        tell_fleet(bootstrap, wanted, lambda now: commands.resume(wanted, by, now), resumes=True)
        answer = {"resumed": wanted.key}
    else:
        path = f"/v1/halts/{quote(key)}?by={quote(by)}"
        answer = steer(data_dir, "DELETE", path, prepare)
    emit(json.dumps(answer) if as_json else f"resumed: {answer['resumed']}")
