"""`drydock approve`: allow the one erasing job that a Mac waits for."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, By, DataDir, send_request

if TYPE_CHECKING:
    from schemas.decisions import Decision


def approve(
    name: Annotated[str, typer.Argument(help="The Mac's UDID or serial number.")],
    data_dir: DataDir,
    hours: Annotated[float, typer.Option(min=0.1, max=720, help="How long it holds.")] = 24.0,
    keys: Annotated[
        Path | None,
        typer.Option(help="The approver's key directory; else the data directory's own."),
    ] = None,
    by: By = "unknown",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Allow one erasing job on one Mac, signed with the approver's key.

    What is on the Mac is lost once the job runs. Exit 2 where no job of the Mac waits for this.
    """
    from agents.keys import KeysError, KeyStore, Purpose
    from pipeline.embedded import control_events, operator_requests
    from schemas.envelope import encode

    now = datetime.now(UTC)
    decision = _decision(data_dir, name, now, fast_paths=fast_paths_wanted())
    try:
        key = KeyStore(keys or data_dir / "keys").signer(Purpose.APPROVALS)
        event = control_events.approval_granted(decision, by, now, timedelta(hours=hours), key)
    except (KeysError, ValueError) as error:
        fail(str(error))
    if not yes and not as_json:
        action = f"{decision.action} by {decision.method}"
        typer.confirm(f"{action} ERASES {decision.serial or decision.udid}. Allow it?", abort=True)
    body = encode(event)
    response = send_request(
        data_dir, "POST", "/v1/approvals", operator_requests.approve(body), body
    )
    emit(json.dumps(response) if as_json else f"approved: {response['approved']}")


def _decision(data_dir: Path, name: str, now: datetime, *, fast_paths: bool) -> "Decision":
    from pipeline.decide.decision import decide
    from pipeline.decide.policy_file import PolicyError
    from pipeline.embedded.log import Log, StoreError
    from pipeline.embedded.transaction import load_state

    try:
        with Log.open(data_dir) as log:
            reconciler = load_state(log, fast_paths=fast_paths)
        if reconciler.policy is None:
            fail("no policy is in force: nothing awaits approval")
    except (StoreError, PolicyError) as error:
        fail(str(error))
    udid = reconciler.fleet.find(name)
    if udid is None:
        fail(f"no Mac is known as {name}")
    return decide(reconciler.situation(udid, now), fast_paths=fast_paths)
