"""Valid defaults for tests of the core: Macs, releases, policies, jobs, situations.

The clock stands at NOW, a Tuesday noon. Releases are real ones with their real days; CVE ids are
the release's own, made up.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.decide.policy import Policy
from pipeline.decide.policy_file import policy_digest
from pipeline.decide.situation import Situation
from pipeline.state.advisories import Advisories
from pipeline.state.device import Device, to_us
from pipeline.state.device_folds import (
    apply_authenticated,
    apply_inventory,
    apply_token_updated,
)
from pipeline.state.jobs import JobEntry, Ledger
from schemas.envelope import (
    AdvisoryEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AuthenticatedEvent,
    CheckedOutEvent,
    CloudEvent,
    CommandReportedEvent,
    DeviceEvent,
    HaltClearedEvent,
    HaltSetEvent,
    InventoryEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    PolicyChangedEvent,
    TokenUpdatedEvent,
)
from schemas.events.checkin import MdmAuthenticated, MdmTokenUpdated
from schemas.events.control import ApprovalGranted, HaltScope, HaltSet
from schemas.events.inventory import InventoryReported
from schemas.ids import derive_job_id, event_id
from schemas.jobs import Action, Job, JobIssued, JobSuperseded, Method, Target
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode, JobResult, Outcome
from schemas.routing import device_key
from schemas.signing import Signature, Signed

NOW = datetime(2026, 1, 20, 12, 0, tzinfo=UTC)
UDID = "5A0C7D9E-0000-4000-8000-000000000001"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SIGNED = Signed(
    payloadType="application/x-test", payload="e30=", signatures=(Signature(keyid="k", sig="cw=="),)
)

# version: build, day of release
RELEASES: dict[str, tuple[str, str]] = {
    "26.2": ("25C56", "2025-12-12"),
    "26.1": ("25B78", "2025-11-03"),
    "26.0": ("25A354", "2025-09-15"),
    "15.7.3": ("24G419", "2025-12-12"),
    "15.7.2": ("24G325", "2025-11-03"),
    "14.8.3": ("23J220", "2025-12-12"),
    "14.8.2": ("23J126", "2025-11-03"),
    "13.7.8": ("22H730", "2025-08-20"),
}


def at(text: str) -> datetime:
    """`2025-12-12` or `2025-12-12T18:00` as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cve_of(version: str) -> str:
    """The CVE that only this release fixes."""
    return "CVE-2025-" + "".join(f"{ord(c) % 100:02d}" for c in version)


# --- what a Mac is ---

MODERN: dict[str, Any] = {
    "serial": "C02TEST0001",
    "model": "Mac16,1",
    "device_id": "J604AP",
    "hostname": "lon-001",
    "site": "london",
    "supervised": True,
    "user_approved": True,
    "ade_enrolled": True,
    "bootstrap_token_escrowed": True,
    "volume_owner_available": True,
    "free_disk_gb": 200.0,
    "battery_percent": 90.0,
    "on_ac_power": True,
}


def build_of(version: str) -> str | None:
    """The build of a known release."""
    return RELEASES[version][0] if version in RELEASES else None


def mac(
    version: str | None = "26.1",
    *,
    udid: str = UDID,
    enrolled: bool = True,
    seen_at: datetime = NOW - HOUR,
    mdm_seen_at: datetime | None = None,
    source: str = "osquery",
    **facts: Any,
) -> Device:
    """An enrolled, supervised M4 MacBook Pro in London; a fact given as None is unknown."""
    said = {"os_version": version, "build": build_of(version or "")} | MODERN | facts
    known = {name: value for name, value in said.items() if value is not None}
    device = Device(udid)
    if enrolled:
        long_ago = to_us(NOW - 100 * DAY)
        device = apply_authenticated(device, MdmAuthenticated(udid=udid), long_ago)
        device = apply_token_updated(device, MdmTokenUpdated(udid=udid, tally=1), long_ago)
        poll = InventoryReported(source="mdm", udid=udid)
        device = apply_inventory(device, poll, to_us(mdm_seen_at or seen_at))
    report = InventoryReported.model_validate({"source": source, "udid": udid, **known})
    return apply_inventory(device, report, to_us(seen_at))


def told(device: Device, when: datetime, source: str = "osquery", **facts: Any) -> Device:
    """The Mac after one more report."""
    report = InventoryReported.model_validate({"source": source, **facts})
    return apply_inventory(device, report, to_us(when))


# --- what Apple released ---


def release(
    version: str,
    *,
    build: str | None = None,
    day: str | None = None,
    heard_at: datetime | None = None,
    cves: Iterable[str] | None = None,
    exploited: Iterable[str] = (),
    severity: str | None = "high",
    device_ids: Iterable[str] | None = None,
    source: str = "sofa",
    kind: type[AdvisoryEvent] = AdvisoryPublishedEvent,
    **more: Any,
) -> AdvisoryEvent:
    """An advisory event; first heard of on its day of release."""
    known_build, known_day = RELEASES.get(version, (None, "2026-01-15"))
    built = build if build is not None else known_build
    released = at(day or known_day or "")
    data = {
        "source": source,
        "os_line": parse_os_version(version).line,
        "os_version": version,
        "builds": [] if not built else built.split(","),
        "released_at": released,
        "cves": [cve_of(version)] if cves is None else list(cves),
        "exploited_cves": list(exploited),
        "severity": severity,
        "device_ids": None if device_ids is None else list(device_ids),
        **more,
    }
    when = heard_at or released
    name = event_id(kind.__name__, source, version, repr(data), when.isoformat())
    return kind.model_validate(
        {"id": name, "source": "/test/feed", "subject": f"macOS-{version}", "time": when}
        | {"data": data}
    )


def raised(version: str, **values: Any) -> AdvisoryEvent:
    """More is known to be exploited."""
    return release(version, kind=AdvisorySeverityRaisedEvent, **values)


def narrowed(version: str, **values: Any) -> AdvisoryEvent:
    """It is for fewer Macs."""
    return release(version, kind=AdvisoryNarrowedEvent, **values)


def retracted(version: str, **values: Any) -> AdvisoryEvent:
    """It is no longer offered."""
    return release(version, kind=AdvisoryRetractedEvent, **values)


def kev(*cves: str, due: datetime | None = None, heard_at: datetime = NOW) -> AdvisoryEvent:
    """CISA lists these CVEs as exploited."""
    data = {"source": "kev", "exploited_cves": cves, "kev_due_at": due}
    return AdvisoryPublishedEvent.model_validate(
        {
            "id": event_id("kev", *cves, repr(due), heard_at.isoformat()),
            "source": "/test/kev",
            "subject": "kev",
            "time": heard_at,
            "data": data,
        }
    )


def catalogue(*events: AdvisoryEvent) -> Advisories:
    """The catalogue these events make."""
    found = Advisories()
    for event in events:
        found = found.apply(event)
    return found


def apple(*more: AdvisoryEvent) -> Advisories:
    """All RELEASES, and then more."""
    return catalogue(*(release(version) for version in RELEASES), *more)


# --- what the company wants ---


def policy(**settings: Any) -> Policy:
    """One site, London, always open; no follow-up beyond enrolment. Settings replace whole
    top-level parts."""
    given = {
        "sites": {"london": {"time_zone": "Europe/London"}},
        "follow_up": {"compliant": False},
    } | settings
    return Policy.model_validate(given, by_alias=True)


NIGHTS = ({"from": "22:00", "to": "04:00"},)
POLICY_TEXT = """\
version: 1
sites:
  london: {time_zone: Europe/London, max_jobs: 2}
  tokyo: {time_zone: Asia/Tokyo, max_jobs: 2}
default_site: london
follow_up: {compliant: false}
"""


# --- what was ordered ---


def entry(
    intent: str = "26.2",
    *,
    action: Action = Action.UPDATE,
    method: Method = Method.DDM,
    generation: int = 0,
    issued_at: datetime = NOW - 2 * HOUR,
    outcome: Outcome | None = None,
    outcome_at: datetime | None = None,
    error_code: ErrorCode | None = None,
    acted_at: datetime | None = None,
    udid: str = UDID,
    site: str = "london",
    version: str | None = "26.2",
    erases: bool = False,
    guessed: bool = False,
) -> JobEntry:
    """A job in a ledger; open and untouched."""
    return JobEntry(
        job_id=derive_job_id(udid, action, intent, generation),
        action=action,
        method=method,
        intent=intent,
        version=None if version is None else parse_os_version(version),
        build=parse_build(RELEASES[version][0]) if version in RELEASES else None,
        generation=generation,
        issued_us=to_us(issued_at),
        expires_us=to_us(issued_at + 10 * HOUR),
        report_by_us=to_us(issued_at + 3 * DAY),
        site=site,
        erases=erases,
        outcome=outcome,
        outcome_us=0 if outcome is None else to_us(outcome_at or issued_at + HOUR),
        acted_us=0 if acted_at is None else to_us(acted_at),
        error_code=error_code,
        guessed=guessed,
    )


def failed(
    count: int,
    code: ErrorCode = ErrorCode.INSTALL_FAILED,
    *,
    first_at: datetime = NOW - 20 * DAY,
    **values: Any,
) -> Ledger:
    """So many failed attempts, a day apart."""
    return tuple(
        entry(
            generation=number,
            issued_at=first_at + number * DAY,
            outcome=Outcome.FAILED,
            error_code=code,
            **values,
        )
        for number in range(count)
    )


def halt(
    *,
    site: str | None = None,
    advisory: str | None = None,
    until: datetime | None = None,
) -> HaltSet:
    """A halt; of everything unless narrower."""
    everything = site is None and advisory is None
    scope = HaltScope(everything=everything, site=site, advisory_id=advisory)
    return HaltSet(scope=scope, by="ops", until=until)


def approval(
    job_id: str, *, action: str = "reinstall", udid: str = UDID, expires_at: datetime = NOW + DAY
) -> ApprovalGranted:
    """Leave to erase."""
    return ApprovalGranted.model_validate(
        {
            "approval": {
                "udid": udid,
                "job_id": job_id,
                "action": action,
                "by": "ada",
                "expires_at": expires_at,
            },
            "signed": SIGNED,
        }
    )


def situation(
    device: Device | None = None,
    *,
    advisories: Advisories | None = None,
    rules: Policy | None = None,
    now: datetime = NOW,
    **rest: Any,
) -> Situation:
    """A Mac that lacks 26.2, at a site that is open."""
    return Situation(
        device if device is not None else mac(),
        advisories if advisories is not None else apple(),
        rules if rules is not None else policy(),
        now,
        **rest,
    )


# --- events ---


def _event(kind: type[Any], subject: str, when: datetime, data: Any) -> Any:
    name = event_id(kind.__name__, subject, when.isoformat(), repr(data))
    return kind.model_validate(
        {"id": name, "source": "/test", "subject": subject, "time": when, "data": data}
    )


def reported(
    udid: str | None = UDID, when: datetime = NOW - HOUR, source: str = "osquery", **facts: Any
) -> InventoryEvent:
    """One inventory report that says only this."""
    known = {name: value for name, value in facts.items() if value is not None}
    subject = udid or f"serial:{facts.get('serial')}"
    event: InventoryEvent = _event(
        InventoryEvent, subject, when, {"source": source, "udid": udid, **known}
    )
    return event


def full_report(
    version: str = "26.1", udid: str = UDID, when: datetime = NOW - HOUR, **facts: Any
) -> InventoryEvent:
    """A report of everything `mac` knows."""
    said = {"os_version": version, "build": build_of(version)} | MODERN | facts
    return reported(udid, when, **said)


def enrolled(udid: str = UDID, when: datetime = NOW - 100 * DAY) -> tuple[Any, Any]:
    """The check-ins of an enrolment."""
    return (
        _event(AuthenticatedEvent, udid, when, {"udid": udid}),
        _event(TokenUpdatedEvent, udid, when, {"udid": udid, "tally": 1}),
    )


def polled(udid: str = UDID, when: datetime = NOW - HOUR) -> CommandReportedEvent:
    """The Mac asked its MDM server for work."""
    event: CommandReportedEvent = _event(
        CommandReportedEvent, udid, when, {"udid": udid, "status": "Idle"}
    )
    return event


def checked_out(udid: str = UDID, when: datetime = NOW - HOUR) -> CheckedOutEvent:
    """The MDM profile was removed."""
    event: CheckedOutEvent = _event(CheckedOutEvent, udid, when, {"udid": udid})
    return event


def policy_changed(text: str = POLICY_TEXT, when: datetime = NOW - 50 * DAY) -> PolicyChangedEvent:
    """The policy in force from then on."""
    data = {"digest": policy_digest(text), "text": text, "by": "ada"}
    event: PolicyChangedEvent = _event(PolicyChangedEvent, "policy", when, data)
    return event


def halted(when: datetime = NOW, **scope: Any) -> HaltSetEvent:
    """A halt is set."""
    event: HaltSetEvent = _event(HaltSetEvent, "halt", when, halt(**scope))
    return event


def halt_cleared(when: datetime = NOW, **scope: Any) -> HaltClearedEvent:
    """A halt is cleared."""
    data = {"scope": halt(**scope).scope, "by": "ops"}
    event: HaltClearedEvent = _event(HaltClearedEvent, "halt", when, data)
    return event


def granted(job_id: str, when: datetime = NOW, **values: Any) -> ApprovalGrantedEvent:
    """Leave is given."""
    data = approval(job_id, **values)
    event: ApprovalGrantedEvent = _event(ApprovalGrantedEvent, job_id, when, data)
    return event


def denied(job_id: str, udid: str = UDID, when: datetime = NOW) -> ApprovalDeniedEvent:
    """Leave is refused."""
    data = {"udid": udid, "job_id": job_id, "by": "ada"}
    event: ApprovalDeniedEvent = _event(ApprovalDeniedEvent, job_id, when, data)
    return event


def job(
    intent: str = "26.2",
    *,
    action: Action = Action.UPDATE,
    method: Method = Method.DDM,
    udid: str = UDID,
    generation: int = 0,
    issued_at: datetime = NOW - 2 * HOUR,
    lasts: timedelta = 10 * HOUR,
    version: str | None = "26.2",
    **values: Any,
) -> Job:
    """An order."""
    target = None
    if version is not None:
        built = build_of(version)
        target = Target(
            version=parse_os_version(version), build=None if built is None else parse_build(built)
        )
    return Job(
        job_id=derive_job_id(udid, action, intent, generation),
        udid=udid,
        site=values.pop("site", "london"),
        action=action,
        method=method,
        intent=intent,
        target=target,
        generation=generation,
        reason="security_update",
        issued_at=issued_at,
        expires_at=issued_at + lasts,
        report_by=issued_at + 3 * DAY,
        **values,
    )


def issued(order: Job) -> JobIssuedEvent:
    """The order was published."""
    event: JobIssuedEvent = _event(
        JobIssuedEvent, order.udid, order.issued_at, JobIssued(job=order, signed=SIGNED)
    )
    return event


def result(
    order: Job, outcome: Outcome, code: ErrorCode | None = None, *, attempt: int = 1
) -> JobResult:
    """What its executor says of an order."""
    return JobResult(
        job_id=order.job_id,
        udid=order.udid,
        site=order.site,
        outcome=outcome,
        error_code=code,
        attempt=attempt,
    )


def resulted(
    order: Job, outcome: Outcome, when: datetime, code: ErrorCode | None = None, attempt: int = 1
) -> JobResultedEvent:
    """The executor said so."""
    event: JobResultedEvent = _event(
        JobResultedEvent, order.udid, when, result(order, outcome, code, attempt=attempt)
    )
    return event


def superseded(order: Job, when: datetime = NOW) -> JobSupersededEvent:
    """The order was withdrawn."""
    data = JobSuperseded(job_id=order.job_id, udid=order.udid, site=order.site)
    event: JobSupersededEvent = _event(JobSupersededEvent, order.udid, when, data)
    return event


def key_of(event: CloudEvent) -> str:
    """Return the Kafka key that an event is published under."""
    if isinstance(event, DeviceEvent):
        return device_key(event)
    return event.data.udid if isinstance(event.data, JobResult) else event.subject  # type: ignore[attr-defined]
