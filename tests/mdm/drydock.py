"""The two forms of Drydock as programs that manage Macs through real MDM servers."""

import json
import os
import plistlib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import httpx
from kafka import KafkaProducer  # type: ignore[import-untyped]

from pipeline.demo.embedded import log_lines
from pipeline.demo.outcome import RunOutcome, read_outcome
from pipeline.embedded.control_events import approval_granted
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.trusted_keys import Purpose
from schemas.decisions import Decision
from schemas.envelope import AdvisoryEvent, CloudEvent, InventoryEvent, encode
from schemas.topics import CONTROL
from tests.chaos.programs import DRYDOCK, STAMPS_ENV, Fleet, Kind, Program
from tests.drydock_process import running
from tests.fleet_demo.reading import Reading
from tests.kafka.brokers import KafkaCluster, free_ports
from tests.mdm.company import POLICY, SITES
from tests.mdm.servers import HMAC_KEY, KMFDDM_KEY, NANOMDM_KEY, Ports
from tests.waiting import wait_until

_READY_S = 90.0
# In the enrollment profile, which only the agent may read.
CHALLENGE = "the-challenge-of-the-enrollment"
# Secrets of the senders, as settings of Drydock.
SENDERS = {
    "DRYDOCK_NANOMDM_HMAC_KEY": HMAC_KEY,
    "DRYDOCK_EVENTS_SECRET": "the-secret-of-events",
    "DRYDOCK_ADMIN_SECRET": "the-secret-of-admin",
    "DRYDOCK_SOFA_SECRET": "the-secret-of-sofa",
}


class Drydock(Protocol):
    """A running Drydock, in either form."""

    @property
    def webhook_url(self) -> str:
        """The address for NanoMDM's webhooks."""
        ...

    def read_feed(self, document: bytes) -> None:
        """Let it read this SOFA feed."""
        ...

    def accept(self, event: CloudEvent) -> None:
        """Let it accept an event."""
        ...

    def outcome(self) -> RunOutcome:
        """Return decisions and jobs so far."""
        ...

    def approve(self, serial: str) -> None:
        """Permit one erasing job on this Mac."""
        ...

    def pages(self) -> dict[str, bytes]:
        """Return what it shows outside of its files, by name: metrics, and a log in memory."""
        ...


def write_config(folder: Path, ports: Ports, destructive: tuple[str, ...] = ()) -> Path:
    """Write the configuration of the sites, and the logins beside it; return its path.

    `destructive` are the serial numbers of Macs that may be erased.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, key in (("nanomdm", NANOMDM_KEY), ("kmfddm", KMFDDM_KEY)):
        (folder / f"{name}.key").write_text(key)
        (folder / f"{name}.key").chmod(0o600)
    profile = folder / "enroll.mobileconfig"
    profile.write_bytes(
        plistlib.dumps(
            {
                "PayloadType": "Configuration",
                "PayloadContent": [{"PayloadType": "com.apple.mdm", "Challenge": CHALLENGE}],
            }
        )
    )
    profile.chmod(0o600)
    server = {
        "name": "nanomdm",
        "kind": "nanomdm",
        "url": ports.nanomdm_url,
        "login": f"file:{folder / 'nanomdm.key'}",
        "ddm": {"url": ports.kmfddm_url, "login": f"file:{folder / 'kmfddm.key'}"},
        "enrollment_profile": str(profile),
        "max_requests_per_s": 500,
    }
    site = {
        "methods": ["ddm", "mdm_command", "erase_device", "install_profile"],
        "mdm_servers": [server],
        "allow_destructive": list(destructive),
    }
    sites = {name: site | {"time_zone": zone} for name, zone in SITES.items()}
    path = folder / "agent.yaml"
    path.write_text(json.dumps({"version": 1, "sites": sites}))  # JSON is YAML
    return path


@dataclass
class Embedded:
    """`drydock run`."""

    url: str
    data_dir: Path
    http: httpx.Client
    log_lines: list[str]

    @classmethod
    @contextmanager
    def run(cls, folder: Path, config: Path) -> "Iterator[Embedded]":
        """Run it within the block."""
        policy = folder / "policy.yaml"
        policy.write_text(POLICY)
        data_dir = folder / "data"
        options = ("--policy", str(policy), "--config", str(config))
        _drydock("keys", "make", "--dir", str(data_dir / "keys"), "--purpose", "all")
        with (
            running(data_dir, *options, env=SENDERS) as service,
            httpx.Client(base_url=service.url, trust_env=False, timeout=60) as http,
        ):
            yield cls(service.url, data_dir, http, service.log_lines)

    @property
    def webhook_url(self) -> str:
        """The address for NanoMDM's webhooks."""
        return f"{self.url}/webhooks/nanomdm"

    def read_feed(self, document: bytes) -> None:
        """Post the feed; it is accepted."""
        response = self.http.post("/v1/feeds/sofa", content=document, headers=_secret("SOFA"))
        response.raise_for_status()
        assert response.json()["outcome"] == "accepted"

    def accept(self, event: CloudEvent) -> None:
        """Post the event."""
        _post_event(self.http, self.url, event)

    def outcome(self) -> RunOutcome:
        """Return decisions and jobs so far, from its log."""
        return read_outcome(log_lines(self.data_dir))

    def approve(self, serial: str) -> None:
        """Permit one erasing job on this Mac."""
        _drydock("approve", serial, "--data-dir", str(self.data_dir), "--yes")

    def pages(self) -> dict[str, bytes]:
        """Return the page of the metrics, and the log."""
        return {
            "metrics": self.http.get("/metrics").raise_for_status().content,
            "log": "".join(self.log_lines).encode(),
        }


@dataclass
class OnKafka:
    """A gateway, a worker, and an agent for each site, on one broker."""

    folder: Path
    connection: KafkaConnection
    gateway: str
    reading: Reading
    listeners: dict[str, str]

    @classmethod
    @contextmanager
    def run(cls, folder: Path, config: Path, kafka: KafkaCluster) -> "Iterator[OnKafka]":
        """Run them within the block, on a broker without Drydock's topics."""
        connection = KafkaConnection(bootstrap=kafka.bootstrap)
        at = ("--bootstrap", kafka.bootstrap)
        sizes = ("--partitions", "2", "--replication", "1", "--timeout", "60")
        _drydock("topics", "apply", "--sites", ",".join(SITES), *sizes, *at)
        keys = folder / "keys"
        _drydock("keys", "make", "--dir", str(keys), "--purpose", "all")
        (folder / "policy.yaml").write_text(POLICY)
        _drydock("policy", "publish", str(folder / "policy.yaml"), "--keys", str(keys), *at)
        names = ("gateway", "worker", *SITES)
        listeners = {
            name: f"127.0.0.1:{port}"
            for name, port in zip(names, free_ports(len(names)), strict=True)
        }

        def program(kind: Kind, name: str, *options: str, **env: str) -> Program:
            data_dir = folder / name
            where = ("--data-dir", str(data_dir), "--listen", listeners[name])
            command = (*DRYDOCK, kind.value, *options, *where, *at)
            log = folder / f"{name}.log"
            return Program(kind, name, data_dir, command, log, STAMPS_ENV | env)

        signing = ("--keys", str(keys))
        agent = ("--config", str(config), "--session-s", "6", *signing)
        fleet = Fleet(
            (
                program(Kind.GATEWAY, "gateway", *signing, **SENDERS),
                program(Kind.WORKER, "worker", *signing),
                *(program(Kind.AGENT, site, "--site", site, *agent) for site in SITES),
            )
        )
        with ExitStack() as stack:
            stack.callback(fleet.kill)
            fleet.start()
            wait_until(
                lambda: all(_is_ready(listeners[one], fleet) for one in ("gateway", "worker")),
                _READY_S,
                "gateway and worker are not ready",
            )
            reading = Reading(connection)
            stack.callback(reading.close)
            yield cls(folder, connection, f"http://{listeners['gateway']}", reading, listeners)
            codes = fleet.end()
            assert not any(codes.values()), codes

    @property
    def webhook_url(self) -> str:
        """The address for NanoMDM's webhooks."""
        return f"{self.gateway}/webhooks/nanomdm"

    def read_feed(self, document: bytes) -> None:
        """Let `drydock feeds` read the feed once."""
        feed = self.folder / "sofa.json"
        feed.write_bytes(document)
        options = ("--sofa", str(feed), "--gdmf", "none", "--kev", "none")
        where = ("--data-dir", str(self.folder / "feeds"), "--bootstrap", self.connection.bootstrap)
        _drydock("feeds", "--once", *options, *where)

    def accept(self, event: CloudEvent) -> None:
        """Post the event to the gateway."""
        with httpx.Client(trust_env=False, timeout=60) as http:
            _post_event(http, self.gateway, event)

    def outcome(self) -> RunOutcome:
        """Return decisions and jobs so far, from the topics."""
        self.reading.read_on()
        return self.reading.outcome

    def pages(self) -> dict[str, bytes]:
        """Return the pages of the metrics; the logs are files."""
        with httpx.Client(trust_env=False, timeout=60) as http:
            return {
                f"metrics of {name}": http.get(f"http://{at}/metrics").raise_for_status().content
                for name, at in self.listeners.items()
            }

    def approve(self, serial: str) -> None:
        """Permit one erasing job on this Mac: publish a signed approval."""
        [latest] = [one for one in self.outcome().latest.values() if one["serial"] == serial]
        now, key = datetime.now(UTC), KeyStore(self.folder / "keys").signer(Purpose.APPROVALS)
        decision = Decision.model_validate(latest)
        event = approval_granted(decision, "test", now, timedelta(hours=1), key)
        with closing(KafkaProducer(**self.connection.producer_options())) as producer:
            producer.send(CONTROL.name, key=event.subject.encode(), value=encode(event)).get(30)


def _secret(sender: str) -> dict[str, str]:
    return {"X-Drydock-Secret": SENDERS[f"DRYDOCK_{sender}_SECRET"]}


def _post_event(http: httpx.Client, url: str, event: CloudEvent) -> None:
    """Post a release with the secret of its feed, another event with that of its source."""
    if isinstance(event, AdvisoryEvent):
        headers = _secret("SOFA")
    else:
        is_admin = isinstance(event, InventoryEvent) and event.data.source == "admin"
        headers = _secret("ADMIN" if is_admin else "EVENTS")
    http.post(f"{url}/v1/events", content=encode(event), headers=headers).raise_for_status()


def _drydock(*arguments: str) -> None:
    done = subprocess.run(
        [*DRYDOCK, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | STAMPS_ENV,
    )
    assert done.returncode == 0, done.stderr


def _is_ready(address: str, fleet: Fleet) -> bool:
    for one in fleet.programs:
        assert one.is_running, one.log_tail(3000)
    try:
        return httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
