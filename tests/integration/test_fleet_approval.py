"""`drydock approve` for a fleet on Kafka: a person approves the erase of one Mac (A3, A27)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.signing_keys import KeyStore
from pipeline.trust.stamps import Stamps
from runtime.trusted_keys import Purpose
from schemas.envelope import encode
from schemas.topics import ADVISORIES, INVENTORY
from tests import factories
from tests.kafka.agent_site import drydock
from tests.kafka.gateways import STAMP_KEY
from tests.kafka.started import started
from tests.kafka.workers import Workers, eventually

TOKEN = "a-token-of-the-tests"
POLICY = """\
sites: {london: {time_zone: Europe/London}}
default_site: london
blast_radius: {jobs_per_hour: null, confirmed_only: false}
approvals: {lasts_at_most: 7d}
"""
MACS = LOANER, OTHER, SOUND = "LOANER-1", "LOANER-2", "SOUND-1"


@dataclass(frozen=True)
class Fleet:
    """A worker, and `drydock query` at `url`; two loan units wait."""

    workers: Workers
    url: str
    folder: Path

    def approve(self, name: str, *options: str, keys: str = "keys") -> tuple[int, str]:
        """Run the command; return its exit code, and its output or error."""
        done = drydock(
            *("approve", name, "--server", self.url, "--token-file", str(self.folder / "token")),
            *("--bootstrap", self.workers.kafka.bootstrap, "--keys", str(self.folder / keys)),
            *("--by", "ada", *options),
        )
        return done.returncode, done.stdout + done.stderr

    def erasing_jobs(self) -> list[str]:
        """Return the UDIDs of the Macs for which an erasing job was published."""
        return [one.data.job.udid for one in self.workers.published() if one.data.job.erases]

    def waiting_job(self, udid: str) -> str:
        """Return the id of the job of this Mac that waits for an approval."""
        last = [one.decision for one in self.workers.decisions() if one.decision.udid == udid][-1]
        assert last.reason == "awaiting_approval"
        assert last.job_id is not None
        return last.job_id


@pytest.fixture
def fleet(workers: Workers, tmp_path: Path) -> Iterator[Fleet]:
    keys = tmp_path / "keys"
    for purpose in (Purpose.CONTROL, Purpose.APPROVALS, Purpose.JOBS):
        KeyStore(keys).make(purpose)
    KeyStore(tmp_path / "stranger").make(Purpose.APPROVALS)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "policy.yaml").write_text(POLICY)
    bootstrap = workers.kafka.bootstrap
    workers.stamp_key, workers.control_keys = STAMP_KEY, keys
    now = datetime.now(UTC)
    workers.set_clock(now + timedelta(minutes=1))
    where = ("--keys", str(keys), "--bootstrap", bootstrap, "--by", "ada")
    done = drydock("policy", "publish", str(tmp_path / "policy.yaml"), *where)
    assert done.returncode == 0, done.stderr
    workers.start()
    stamps = Stamps([STAMP_KEY.encode()])
    workers.send_raw(ADVISORIES.name, stamps.stamp(encode(factories.release("26.2"))))
    sound = {"os_version": "26.2", "build": "25C56", "model": "Mac15,12", "mdm_enrolled": True}
    returned = {"loan_returned_at": now - timedelta(hours=1), "ownership": "loan"}
    for event in (
        *(factories.reported(udid, now, "mdm", serial=f"C02{udid}", **sound) for udid in MACS),
        *(factories.reported(udid, now, "admin", **returned) for udid in MACS[:2]),
    ):
        workers.send_raw(INVENTORY.name, stamps.stamp(encode(event)))
    workers.wait_caught_up()
    env = {"DRYDOCK_STAMP_KEYS": STAMP_KEY, "DRYDOCK_ADMIN_TOKEN": TOKEN}
    with started(tmp_path, "query", ("query", "--keys", str(keys)), bootstrap, env) as url:
        yield Fleet(workers, url, tmp_path)


def test_approval_erases_the_one_mac_that_the_approver_saw(fleet: Fleet) -> None:
    job_id, other_id = fleet.waiting_job(LOANER), fleet.waiting_job(OTHER)
    code, shown = fleet.approve(f"c02{LOANER.lower()}", "--yes", "--hours", "2", "--why", "desk 4")
    assert code == 0, shown
    for text in (LOANER, f"C02{LOANER}", job_id, "erase", "ada", "desk 4", "until"):
        assert text in shown
    eventually(lambda: bool(fleet.erasing_jobs()), "the job is published")
    fleet.workers.wait_caught_up()
    assert fleet.erasing_jobs() == [LOANER]
    # The other one by its job, as JSON.
    code, printed = fleet.approve(other_id, "--json")
    assert (code, json.loads(printed)) == (0, {"approved": other_id})
    eventually(lambda: len(fleet.erasing_jobs()) == 2, "the other job is published")
    assert fleet.workers.dead_letters() == []


def test_approval_is_refused_before_it_is_published(fleet: Fleet) -> None:
    refused = {
        "a Mac that awaits none": (SOUND, "--yes"),
        "an unknown Mac": ("C02UNKNOWN", "--yes"),
        "a job that no Mac has": ("job-0123", "--yes"),
        "an end after the policy's limit": (LOANER, "--yes", "--hours", "200"),
        "a person who says no": (LOANER,),
    }
    for what, arguments in refused.items():
        code, error = fleet.approve(*arguments)
        assert code != 0, what
        assert "Traceback" not in error, what
    assert fleet.approve(LOANER, "--yes", keys="nowhere")[0] == 2
    # The key of a stranger signs, but no worker trusts it.
    assert fleet.approve(LOANER, "--yes", keys="stranger")[0] == 0
    fleet.workers.wait_caught_up()
    assert fleet.erasing_jobs() == []
    assert [one.code.value for one in fleet.workers.dead_letters()] == ["bad_value"]
