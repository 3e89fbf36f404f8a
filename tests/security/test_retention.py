"""A23: a secret in a payload, under any name and in each input, is in no file of the service."""

import base64
import plistlib
import sqlite3
from pathlib import Path
from typing import Any

from tests.security.target import REPORT, Target, envelope, report, target

SECRET = "correct-horse-battery"
# Of the 18 names under which a secret was kept, and one that no list can have.
NAMES = (
    "adminPass",
    "apiToken2",
    "filevault_recovery_key",
    "Pass.word",
    "pass/word",
    "lapsPassword",
    "managedAdminPassword",
    "pwd",
    "p\u0430ssword",
    "pass\u200bword",
    "zz",
)


def stored(data_dir: Path) -> bytes:
    """Return all bytes of the service's files."""
    with sqlite3.connect(data_dir / "drydock.sqlite") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return b"".join(path.read_bytes() for path in data_dir.rglob("*") if path.is_file())


def spellings() -> list[bytes]:
    return [base64.b64encode(b"x" * n + SECRET.encode())[4:-4] for n in range(3)] + [
        SECRET.encode()
    ]


def test_a23_secret_is_kept_under_no_name_and_from_no_input(tmp_path: Path) -> None:
    secrets = dict.fromkeys(NAMES, SECRET)
    with target(tmp_path) as at:
        deliver(at, secrets)
    for spelling in spellings():
        assert spelling not in stored(tmp_path / "data")


def deliver(at: Target, secrets: dict[str, Any]) -> None:
    """Deliver the secrets as a webhook, as a dead letter, and in events of a sender."""
    udid = "A2300000-0000-4000-8000-000000000001"
    message = {"MessageType": "TokenUpdate", "UDID": udid, "SecurityInfo": secrets, **secrets}
    payload = base64.b64encode(plistlib.dumps(message)).decode()
    hook = {
        "topic": "mdm.TokenUpdate",
        "created_at": "2026-01-01T00:00:00Z",
        "checkin_event": {"udid": udid, "raw_payload": payload, **secrets},
        **secrets,
    }
    assert at.post("/webhooks/nanomdm", hook, "nanomdm").status_code == 200
    unknown = {**hook, "topic": "mdm.Unknown"}
    assert at.post("/webhooks/nanomdm", unknown, "nanomdm").json()["dead_letters"] == 1
    row = {"name": "pack/wifi", "hostIdentifier": udid, "action": "added", "columns": secrets}
    assert at.post("/webhooks/osquery", row, "osquery").json()["dead_letters"] == 1
    at.accept(report("MAC-1", hostname=f"curl -u admin:{SECRET} host", **secrets))
    with_payload = report("MAC-2") | {"rawbase64": payload}
    at.accept(with_payload)
    refused = envelope("inventory.reported", "MAC-3", {**REPORT, **secrets, "udid": "MAC-4"})
    assert at.event(refused).status_code == 400
