"""`drydock approve`: approve the erasing job of one Mac."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.halt_switch import Bootstrap, refuse_two_forms
from pipeline.cli.output import emit, fail
from pipeline.cli.readings import ReadDir, Server, TokenFile
from pipeline.cli.service_client import AsJson, By, send_request
from runtime.printable import printable_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.reconcile.reconciler import Reconciler
    from pipeline.state.device import Device
    from schemas.decisions import Decision
    from schemas.envelope import ApprovalGrantedEvent
    from schemas.events.control import Approval


def approve(  # noqa: PLR0913, PLR0917 - a command's options
    name: Annotated[
        str, typer.Argument(help="The id of the job, or the Mac's UDID or serial number.")
    ],
    data_dir: ReadDir = None,
    hours: Annotated[
        float, typer.Option(min=0.1, max=744, help="Hours until the approval expires.")
    ] = 24.0,
    keys: Annotated[
        Path | None,
        typer.Option(help="The approver's key directory; default: `keys` in the data directory."),
    ] = None,
    why: Annotated[str | None, typer.Option(help="The reason, for people.")] = None,
    by: By = "unknown",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    token_file: TokenFile = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Approve one erasing job on one Mac.

    The approval is signed with the approver's key, and names the job, the Mac's UDID and serial
    number, the method and the end. The job erases all data on the Mac. Shows all that and asks for
    confirmation, except with --yes or --json. Exit 2 if no job of the Mac waits for approval, or if
    several Macs have the name: then give the id of the job.

    For a fleet on Kafka, --server is the `drydock query` that shows the waiting job, and --keys the
    approver's directory; the approval is published to the control topic.
    """
    from pipeline.cli import fleet_approval
    from pipeline.embedded import control_events
    from pipeline.signing_keys import KeyStore
    from runtime.trusted_keys import KeysError, Purpose

    refuse_two_forms(data_dir, bootstrap)
    now = datetime.now(UTC)
    if data_dir is not None:
        device, decision = _find_waiting(data_dir, name.strip(), now)
        keys = keys or data_dir / "keys"
    else:
        device, decision = fleet_approval.find_waiting(server, token_file, name.strip())
        if keys is None:
            fail("give --keys the approver's key directory")
    try:
        key = KeyStore(keys).signer(Purpose.APPROVALS)
        event = control_events.approval_granted(decision, by, now, timedelta(hours=hours), key, why)
    except (KeysError, ValueError) as error:
        fail(str(error))
    fleet = None if data_dir is not None else fleet_approval.check(bootstrap, keys, event)
    if not as_json:
        _show(device, decision, event.data.approval, asks=not yes)
    if data_dir is not None:
        response = _request(data_dir, event)
    else:
        assert fleet is not None
        fleet_approval.publish(fleet, event)
        response = {"approved": event.data.approval.job_id}
    emit(json.dumps(response) if as_json else f"approved: {response['approved']}")


def _show(device: "Device", decision: "Decision", approval: "Approval", *, asks: bool) -> None:
    """Print which Mac is erased, how, and why; end the command if the person, asked, says no."""
    for line in _shown(device, decision, approval):
        emit(line)
    if asks:
        action = f"{decision.action} by {decision.method}"
        question = f"{action} ERASES {decision.serial or decision.udid}. Allow it?"
        typer.confirm(printable_line(question), abort=True)


def _request(data_dir: Path, event: "ApprovalGrantedEvent") -> dict[str, Any]:
    """Return the response of the service to the approval. Exit 2 if it refuses."""
    from pipeline.embedded import operator_requests
    from schemas.envelope import encode

    body = encode(event)
    return send_request(data_dir, "POST", "/v1/approvals", operator_requests.approve(body), body)


def _find_waiting(data_dir: Path, name: str, now: datetime) -> "tuple[Device, Decision]":
    """Return the Mac of this name or job, and its decision at `now`. Exit 2 if there is none."""
    reconciler = _load(data_dir)
    decision = _decision(reconciler, name, now)
    return reconciler.fleet.merged_device(decision.udid), decision


def _load(data_dir: Path) -> "Reconciler":
    """Return the state in the data directory. Exit 2 if it cannot be read or has no policy."""
    from pipeline.embedded.log import Log, StoreError
    from pipeline.embedded.transaction import load_state
    from pipeline.policy.file import PolicyError

    try:
        with Log.open(data_dir) as log:
            reconciler = load_state(log, fast_paths=fast_paths_wanted())
        if reconciler.policy is None:
            fail("no policy is in force: nothing awaits approval")
    except (StoreError, PolicyError) as error:
        fail(str(error))
    return reconciler


def _decision(reconciler: "Reconciler", name: str, now: datetime) -> "Decision":
    """Return the decision at `now` for the Mac of this name, or for the job of this id.

    Exit 2 if no Mac or waiting job has the name, or if several Macs have it.
    """
    from pipeline.decide.decision import decide
    from pipeline.embedded.mac_names import hint_for_writing
    from pipeline.embedded.settlement_requests import ambiguous

    fleet, fast_paths = reconciler.fleet, fast_paths_wanted()
    if name.startswith("job-"):
        found = [one for one in _waiting(reconciler, now) if one.job_id == name]
        if not found:
            fail(f"no job {name} awaits approval: `drydock status` lists those that do")
        return found[0]
    udids = fleet.udids_with_serial(name.upper())
    if len(udids) > 1:
        jobs = [one for one in _waiting(reconciler, now) if one.udid in udids]
        named = "; ".join(f"{one.job_id} erases {one.udid}" for one in jobs)
        hint = f", or the id of the job ({named})" if jobs else "; none of them awaits approval"
        fail(ambiguous(name, udids) + hint)
    udid = fleet.find(name)
    if udid is None:
        wanted = (
            f"give its UDID or serial number, or the id of the job{hint_for_writing(fleet, name)}"
        )
        fail(f"no Mac is known as {name}: {wanted}")
    return decide(reconciler.situation(udid, now), fast_paths=fast_paths)


def _waiting(reconciler: "Reconciler", now: datetime) -> "Iterator[Decision]":
    """Yield the decision at `now` of each Mac whose last decision waits for an approval."""
    from pipeline.decide.decision import decide
    from schemas.decisions import Reason

    for udid, last in sorted(reconciler.last_decisions.items()):
        if last.reason is Reason.AWAITING_APPROVAL:
            yield decide(reconciler.situation(udid, now), fast_paths=fast_paths_wanted())


def _shown(device: "Device", decision: "Decision", approval: "Approval") -> list[str]:
    """Return the lines that show which Mac is erased, how, and why."""
    target = decision.target
    version = "" if target is None else f", to {target.version} {target.build or ''}".rstrip()
    loan = device.loan_returned_at
    reasons = [
        *([] if loan is None else [f"the loan unit was returned at {loan.isoformat()}"]),
        *decision.evidence,
        *(gate.detail for gate in decision.gates if gate.gate == "approval" and gate.detail),
        *([] if approval.why is None else [approval.why]),
    ]
    rows = {
        "Mac": f"{device.hostname or 'without a host name'}, {device.model or 'unknown model'}",
        "serial": decision.serial or "unknown",
        "UDID": decision.udid,
        "site": decision.site or "none",
        "job": f"{approval.job_id}: {decision.action} by {decision.method}{version}",
        "destroys": approval.destroys or "",
        "why": "; ".join(reasons),
        "by": approval.by,
        "until": approval.expires_at.isoformat(timespec="minutes"),
    }
    return [f"{label:<9} {text}" for label, text in rows.items()]
