"""`drydock run` as a process, killed with -9 at seeded moments and started again."""

import base64
import json
import os
import plistlib
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from pipeline.embedded.log import Log
from schemas.envelope import JobIssuedEvent, decode
from tests.drydock_process import ENDS_WITHIN_S, Running, running

SEED = int(os.environ.get("DRYDOCK_CHAOS_SEED", "1"))
KILLS = 3
SIMULATED = ("--simulate", "12")


def authenticate(udid: str) -> bytes:
    """Return NanoMDM's webhook for a Mac that starts to enroll."""
    payload = {
        "MessageType": "Authenticate",
        "UDID": udid,
        "SerialNumber": f"C02{udid[-6:]}",
        "OSVersion": "26.1",
        "BuildVersion": "25B78",
        "ProductName": "Mac15,12",
        "Topic": "com.apple.mgmt.External.test",
    }
    raw = base64.b64encode(plistlib.dumps(payload)).decode()
    event = {"ids": {"id": udid, "type": "Device"}, "udid": udid, "raw_payload": raw}
    hook = {
        "topic": "mdm.Authenticate",
        "event_id": f"{int(udid[-6:]):016x}",
        "created_at": "2026-11-20T10:00:00.123456789Z",
        "checkin_event": event,
    }
    return json.dumps(hook).encode()


def post_until_killed(service: Running, names: Iterator[str], kill_after: int) -> list[str]:
    """Post webhooks until the service is killed; return the UDIDs whose response was 200."""
    accepted = []
    with httpx.Client(trust_env=False, timeout=ENDS_WITHIN_S) as client:
        for posted, udid in enumerate(names):
            if posted == kill_after:
                service.process.send_signal(signal.SIGKILL)
            try:
                response = client.post(
                    f"{service.url}/webhooks/nanomdm", content=authenticate(udid)
                )
            except httpx.TransportError:
                break
            if response.status_code == 200:
                accepted.append(udid)
    service.ended()
    return accepted


@pytest.mark.slow
def test_no_accepted_webhook_is_lost_and_no_job_runs_twice(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    data_dir = tmp_path / "data"
    lines: list[str] = []
    names = (f"POSTED-{number:06}" for number in range(100_000))
    accepted: list[str] = []
    for _ in range(KILLS):
        with running(data_dir, *SIMULATED) as service:
            accepted += post_until_killed(service, names, chance.randrange(0, 60))
            lines += service.log_lines
    with running(data_dir, *SIMULATED) as service:
        with httpx.Client(trust_env=False, timeout=ENDS_WITHIN_S) as client:
            assert client.get(f"{service.url}/readyz").status_code == 200
            last = f"{service.url}/webhooks/nanomdm"
            assert client.post(last, content=authenticate("POSTED-999999")).status_code == 200
        assert service.end(signal.SIGTERM) == 0
    lines += service.log_lines
    bad = [line for line in lines if json.loads(line)["level"] == "error"]
    assert bad == [], f"seed {SEED}"

    with Log.open(data_dir) as log:
        rows = list(log.entries(kind="event"))
        assert log.dead_letter_counts() == {}
    logged = Counter(row.key for row in rows if row.type == "drydock.mdm.authenticated.v1")
    assert accepted
    lost = [udid for udid in accepted if logged[udid] != 1]
    assert lost == [], f"seed {SEED}: not in the log exactly once"
    assert max(Counter((row.source, row.id) for row in rows).values()) == 1

    events = [decode(row.body) for row in rows if row.type == "drydock.job.issued.v1"]
    jobs = Counter(one.data.job.job_id for one in events if isinstance(one, JobIssuedEvent))
    assert jobs
    assert max(jobs.values()) == 1
    with closing(sqlite3.connect(data_dir / "simulated-macs.sqlite")) as orders:
        given = Counter(job for (job,) in orders.execute("SELECT job FROM orders"))
    assert max(given.values()) == 1, f"seed {SEED}: a Mac was acted on twice"
