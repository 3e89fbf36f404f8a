"""`drydock resume`: allow new jobs in a scope again."""

import json
from urllib.parse import quote

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
    """Clear a halt. Other halts that cover the same jobs stay in force."""
    from pipeline.embedded import control_events, operator_requests

    if data_dir is not None and bootstrap is not None:
        fail("--data-dir is an embedded service, --bootstrap a fleet on Kafka: choose one")
    key = scope_key(scope, everything=everything, site=site, advisory=advisory)
    try:
        prepare, wanted = operator_requests.resume(key, by), operator_requests.parse_scope(key)
    except operator_requests.InvalidRequestError as error:
        fail(str(error))
    if data_dir is None:
        publish_halt_change(
            bootstrap,
            wanted,
            lambda now: control_events.halt_cleared(wanted, by, now),
            resumes=True,
        )
        response = {"resumed": wanted.key}
    else:
        path = f"/v1/halts/{quote(key)}?by={quote(by)}"
        response = send_request(data_dir, "DELETE", path, prepare)
    emit(json.dumps(response) if as_json else f"resumed: {response['resumed']}")
