"""A log in memory, made by a real reconciler that is driven like the embedded service."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.embedded.log import StoredSnapshot
from pipeline.embedded.names import event_names, record_names
from pipeline.payload_signing import sign_job
from pipeline.policy.file import policy_digest
from pipeline.reconcile.changes import Changes, Input
from pipeline.reconcile.reconciler import Reconciler
from pipeline.replay.log import Kind, read_record
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    AdvisoryPublishedEvent,
    AdvisorySeverityRaisedEvent,
    AttemptsResetEvent,
    AuthenticatedEvent,
    CheckedOutEvent,
    Event,
    HaltClearedEvent,
    HaltSetEvent,
    InventoryEvent,
    JobIssuedEvent,
    JobResultedEvent,
    PolicyChangedEvent,
    TokenUpdatedEvent,
    decode,
    encode,
)
from schemas.events.control import HaltScope, ResetScope
from schemas.ids import event_id
from schemas.jobs import Job
from schemas.routing import event_key

START = datetime(2025, 12, 12, 9, 0, tzinfo=UTC)
_UNLIMITED = 1 << 30
KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
BUILDS = {
    "14.8.3": "23J220",
    "15.7.2": "24G325",
    "15.7.3": "24G419",
    "26.1": "25B78",
    "26.2": "25C56",
}

POLICY = """\
version: 1
sites:
  london:
    time_zone: Europe/London
    max_jobs: 2
    match: {hostnames: ["ldn-*"]}
  tokyo:
    time_zone: Asia/Tokyo
    match: {hostnames: ["tyo-*"]}
windows:
  - {from: "22:00", to: "05:00"}
deadlines:
  critical: 7d
  high: 14d
blast_radius: {jobs_per_hour: null, confirmed_only: false}
"""


class Entry(NamedTuple):
    seq: int
    kind: Kind
    at: datetime
    source: str
    id: str
    type: str
    key: str
    body: bytes


@dataclass
class MemoryLog:
    """A LogReader and StateReader over lists and dicts, which tests alter."""

    rows: list[Entry] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    kept_devices: dict[str, bytes] = field(default_factory=dict)
    kept_job_histories: dict[str, bytes] = field(default_factory=dict)

    def entries(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        kind: Kind | None = None,
        after: int = 0,
    ) -> Iterator[Entry]:
        for row in self.rows:
            if (
                (since is None or row.at >= since)
                and (until is None or row.at < until)
                and (key is None or row.key == key)
                and (kind is None or row.kind == kind)
                and row.seq > after
            ):
                yield row

    def key_of_name(self, name: str, kind: Kind) -> str | None:
        found = None
        for row in self.entries(kind=kind):
            names = (
                record_names(read_record(row))
                if kind == "decision"
                else event_names(decode(row.body))
            )
            if ("serial", name.upper()) in names or ("enrollment_id", name) in names:
                found = row.key
        return found

    def start_seq(self) -> int:
        return 0

    def snapshots(self) -> list[StoredSnapshot]:
        return []

    def snapshot(self, _: int) -> bytes | None:
        return None

    def blob(self, digest: str) -> bytes | None:
        return self.blobs.get(digest)

    def last_seq(self, until: datetime | None = None) -> int:
        return max((row.seq for row in self.entries(until=until)), default=0)

    def last_at(self) -> datetime | None:
        return max((row.at for row in self.rows), default=None)

    def devices(self) -> Iterator[tuple[str, bytes]]:
        yield from self.kept_devices.items()

    def job_histories(self) -> Iterator[tuple[str, bytes]]:
        yield from self.kept_job_histories.items()

    def decisions(self) -> list[Entry]:
        return list(self.entries(kind="decision"))


class Driver:
    """Drives a reconciler and logs its changes."""

    def __init__(self, policy: str | None = POLICY) -> None:
        self.reconciler = Reconciler(sign=lambda job: sign_job(job, KEY))
        self.log = MemoryLog()
        self.now = START
        self.jobs: dict[str, Job] = {}
        self._known: set[tuple[str, str]] = set()
        if policy is not None:
            self.policy(policy)

    # --- events ---

    def handle_event(self, event: Event) -> None:
        if (event.source, event.id) in self._known:
            return
        changes = self.reconciler.apply([Input(event, encode(event))], self.now)
        assert not changes.rejections, changes.rejections
        self._append_event(event, encode(event))
        self._record(self.reconciler.decide_marked(self.now, _UNLIMITED, changes))

    def wait(self, **time: float) -> None:
        """Let time pass in steps of an hour, and decide for each Mac that is due."""
        end = self.now + timedelta(**time)
        while self.now < end:
            self.now = min(end, self.now + timedelta(hours=1))
            self._record(self.reconciler.advance(self.now, _UNLIMITED))

    def policy(self, text: str) -> None:
        data = {"digest": policy_digest(text), "text": text, "by": "sre"}
        self.handle_event(self._event(PolicyChangedEvent, "policy", data))

    def publish(self, version: str, **fields: Any) -> None:
        self.handle_event(
            self._event(AdvisoryPublishedEvent, f"macOS-{version}", release(version, **fields))
        )

    def raise_severity(self, version: str, **fields: Any) -> None:
        data = release(version, **fields)
        self.handle_event(self._event(AdvisorySeverityRaisedEvent, f"macOS-{version}", data))

    def enroll(self, udid: str) -> None:
        self.handle_event(self._event(AuthenticatedEvent, udid, {"udid": udid}))
        self.handle_event(self._event(TokenUpdatedEvent, udid, {"udid": udid, "tally": 1}))

    def check_out(self, udid: str) -> None:
        self.handle_event(self._event(CheckedOutEvent, udid, {"udid": udid}))

    def report(self, udid: str, version: str = "15.7.2", **fields: Any) -> None:
        self.handle_event(self._event(InventoryEvent, udid, inventory(udid, version, **fields)))

    def report_serial(self, serial: str, **fields: Any) -> None:
        """Report a Mac from a source that has no UDID."""
        data = {"source": "munki", "serial": serial, **fields}
        self.handle_event(self._event(InventoryEvent, f"serial:{serial}", data))

    def halt(self, *, clear: bool = False, **scope: Any) -> None:
        kind = HaltClearedEvent if clear else HaltSetEvent
        data = {"scope": scope, "by": "sre"} | ({} if clear else {"why": "CHG-123"})
        self.handle_event(self._event(kind, HaltScope(**scope).key, data))

    def reset_attempts(self, **fields: Any) -> None:
        data = {"by": "sre", "why": "cable replaced", **fields}
        subject = ResetScope(**data["scope"]).key
        self.handle_event(self._event(AttemptsResetEvent, subject, data))

    def result(self, udid: str, outcome: str, **fields: Any) -> None:
        """Report a result of the Mac's last job; nothing if the Mac never had a job."""
        job = self.jobs.get(udid)
        if job is not None:
            data = {
                "job_id": job.job_id,
                "udid": udid,
                "site": job.site,
                "outcome": outcome,
                **fields,
            }
            self.handle_event(self._event(JobResultedEvent, udid, data))

    # --- changes ---

    def _record(self, changes: Changes) -> None:
        for udid, body, value in changes.records:
            if isinstance(value, DecisionRecord):
                row = ("", "", "decision", udid, body)
                self.log.rows.append(Entry(len(self.log.rows) + 1, "decision", self.now, *row))
                inputs = value.inputs
                self._keep_blobs(inputs.policy_digest or "", inputs.catalog_digest)
                continue
            self._append_event(value, body)
            if isinstance(value, JobIssuedEvent):
                self.jobs[udid] = value.data.job

    def _append_event(self, event: Event, body: bytes) -> None:
        self._known.add((event.source, event.id))
        row = (event.source, event.id, event.type, event_key(event), body)
        self.log.rows.append(Entry(len(self.log.rows) + 1, "event", self.now, *row))

    def _keep_blobs(self, policy: str, catalogue: str) -> None:
        fleet = self.reconciler.fleet
        assert fleet.policy is not None
        self.log.blobs.setdefault(policy, fleet.policy.text.encode())
        if catalogue not in self.log.blobs:
            self.log.blobs[catalogue] = json.dumps(fleet.advisories.to_wire()).encode()

    def _event(self, kind: type[Any], subject: str, data: dict[str, Any]) -> Any:
        identity = event_id(kind.__name__, json.dumps(data, sort_keys=True), str(self.now))
        return kind(id=identity, source="/test", subject=subject, time=self.now, data=data)

    # --- stored state ---

    def finish(self) -> MemoryLog:
        """Return the log with the folded state beside it."""
        fleet = self.reconciler.fleet
        for udid, device in fleet.devices.items():
            self.log.kept_devices[udid] = json.dumps(device.to_wire()).encode()
        for udid, history in fleet.job_histories.items():
            wire = [entry.to_wire() for entry in history]
            self.log.kept_job_histories[udid] = json.dumps(wire).encode()
        return self.log


def release(version: str, **fields: Any) -> dict[str, Any]:
    return {
        "source": "sofa",
        "os_line": version.split(".", maxsplit=1)[0],
        "os_version": version,
        "builds": [BUILDS[version]],
        "released_at": START.isoformat(),
        **fields,
    }


def inventory(udid: str, version: str, **fields: Any) -> dict[str, Any]:
    site = {"LON": "ldn", "TYO": "tyo"}.get(udid[:3], "nowhere")
    return {
        "source": "osquery",
        "udid": udid,
        "serial": f"SN{udid}",
        "os_version": version,
        "build": BUILDS[version],
        "model": "Mac16,1",
        "hostname": f"{site}-{udid.lower()}",
        "supervised": True,
        "user_approved": True,
        "bootstrap_token_escrowed": True,
        "free_disk_gb": 120.5,
        "on_ac_power": True,
        **fields,
    }


def pilot() -> MemoryLog:
    """A Mac at a site in dry run, and one at a live site whose attempts failed and were reset."""
    d = Driver()
    d.publish("15.7.2", severity="high", cves=["CVE-2025-1000"])
    for udid in ("TYO-1", "LON-1"):
        d.enroll(udid)
        d.report(udid)
    d.publish("15.7.3", severity="critical", cves=["CVE-2025-2000"])
    d.wait(hours=4)
    d.result("TYO-1", "accepted")
    d.result("TYO-1", "withheld", detail="dry run")
    d.wait(hours=9)
    d.result("LON-1", "started")
    d.result("LON-1", "failed", error_code="command_rejected")
    d.wait(hours=1)
    d.reset_attempts(scope={"site": "london"}, cause="command_rejected")
    return d.finish()


def story() -> MemoryLog:
    """Two sites: an advisory is published, jobs run, one fails, a Mac lacks disk space, a halt."""
    d = Driver()
    d.publish("15.7.2", severity="high", cves=["CVE-2025-1000"])
    d.publish("26.1", severity="high", cves=["CVE-2025-1001"])
    for udid in ("LON-1", "LON-2", "LON-3", "TYO-1"):
        d.enroll(udid)
        d.report(udid)
    d.report("TYO-2", "26.1")
    d.enroll("TYO-2")
    d.report("TYO-3", free_disk_gb=3.0)
    d.enroll("TYO-3")
    d.wait(hours=3)
    d.publish("15.7.3", severity="critical", cves=["CVE-2025-2000", "CVE-2025-2001"])
    d.publish("26.2", severity="high", cves=["CVE-2025-2001"])
    d.wait(hours=10)
    for udid in ("LON-1", "LON-2", "TYO-1"):
        for outcome in ("accepted", "started", "acted"):
            d.result(udid, outcome)
    d.halt(site="tokyo")
    d.wait(hours=1)
    d.report("LON-1", "15.7.3")
    d.result("LON-2", "failed", error_code="install_failed")
    d.wait(hours=12)
    d.halt(clear=True, site="tokyo")
    d.raise_severity(
        "26.2", severity="high", cves=["CVE-2025-2001"], exploited_cves=["CVE-2025-2001"]
    )
    d.report("TYO-3", free_disk_gb=80.0)
    d.check_out("LON-3")
    d.wait(hours=18)
    return d.finish()
