"""Attacks on the fleet form by who writes topics, or has a clock or a key (A11, A18 to A21).

`make test-security` runs them beside tests/security.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.signing_keys import KeyStore
from pipeline.trust.stamps import Stamps
from runtime.trusted_keys import Purpose
from schemas.envelope import ControlEvent, DeviceEvent, JobIssuedEvent, JobSupersededEvent, encode
from schemas.ids import event_id
from schemas.jobs import Job
from schemas.topics import ADVISORIES, CONTROL, INVENTORY, jobs_topic
from tests import factories
from tests.factories.sites import (
    JOBS_KEY,
    START,
    STRANGER_KEY,
    a_spec,
    an_erasing_job,
    signed_control,
    signed_job,
    signed_withdrawal,
)
from tests.kafka.agent_site import AgentSite, drydock
from tests.kafka.brokers import KafkaCluster
from tests.kafka.gateways import STAMP_KEY, Server, gateway
from tests.kafka.workers import PARTITIONS, WorkerProcess, Workers, eventually
from tests.security.target import release, report

SECRETS = {name: f"the-secret-of-{name}" for name in ("events", "sofa", "nanomdm")}
DEFAULTS = """\
sites: {london: {time_zone: Europe/London, max_jobs: 2}}
default_site: london
deferrals: {exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}
"""


@pytest.fixture
def strict(workers: Workers) -> Workers:
    """Workers that use only stamped reports and signed control."""
    workers.stamp_key = STAMP_KEY
    return workers


@contextmanager
def open_gateway(kafka: KafkaCluster, folder: Path) -> Iterator[Server]:
    env = {f"DRYDOCK_{name.upper()}_SECRET": secret for name, secret in SECRETS.items()}
    with gateway(kafka, folder, **env) as running:
        yield running


def post(server: Server, sender: str, *events: dict[str, Any]) -> None:
    headers = {"X-Drydock-Secret": SECRETS[sender]}
    url = f"{server.url}/v1/events"
    response = httpx.post(
        url, content=json.dumps(events), headers=headers, trust_env=False, timeout=60
    )
    assert response.status_code == 200, response.text


def codes(workers: Workers) -> list[str]:
    """Return the codes of the dead letters, sorted."""
    return sorted(letter.code.value for letter in workers.dead_letters())


def test_a11_invented_macs_leave_the_capacity_to_honest_ones(
    strict: Workers, tmp_path: Path
) -> None:
    # After the receipt of the release, with which its deferral begins.
    strict.set_clock(datetime.now(UTC) + timedelta(minutes=1))
    strict.send_raw(CONTROL.name, signed_control(factories.policy_changed(DEFAULTS)))
    strict.start()
    with open_gateway(strict.kafka, tmp_path / "gateway") as server:
        post(server, "sofa", release())
        post(server, "events", *(report(f"MAC-FORGED-{number:03}") for number in range(130)))
        honest = report("MAC-HONEST", source="mdm", mdm_enrolled=True, supervised=True)
        post(server, "nanomdm", honest)
    strict.wait_caught_up()
    eventually(lambda: bool(strict.published()), "the honest Mac gets its job")
    assert {event.subject for event in strict.published()} == {"MAC-HONEST"}
    reasons = {one.decision.udid: one.decision.reason for one in strict.decisions()}
    assert reasons["MAC-FORGED-129"] == "not_confirmed"


CLEARING = factories.halt_cleared(site="london").model_copy(
    update={"time": datetime(2099, 1, 1, tzinfo=UTC)}
)
OTHER_POLICY = factories.policy_changed(factories.POLICY_TEXT + "# of the attacker\n")


@pytest.mark.parametrize("event", [CLEARING, OTHER_POLICY], ids=["clearing", "policy"])
def test_a18_unsigned_control_changes_nothing(strict: Workers, event: ControlEvent) -> None:
    worker = start_halted(strict)
    digest = worker.get("/metrics")[1].partition("drydock_policy_info{")[2].partition("}")[0]
    assert digest
    strict.send_raw(
        CONTROL.name,
        encode(event),
        signed_control(event, STRANGER_KEY),
        signed_control(event, JOBS_KEY),
    )
    strict.wait_caught_up()
    assert codes(strict) == ["unsigned"] * 3
    assert worker.metric('drydock_halts{scope="site"}') == 1
    assert f"drydock_policy_info{{{digest}}}" in worker.get("/metrics")[1]
    assert strict.published() == []


def test_a09_invented_release_is_struck_on_the_fleet(strict: Workers, tmp_path: Path) -> None:
    """`drydock advisories` signs with the operators' key, which the workers trust."""
    keys = tmp_path / "keys"
    KeyStore(keys).make(Purpose.CONTROL)
    strict.control_keys = keys
    strict.send_raw(CONTROL.name, signed_control(factories.policy_changed()))
    strict.start()
    stamps = Stamps([STAMP_KEY.encode()])
    stated = factories.release("26.2", source="other", exploited=["CVE-2026-66666"])
    strict.send_raw(ADVISORIES.name, stamps.stamp(encode(stated)))
    strict.send_raw(INVENTORY.name, stamps.stamp(encode(factories.full_report("26.1"))))
    strict.wait_caught_up()
    assert "CVE-2026-66666" in strict.decisions()[-1].decision.cves
    where = ("--bootstrap", strict.kafka.bootstrap, "--keys", str(keys), "--why", "invented")
    for act, is_exposed in (("strike", False), ("restore", True)):
        done = drydock("advisories", act, "26.2", *where, "--json")
        assert done.returncode == 0, done.stderr
        assert [*json.loads(done.stdout).values()] == [["macOS-26.2 other"]]
        strict.wait_caught_up()
        assert ("CVE-2026-66666" in strict.decisions()[-1].decision.cves) is is_exposed


def start_halted(strict: Workers) -> WorkerProcess:
    """Start a worker with a policy and a halted site, and wait for both."""
    genuine = (factories.policy_changed(), factories.halted(site="london"))
    strict.send_raw(CONTROL.name, *(signed_control(event) for event in genuine))
    worker = strict.start()
    strict.wait_caught_up()
    eventually(lambda: worker.metric('drydock_halts{scope="site"}') == 1, "the halt is in force")
    return worker


def test_a18_reports_without_a_stamp_change_nothing(strict: Workers) -> None:
    strict.send_raw(CONTROL.name, signed_control(factories.policy_changed()))
    strict.start()
    forged: list[DeviceEvent] = [*factories.enrolled("MAC-1"), factories.full_report("26.1")]
    strict.send_raw(INVENTORY.name, *(encode(event) for event in forged))
    strict.wait_caught_up()
    assert codes(strict) == ["unstamped"] * len(forged)
    assert strict.state() == {}


@pytest.fixture
def site(
    kafka: KafkaCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[AgentSite]:
    # The cases of one test have names that differ only at their end.
    case = sha256(request.node.name.encode()).hexdigest()[:8]
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    with AgentSite.at(kafka, tmp_path, f"{name}-{case}", 4) as made:
        yield made


def issued(job: Job, **keys: Any) -> bytes:
    """Return the record of a job that is signed with another key than the site trusts."""
    return encode(
        JobIssuedEvent(
            id=event_id("issued", job.job_id),
            source="/drydock/decide",
            subject=job.udid,
            time=job.issued_at,
            data=signed_job(job, **keys),
        )
    )


def test_a18_forged_end_of_a_halt_starts_no_job(site: AgentSite) -> None:
    here = ("--bootstrap", site.bootstrap, "--keys", str(site.folder / "keys"))
    assert drydock("halt", "--site", site.name, "--why", "drill", *here).returncode == 0
    agent = site.start("one")
    site.is_assigned(agent, PARTITIONS)
    clearing = factories.halt_cleared(site=site.name).model_copy(update={"time": CLEARING.time})
    forged = (encode(clearing), signed_control(clearing, STRANGER_KEY))
    site.publish(*((site.name, raw) for raw in forged), topic=CONTROL.name)
    jobs = site.prompts(2)
    site.order(*jobs)
    eventually(lambda: site.phases() == ["accepted"] * 2, "jobs are accepted")
    eventually(lambda: agent.metric("drydock_agent_control_ignored_total") >= 2, "both are ignored")
    assert agent.health()["halts"] == [f"site:{site.name}"]
    assert site.acted() == []


@pytest.mark.parametrize("key", [None, STRANGER_KEY], ids=["unsigned", "by a stranger"])
def test_a19_forged_withdrawal_and_job_do_not_block_the_honest_job(
    site: AgentSite, key: Any
) -> None:
    (job,) = site.prompts(1)
    withdrawal = factories.superseded(job)
    assert isinstance(withdrawal, JobSupersededEvent)
    raw = encode(withdrawal) if key is None else signed_withdrawal(withdrawal, key)
    forged = (issued(job, key=STRANGER_KEY), raw)
    agent = site.start("one")
    site.is_assigned(agent, PARTITIONS)
    site.publish(*((job.udid, each) for each in forged), topic=jobs_topic(site.name))
    site.order(job)
    site.publish((job.udid, raw))
    site.are_done([job])
    assert site.acted() == [job.job_id]


def test_a20_accepted_job_of_a_revoked_key_does_not_start(site: AgentSite) -> None:
    here = ("--bootstrap", site.bootstrap, "--keys", str(site.folder / "keys"))
    assert drydock("halt", "--site", site.name, "--why", "drill", *here).returncode == 0
    site.start("one")
    jobs = site.prompts(2)
    site.order(*jobs)
    eventually(lambda: site.phases() == ["accepted"] * 2, "jobs are accepted")
    revoked = KeyStore(site.folder / "keys").current(Purpose.JOBS)
    assert revoked is not None
    where = ("--dir", str(site.folder / "keys"), "--purpose", "jobs")
    for command in (("rotate",), ("retire", revoked)):
        assert drydock("keys", *command, *where).returncode == 0
    assert drydock("resume", "--site", site.name, *here).returncode == 0
    eventually(
        lambda: all(site.outcomes(job)[-1:] == ["refused"] for job in jobs), "both are refused"
    )
    assert {result.error_code for result in site.results() if result.error_code} == {
        "bad_signature"
    }
    assert site.acted() == []


def test_a21_clock_that_is_set_back_starts_no_expired_job(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    """A later job of the fleet proves the time: the clock is 12 hours behind it."""
    name = "a21"
    hour = timedelta(hours=1)
    specs = [a_spec(f"MAC-{number}", site=name, supervised=True) for number in range(3)]
    with AgentSite.at(kafka, tmp_path, name, specs) as site:
        store = KeyStore(site.folder / "keys")
        store.make(Purpose.APPROVALS)
        site.start("one")
        proof, expired, erase = site.jobs(3)
        later = START + 12 * hour
        proof = proof.model_copy(update={"issued_at": later, "not_before": None})
        site.order(proof)
        eventually(lambda: site.outcomes(proof)[:1] == ["accepted"], "the later job is accepted")
        expired = expired.model_copy(
            update={"issued_at": START - 24 * hour, "expires_at": START + 10 * hour}
        )
        ended = {
            "udid": "MAC-2",
            "expires_at": START + 10 * hour,
            "job_id": an_erasing_job(udid="MAC-2", site=name).job_id,
        }
        erase = an_erasing_job(
            key=store.signer(Purpose.APPROVALS), approve=ended, udid="MAC-2", site=name
        )
        site.order(expired, erase)
        eventually(
            lambda: bool(site.outcomes(expired) and site.outcomes(erase)), "both have a result"
        )
        found = {result.job_id: result.error_code for result in site.results()}
        assert found[expired.job_id] == "expired"
        assert found[erase.job_id] == "no_approval"
        assert {expired.job_id, erase.job_id}.isdisjoint(site.acted())
