"""Approvals for a fleet on Kafka: read the waiting job from `drydock query`, and publish."""

from datetime import datetime
from pathlib import Path
from typing import Final

from pipeline.cli.control_topic import (
    FAULTS,
    fleet_settings,
    publish_approval,
    read_policy_in_force,
    unconfirmed,
)
from pipeline.cli.output import fail
from pipeline.cli.readings import ServiceReadings, open_service
from pipeline.embedded.list_selection import ListName, Selection
from pipeline.state.device import Device
from runtime.kafka import KafkaSettings
from runtime.trusted_keys import KeyRing, KeysError
from schemas.decisions import Decision, Reason
from schemas.envelope import ApprovalGrantedEvent
from schemas.ids import clean_text

_JOB: Final = "job-"


def find_waiting(server: str | None, token_file: Path | None, name: str) -> tuple[Device, Decision]:
    """Return the Mac of this UDID, serial number or job id, and its decision.

    Exit 2 if no Mac or waiting job has the name, or if several Macs have it. A host name is no name
    here: the owner of a Mac can change it.
    """
    if server is None:
        fail("give --data-dir for an embedded service, or --server for `drydock query`")
    with open_service(server, token_file) as service:
        if name.startswith(_JOB):
            return _waiting_for(service, name)
        device, decision = service.device(name)
    if name.upper() not in (device.udid, device.serial):
        fail(
            f"{clean_text(name)} is another name of {device.udid}: give its UDID or serial number,"
            " or the id of the job"
        )
    if decision is None:
        fail(f"{device.udid} awaits no approval: nothing is decided for it")
    return device, decision


def _waiting_for(service: ServiceReadings, job_id: str) -> tuple[Device, Decision]:
    for row in service.rows(ListName.APPROVALS, Selection({"state": "waiting"})):
        device, decision = service.device(str(row["udid"]))
        if (
            decision is not None
            and decision.job_id == job_id
            and decision.reason is Reason.AWAITING_APPROVAL
        ):
            return device, decision
    return fail(
        f"no job {clean_text(job_id)} awaits approval: `drydock approvals list` has the Macs"
    )


def check(bootstrap: str | None, keys: Path, event: ApprovalGrantedEvent) -> KafkaSettings:
    """Return the settings of the fleet, in which this approval is usable.

    Exit 2 if no policy is in force, if it permits no end as late, or if Kafka cannot be read.
    """
    settings = fleet_settings(bootstrap)
    try:
        policy = read_policy_in_force(settings, KeyRing.load(keys).control)
    except (*FAULTS, KeysError, ValueError) as error:
        fail(f"cannot read the policy in force: {error}")
    if policy is None:
        fail("no policy is in force: nothing awaits approval")
    latest: datetime = event.time + policy.approvals.lasts_at_most
    if event.data.approval.expires_at > latest:
        fail(f"the policy permits an end until {latest.isoformat(timespec='minutes')}")
    return settings


def publish(settings: KafkaSettings, event: ApprovalGrantedEvent) -> None:
    """Publish the approval; return once every in-sync replica has it. Exit 2 if unknown."""
    try:
        publish_approval(settings, event)
    except FAULTS as error:
        fail(unconfirmed(settings, error))
