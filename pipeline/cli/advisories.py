"""`drydock advisories`: delete statements about advisories, and let them count again."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.halt_switch import Bootstrap, KeysDir, refuse_two_forms
from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, By, FleetOrDataDir, send_request

if TYPE_CHECKING:
    from pipeline.embedded.strike_requests import StrikeRequest
    from pipeline.state.advisories import Advisories
    from schemas.envelope import ControlEvent

_HELP = "Delete what a source states about advisories, and let it count again."

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)

Advisory = Annotated[
    str | None,
    typer.Argument(help="The advisory (macOS-26.2), version or CVE; without: with --source, all."),
]
Source = Annotated[
    str | None, typer.Option(help="Only this source: sofa, gdmf, kev, admin or other.")
]
OneField = Annotated[
    str | None,
    typer.Option(
        "--field",
        help="Only the value of this field: builds, released_at, expires_at, cves, exploited_cves,"
        " severity, device_ids or kev_due_at.",
    ),
]
Value = Annotated[
    str | None, typer.Option(help="Only this value of a list, such as one CVE. Needs --field.")
]
Why = Annotated[str, typer.Option(help="The reason, for people.")]


@app.callback()
def _group() -> None:
    """Delete what a source states about advisories, and let it count again."""


@app.command()
def strike(  # noqa: PLR0913, PLR0917 - a command's options
    why: Why,
    advisory: Advisory = None,
    source: Source = None,
    field: OneField = None,
    value: Value = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Delete statements about an advisory, or all of a source, as a recorded act.

    A struck statement has no effect, also if its source repeats it. It counts again once the source
    states something else, or after `restore`. A struck value of a list stays struck until
    `restore`.
    """
    wanted = _body(advisory, source, field, value, by, why)
    _act("strike", "struck", wanted, data_dir, bootstrap, keys, as_json=as_json)


@app.command()
def restore(  # noqa: PLR0913, PLR0917 - a command's options
    why: Why,
    advisory: Advisory = None,
    source: Source = None,
    field: OneField = None,
    value: Value = None,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """End all strikes of an advisory, a source, a field or a value: the statements count again."""
    wanted = _body(advisory, source, field, value, by, why)
    _act("restore", "restored", wanted, data_dir, bootstrap, keys, as_json=as_json)


def _body(
    advisory: str | None,
    source: str | None,
    field: str | None,
    value: str | None,
    by: str,
    why: str,
) -> bytes:
    wanted = {"advisory": advisory, "source": source, "field": field, "value": value}
    return json.dumps(wanted | {"by": by, "why": why}).encode()


def _act(
    act: str,
    done: str,
    body: bytes,
    data_dir: Path | None,
    bootstrap: str | None,
    keys: Path | None,
    *,
    as_json: bool,
) -> None:
    from pipeline.embedded import strike_requests
    from pipeline.embedded.operator_requests import InvalidRequestError, read_body

    refuse_two_forms(data_dir, bootstrap)
    is_strike = act == "strike"
    try:
        request = read_body(strike_requests.StrikeRequest, body)
        if data_dir is None:
            event_of = strike_requests.strike_event if is_strike else strike_requests.restore_event
            scopes = _publish(request, event_of, bootstrap, keys)
        else:
            prepare = (strike_requests.strike if is_strike else strike_requests.restore)(body)
            path = strike_requests.PATH if is_strike else strike_requests.CLEARED_PATH
            scopes = send_request(data_dir, "POST", path, prepare, body)[done]
    except InvalidRequestError as error:
        fail(str(error))
    emit(json.dumps({done: scopes}) if as_json else "\n".join(f"{done}: {one}" for one in scopes))


def _publish(
    request: "StrikeRequest",
    event_of: "Callable[[StrikeRequest, Advisories, datetime], ControlEvent]",
    bootstrap: str | None,
    keys: Path | None,
) -> list[str]:
    """Publish the act on what the topics hold now; return the keys of its scopes.

    Exit 2 if the topics cannot be read, or the event may not be in the control topic.
    """
    from pipeline.cli.control_topic import (
        FAULTS,
        open_fleet,
        publish_or_fail,
        read_advisories,
        unconfirmed,
    )
    from pipeline.embedded.strike_requests import scopes_of
    from schemas.envelope import StrikeClearedEvent, StrikeSetEvent

    fleet = open_fleet(bootstrap, keys)
    try:
        known = read_advisories(fleet)
    except FAULTS as error:
        fail(unconfirmed(fleet.settings, error))
    event = event_of(request, known, datetime.now(UTC))
    assert isinstance(event, StrikeSetEvent | StrikeClearedEvent)
    publish_or_fail(fleet, event)
    return scopes_of(event)
