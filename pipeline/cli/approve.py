"""`drydock approve`: approve the erasing job of one Mac."""

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
    hours: Annotated[
        float, typer.Option(min=0.1, max=720, help="Hours until the approval expires.")
    ] = 24.0,
    keys: Annotated[
        Path | None,
        typer.Option(help="The approver's key directory; default: `keys` in the data directory."),
    ] = None,
    by: By = "unknown",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Approve one erasing job on one Mac.

    The approval is signed with the approver's key. The job erases all data on the Mac. Asks for
    confirmation, except with --yes or --json. Exit 2 if no job of the Mac waits for approval.
    """
    from pipeline.embedded import control_events, operator_requests
    from pipeline.signing_keys import KeyStore
    from runtime.trusted_keys import KeysError, Purpose
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
    """Return the decision for the Mac at `now`, by the state in the data directory.

    Exit 2 if the state cannot be read, no policy is in force, or not exactly one Mac has this name.
    """
    from pipeline.decide.decision import decide
    from pipeline.embedded.log import Log, StoreError
    from pipeline.embedded.settlement_requests import ambiguous
    from pipeline.embedded.transaction import load_state
    from pipeline.policy.file import PolicyError

    try:
        with Log.open(data_dir) as log:
            reconciler = load_state(log, fast_paths=fast_paths)
        if reconciler.policy is None:
            fail("no policy is in force: nothing awaits approval")
    except (StoreError, PolicyError) as error:
        fail(str(error))
    holders = reconciler.fleet.holders(name.strip().upper())
    if len(holders) > 1:
        fail(ambiguous(name, holders))
    udid = reconciler.fleet.find(name)
    if udid is None:
        fail(f"no Mac is known as {name}: give its UDID or serial number")
    return decide(reconciler.situation(udid, now), fast_paths=fast_paths)
