"""`drydock run` as an attacker meets it: an address, and the secrets of some senders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from schemas.ids import event_id
from tests.drydock_process import Running, running
from tests.embedded_world import POLICY

SECRETS = {
    kind: f"the-secret-of-{kind}" for kind in ("events", "sofa", "nanomdm", "osquery", "admin")
}
ENV = {f"DRYDOCK_{kind.upper()}_SECRET": secret for kind, secret in SECRETS.items()}
# A Mac that lacks 26.2.
REPORT: dict[str, Any] = {"source": "osquery", "os_version": "26.1", "build": "25B78"}
RELEASE: dict[str, Any] = {
    "source": "sofa",
    "os_line": "26",
    "os_version": "26.2",
    "builds": ["25C56"],
    "released_at": "2025-12-12T00:00:00Z",
    "cves": ["CVE-2025-14174"],
    "severity": "critical",
}


def envelope(kind: str, subject: str, data: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    """Return an event as a sender writes it: a CloudEvent with any attributes."""
    now = datetime.now(UTC).isoformat()
    return {
        "specversion": "1.0",
        "id": event_id(subject, now, json.dumps(data, default=str)),
        "source": "/attacker",
        "type": f"drydock.{kind}.v1",
        "subject": subject,
        "time": now,
        "data": data,
        **attributes,
    }


def report(name: str, /, **data: Any) -> dict[str, Any]:
    """Return an inventory report of a Mac that lacks 26.2."""
    fields = {**REPORT, "udid": name, "serial": f"C02{name}", "model": "Mac15,12", **data}
    return envelope("inventory.reported", name, fields)


def release(**data: Any) -> dict[str, Any]:
    """Return the statement of a release."""
    fields = {**RELEASE, **data}
    return envelope("advisory.published", f"macOS-{fields['os_version']}", fields)


@dataclass
class Target:
    """A running service with a policy."""

    service: Running
    data_dir: Path
    http: httpx.Client

    def post(
        self, path: str, body: Any, sender: str | None = "events", **headers: str
    ) -> httpx.Response:
        """Post JSON with the secret of a sender; None sends no secret."""
        if sender is not None:
            headers["X-Drydock-Secret"] = SECRETS[sender]
        return self.http.post(path, content=json.dumps(body, default=str), headers=headers)

    def event(self, event: dict[str, Any], sender: str = "events") -> httpx.Response:
        """Post an event to /v1/events."""
        return self.post("/v1/events", event, sender)

    def accept(self, event: dict[str, Any], sender: str = "events") -> None:
        """Post an honest event, which is accepted."""
        response = self.event(event, sender)
        assert response.status_code == 200, response.text

    def refusal(self, event: dict[str, Any], sender: str = "events") -> str:
        """Post an event that is refused; return the code of the refusal."""
        response = self.event(event, sender)
        assert response.status_code == 400, response.text
        (problem,) = response.json()["errors"]
        return str(problem["code"])

    def mac(self, name: str) -> dict[str, Any] | None:
        """Return the state, jobs and last decision of a Mac; None if it is unknown."""
        response = self._read(f"/v1/devices/{name}")
        found: dict[str, Any] = response.json()
        return None if response.status_code == 404 else found

    def decision(self, name: str) -> dict[str, Any]:
        """Return the last decision of a Mac."""
        found = self.mac(name)
        assert found is not None
        decision: dict[str, Any] = found["decision"]
        return decision

    def status(self) -> dict[str, Any]:
        """Return the status of the fleet."""
        found: dict[str, Any] = self._read("/v1/status").json()
        return found

    def is_ready(self) -> bool:
        """Return True if the service accepts inputs."""
        return self.http.get("/readyz").status_code == 200

    def _read(self, path: str) -> httpx.Response:
        token = (self.data_dir / "keys" / "admin.token").read_text().strip()
        return self.http.get(path, headers={"Authorization": f"Bearer {token}"})


@contextmanager
def target(
    folder: Path, *options: str, secrets: bool = True, policy_text: str = POLICY
) -> Iterator[Target]:
    """Run a service in a folder within the block, with or without the secrets of senders."""
    policy = folder / "policy.yaml"
    policy.write_text(policy_text)
    data_dir = folder / "data"
    env = ENV if secrets else {}
    with (
        running(data_dir, "--policy", str(policy), *options, env=env) as service,
        httpx.Client(base_url=service.url, trust_env=False, timeout=60) as http,
    ):
        yield Target(service, data_dir, http)
