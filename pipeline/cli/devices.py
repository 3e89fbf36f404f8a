"""`drydock devices`: settle which Mac an identifier belongs to, and state its owner."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.halt_switch import Bootstrap, KeysDir, refuse_two_forms
from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, By, DataDir, FleetOrDataDir, send_request

if TYPE_CHECKING:
    from pipeline.cli.control_topic import Fleet
    from schemas.events.control import IdentitySettled

_HELP = "Settle which Mac an identifier belongs to; state the owner and the retirement of a Mac."

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)

Why = Annotated[str, typer.Option(help="The reason, for people.")]


@app.callback()
def _group() -> None:
    """Settle which Mac an identifier belongs to; state the owner and the retirement of a Mac."""


@app.command()
def merge(
    old: Annotated[
        str, typer.Argument(help="The UDID that is history, or an earlier serial number of NEW.")
    ],
    new: Annotated[str, typer.Argument(help="The UDID of the Mac.")],
    why: Why,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Settle that both records are one Mac: OLD is history, as after an exchanged logic board.

    OLD is retired and gets no job, unless it reports again.
    """
    wanted = {"settlement": "merge", "device": old, "other": new, "by": by, "why": why}
    _settle(wanted, data_dir, bootstrap, keys, as_json=as_json)


@app.command()
def separate(
    one: Annotated[str, typer.Argument(help="The UDID of one Mac.")],
    other: Annotated[str, typer.Argument(help="The UDID of the other Mac.")],
    why: Why,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Settle that two Macs share an identifier, such as clones of a virtual machine.

    Both may be reinstalled again. Commands then need a UDID: the serial number names neither.
    """
    wanted = {"settlement": "separate", "device": one, "other": other, "by": by, "why": why}
    _settle(wanted, data_dir, bootstrap, keys, as_json=as_json)


@app.command()
def forget(
    name: Annotated[str, typer.Argument(help="The UDID or serial number of the Mac.")],
    why: Why,
    data_dir: FleetOrDataDir = None,
    bootstrap: Bootstrap = None,
    keys: KeysDir = None,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """Forget all reports of a Mac up to now; it is known again once it reports.

    Its jobs and past decisions stay in the log. On Kafka, a serial number names only the reports
    without a UDID.
    """
    wanted = {"settlement": "forget", "device": name, "by": by, "why": why}
    _settle(wanted, data_dir, bootstrap, keys, as_json=as_json)


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="The UDID or serial number of the Mac.")],
    data_dir: DataDir,
    ownership: Annotated[
        str | None, typer.Option(help="Its owner: company, loan or personal.")
    ] = None,
    never_erase: Annotated[
        bool | None, typer.Option("--never-erase/--may-erase", help="Protect it from erases.")
    ] = None,
    retired: Annotated[
        bool | None, typer.Option("--retired/--in-use", help="It is sold, lost or replaced.")
    ] = None,
    loan_returned: Annotated[
        bool, typer.Option("--loan-returned", help="The loan unit was returned now.")
    ] = False,
    by: By = "unknown",
    as_json: AsJson = False,
) -> None:
    """State the owner of a Mac, its retirement, or the return of a loan unit.

    A personal or retired Mac gets no job. A returned loan unit is erased once that is approved.
    """
    from pipeline.embedded import description_requests
    from pipeline.embedded.operator_requests import InvalidRequestError

    stated = {"ownership": ownership, "never_erase": never_erase, "retired": retired}
    wanted = stated | {"device": name, "loan_returned": loan_returned, "by": by}
    body = json.dumps(wanted).encode()
    try:
        prepare = description_requests.describe(body)
    except InvalidRequestError as error:
        fail(str(error))
    response = send_request(data_dir, "POST", description_requests.PATH, prepare, body)
    emit(json.dumps(response) if as_json else f"described: {response['described']}")


def _settle(
    wanted: dict[str, str],
    data_dir: Path | None,
    bootstrap: str | None,
    keys: Path | None,
    *,
    as_json: bool,
) -> None:
    from pipeline.embedded import settlement_requests
    from pipeline.embedded.operator_requests import InvalidRequestError

    refuse_two_forms(data_dir, bootstrap)
    body = json.dumps(wanted).encode()
    try:
        prepare = settlement_requests.settle(body)
        settled = settlement_requests.parse_settlement(
            settlement_requests.SettlementRequest.model_validate_json(body)
        )
    except InvalidRequestError as error:
        fail(str(error))
    if data_dir is None:
        from pipeline.cli.control_topic import open_fleet

        _publish(open_fleet(bootstrap, keys), settled)
        response = {"settled": settled.key}
    else:
        response = send_request(data_dir, "POST", settlement_requests.PATH, prepare, body)
    emit(json.dumps(response) if as_json else f"settled: {response['settled']}")


def _publish(fleet: "Fleet", settled: "IdentitySettled") -> None:
    """Publish the settlement; return once it is in the control topic. Exit 2 if it may not be."""
    from pipeline.cli.control_topic import publish_or_fail
    from pipeline.embedded import control_events

    publish_or_fail(fleet, control_events.identity_settled(settled, datetime.now(UTC)))
