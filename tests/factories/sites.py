"""Valid defaults for jobs, keys, Macs and executors, and the loop that drives a site."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.executor import Executor
from agents.journal import Journal, UnpublishedResult
from agents.simulated import MacSpec, SimulatedFleet, SimulatedRelease
from agents.site_access import SiteAccess
from pipeline.payload_signing import sign_approval, sign_job, sign_record
from runtime.trusted_keys import KeyRing
from schemas.envelope import (
    AdvisoryPublishedEvent,
    ControlEvent,
    DeviceEvent,
    InventoryEvent,
    JobSupersededEvent,
    encode,
)
from schemas.events.advisory import AdvisoryPublished
from schemas.events.control import Approval
from schemas.events.inventory import InventoryReported
from schemas.ids import derive_job_id, event_id
from schemas.jobs import Action, Job, JobIssued, Method, Target
from schemas.macos import parse_build, parse_os_version
from schemas.signed_records import CONTROL_RECORD, WITHDRAWAL_RECORD
from schemas.signing import Signed, key_id

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
SITE = "london"
JOBS_KEY = Ed25519PrivateKey.from_private_bytes(b"j" * 32)
APPROVALS_KEY = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
CONTROL_KEY = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
STRANGER_KEY = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
KEYS = KeyRing(
    {key_id(JOBS_KEY.public_key()): JOBS_KEY.public_key()},
    {key_id(APPROVALS_KEY.public_key()): APPROVALS_KEY.public_key()},
    {key_id(CONTROL_KEY.public_key()): CONTROL_KEY.public_key()},
)
NEW = Target(version=parse_os_version("26.2"), build=parse_build("25C56"))
RELEASES = (SimulatedRelease(version=NEW.version, build=parse_build("25C56"), firmware="fw-26.2"),)
UDID = "MAC-1"


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def a_job(
    action: Action = Action.UPDATE, method: Method = Method.SOFTWAREUPDATE, **changes: Any
) -> Job:
    """Return an update of MAC-1 to 26.2 over SSH; the id is derived after the changes."""
    fields: dict[str, Any] = {
        "udid": UDID,
        "site": SITE,
        "action": action,
        "method": method,
        "intent": NEW.key,
        "target": NEW,
        "reason": "security_update",
        "issued_at": START,
        "expires_at": START + timedelta(days=7),
        **changes,
    }
    fields["job_id"] = derive_job_id(
        fields["udid"], fields["action"], fields["intent"], fields.get("generation", 0)
    )
    return Job(**fields)


def an_erasing_job(
    method: Method = Method.ERASE_DEVICE,
    key: Ed25519PrivateKey = APPROVALS_KEY,
    approve: dict[str, Any] | None = None,
    **changes: Any,
) -> Job:
    """Return an approved reinstall with erase; `approve` replaces fields of the approval."""
    plain = a_job(Action.REINSTALL, method, erases=True, **changes)
    fields = {
        "udid": plain.udid,
        "job_id": plain.job_id,
        "action": "reinstall",
        "by": "someone",
        "expires_at": START + timedelta(days=2),
        **(approve or {}),
    }
    return plain.model_copy(update={"approval": signed_approval(key, **fields)})


def an_erasing_reimage() -> Job:
    """Return an approved restore of the Mac from an image of the release that it runs."""
    plain = a_job(Action.REIMAGE, Method.ASR, erases=True)
    approve = {"job_id": plain.job_id, "action": "reimage"}
    reinstall = an_erasing_job(Method.ASR, approve=approve)
    return plain.model_copy(update={"approval": reinstall.approval})


def signed_approval(key: Ed25519PrivateKey = APPROVALS_KEY, **fields: Any) -> Signed:
    return sign_approval(Approval(**fields), key).signed


def signed_control(event: ControlEvent, key: Ed25519PrivateKey = CONTROL_KEY) -> bytes:
    """Return the event as a record of the control topic."""
    return sign_record(encode(event), CONTROL_RECORD, key)


def signed_withdrawal(event: JobSupersededEvent, key: Ed25519PrivateKey = JOBS_KEY) -> bytes:
    """Return the withdrawal of a job as a record of the topics of jobs."""
    return sign_record(encode(event), WITHDRAWAL_RECORD, key)


def signed_job(job: Job, key: Ed25519PrivateKey = JOBS_KEY) -> JobIssued:
    return sign_job(job, key)


def a_spec(udid: str = UDID, **changes: Any) -> MacSpec:
    """Return a healthy Apple silicon Mac on 26.1 that reports every six hours."""
    fields: dict[str, Any] = {
        "udid": udid,
        "serial": f"C02{udid}",
        "site": SITE,
        "model": "Mac14,2",
        "os_version": parse_os_version("26.1"),
        "build": parse_build("25B78"),
        "firmware": "fw-26.1",
        "activations": ("munki",),
        **changes,
    }
    return MacSpec(**fields)


def critical_release(version: str, build: str, at: datetime = START) -> AdvisoryPublishedEvent:
    """Return the advisory of a critical release that fixes one CVE."""
    return AdvisoryPublishedEvent(
        id=event_id("advisory", version),
        source="/test/sofa",
        subject=f"macOS-{version}",
        time=at,
        data=AdvisoryPublished(
            source="sofa",
            os_line=version.partition(".")[0],
            os_version=parse_os_version(version),
            builds=(parse_build(build),),
            released_at=at,
            cves=(f"CVE-2026-{int(build[:2])}{len(version):03}",),
            severity="critical",
        ),
    )


def osquery_report(udid: str = "MAC-1", at: datetime = START, **facts: Any) -> InventoryEvent:
    """Return an inventory report from osquery with these fields."""
    return InventoryEvent(
        id=event_id("report", udid, at.isoformat(), repr(facts)),
        source="/test/osquery",
        subject=udid,
        time=at,
        data=InventoryReported(source="osquery", udid=udid, serial=f"C02{udid}", **facts),
    )


def a_fleet(*specs: MacSpec, seed: int = 0, **options: Any) -> SimulatedFleet:
    return SimulatedFleet(specs or (a_spec(),), START, seed=seed, releases=RELEASES, **options)


def an_executor(
    fleet: SimulatedFleet, journal: Journal | None = None, *, halted: bool = False, slots: int = 50
) -> Executor:
    """Return an executor of the fleet's Macs that knows that no halt is set.

    With `halted` it has not got the halts yet, and begins no job.
    """
    executor = Executor(
        SITE, journal or Journal(":memory:"), KEYS, SiteAccess.simulated(fleet.mac_for), slots
    )
    if not halted:
        executor.set_halts(())
    return executor


def drive(executor: Executor, fleet: SimulatedFleet, until: datetime) -> list[DeviceEvent]:
    """Run the executor and the Macs up to `until`, in steps from one due time to the next.

    Return the events of the Macs.
    """
    now = fleet.now
    results: list[DeviceEvent] = []
    while now <= until:
        results += fleet.advance(now)
        executor.tick(now)
        due = (executor.next_wake(now), fleet.next_event_at())
        upcoming = min((at for at in due if at is not None), default=until + timedelta(seconds=1))
        now = max(upcoming, now)
    fleet.advance(until)
    return results


def collect(executor: Executor) -> list[UnpublishedResult]:
    """Return the unpublished results and mark them published."""
    results = executor.results()
    executor.mark_published(results)
    return results


def outcomes(
    results: Iterable[UnpublishedResult], job: Job | None = None
) -> list[tuple[str, str | None]]:
    """Return (outcome, error code) of each result of a job, without accepted and progressed."""
    return [
        (item.result.outcome.value, item.result.error_code and item.result.error_code.value)
        for item in results
        if (job is None or item.result.job_id == job.job_id)
        and item.result.outcome.value not in ("accepted", "progressed")
    ]
