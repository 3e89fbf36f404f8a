"""`drydock attempts`: failed attempts that hold Macs."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.halt_switch import Bootstrap, KeysDir, check_site, refuse_two_forms
from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, By, FleetOrDataDir, send_request

if TYPE_CHECKING:
    from pipeline.cli.control_topic import Fleet
    from schemas.events.control import AttemptsReset

app = typer.Typer(
    help="Let failed attempts no longer hold Macs.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    """Let failed attempts no longer hold Macs."""


@app.command()
def reset(
    scope: Annotated[
        str, typer.Argument(help="all, site:<site>, or the serial number or UDID of a Mac.")
    ],
    why: Annotated[str, typer.Option(help="The reason, for people.")],
    cause: Annotated[
        str | None, typer.Option(help="Only jobs that failed with this error code.")
    ] = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Let failed attempts and cool-downs before now no longer hold Macs, after the cause is gone.

    Without --cause also the jobs that a dry run withheld. The reset is recorded with your name and
    reason; `drydock explain` shows it. Jobs under way go on.
    """
    from pipeline.embedded import operator_requests
    from schemas.results import ErrorCode

    refuse_two_forms(data_dir, bootstrap)
    if cause is not None and cause not in set(ErrorCode):
        fail(f"unknown error code {cause!r}; one of: {', '.join(ErrorCode)}")
    body = json.dumps({"scope": scope, "cause": cause, "by": by, "why": why}).encode()
    try:
        prepare = operator_requests.reset_attempts(body)
        wanted = operator_requests.parse_reset(
            operator_requests.ResetRequest.model_validate_json(body)
        )
    except operator_requests.InvalidRequestError as error:
        fail(str(error))
    if data_dir is None:
        from pipeline.cli.control_topic import open_fleet

        _publish(open_fleet(bootstrap, keys), wanted)
        response = {"reset": wanted.scope.key}
    else:
        response = send_request(data_dir, "POST", "/v1/attempts/resets", prepare, body)
    emit(json.dumps(response) if as_json else f"attempts reset: {response['reset']}")


def _publish(fleet: "Fleet", wanted: "AttemptsReset") -> None:
    """Publish the reset; return once it is in the control topic.

    Exit 2 if the site has no job topic, or Kafka does not confirm it.
    """
    from pipeline.cli.control_topic import FAULTS, publish_or_fail, unconfirmed
    from pipeline.embedded import control_events

    try:
        if wanted.scope.site is not None:
            check_site(fleet.settings, wanted.scope.site)
    except FAULTS as error:
        fail(unconfirmed(fleet.settings, error))
    publish_or_fail(fleet, control_events.attempts_reset(wanted, datetime.now(UTC)))
