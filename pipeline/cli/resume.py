"""`drydock resume`: allow new jobs in a scope again."""

import json
from typing import Annotated
from urllib.parse import quote, urlencode

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


def resume(  # noqa: PLR0913, PLR0917 - a command's options
    scope: ScopeName = None,
    everything: Everything = False,
    site: OneSite = None,
    advisory: OneAdvisory = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    why: Annotated[str | None, typer.Option(help="The reason, for people.")] = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Clear a halt. Other halts that cover the same jobs stay in force."""
    from pipeline.embedded import control_events, operator_requests

    refuse_two_forms(data_dir, bootstrap)
    key = scope_key(scope, everything=everything, site=site, advisory=advisory)
    try:
        prepare, wanted = operator_requests.resume(key, by, why), operator_requests.parse_scope(key)
    except operator_requests.InvalidRequestError as error:
        fail(str(error))
    if data_dir is None:
        from pipeline.cli.control_topic import open_fleet

        publish_halt_change(
            open_fleet(bootstrap, keys),
            wanted,
            lambda now: control_events.halt_cleared(wanted, by, now, why),
            resumes=True,
        )
        response = {"resumed": wanted.key}
    else:
        query = urlencode({"by": by} | ({} if why is None else {"why": why}))
        path = f"/v1/halts/{quote(key)}?{query}"
        response = send_request(data_dir, "DELETE", path, prepare)
    emit(json.dumps(response) if as_json else f"resumed: {response['resumed']}")
