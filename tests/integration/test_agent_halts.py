"""Halts, from the command line to an agent, on a real broker."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka import KafkaAdminClient, KafkaProducer  # type: ignore[import-untyped]
from typer.testing import CliRunner

from agents.halts import STALE_AFTER_S
from pipeline.cli.app import app
from pipeline.embedded.control_events import halt_set
from pipeline.payload_signing import sign_record
from pipeline.reconcile.automatic_halt import action_scope
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.envelope import AttemptsResetEvent, encode
from schemas.events.control import DRYDOCK_ITSELF
from schemas.jobs import Action
from schemas.signed_records import AUTOMATIC_HALT_RECORD
from schemas.topics import ADVISORIES, CONTROL, HALTS
from tests.factories import release
from tests.factories.sites import STRANGER_KEY
from tests.kafka.agent_site import AgentSite, drydock, eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics
from tests.waiting import wait_until


@pytest.fixture
def site(
    kafka: KafkaCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[AgentSite]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    with AgentSite.at(kafka, tmp_path, name, 4) as made:
        yield made


def test_halt_reaches_every_agent_in_time_and_lasts_until_resumed(site: AgentSite) -> None:
    here = ("--bootstrap", site.bootstrap, "--keys", str(site.folder / "keys"), "--json")
    agents = [site.start("one"), site.start("two")]
    for agent in agents:
        site.is_assigned(agent, 2)
    halted = drydock("halt", "--site", site.name, "--why", "drill", *here)
    assert (halted.returncode, json.loads(halted.stdout)) == (0, {"halted": f"site:{site.name}"})
    eventually(
        lambda: all(agent.metric("drydock_agent_halted") == 1 for agent in agents),
        "both know of the halt",
        STALE_AFTER_S,
    )
    jobs = site.prompts(4)
    site.order(*jobs)
    eventually(lambda: site.phases() == ["accepted"] * 4, "jobs are accepted")
    assert site.acted() == []
    assert [agent.health()["halts"] for agent in agents] == [[f"site:{site.name}"]] * 2
    resumed = drydock("resume", "--site", site.name, *here)
    assert (resumed.returncode, json.loads(resumed.stdout)) == (0, {"resumed": f"site:{site.name}"})
    site.are_done(jobs)
    again = drydock("resume", "--site", site.name, *here)
    assert again.returncode == 2
    assert "is not halted" in again.stderr


def automatic_halt(site: AgentSite, key: Ed25519PrivateKey) -> bytes:
    """Return the record of a halt of re-enrollments that Drydock set, signed with a key."""
    scope = action_scope(site.name, Action.REENROLL)
    event = halt_set(scope, DRYDOCK_ITSELF, "too many", None, datetime.now(UTC))
    return sign_record(encode(event), AUTOMATIC_HALT_RECORD, key)


def test_accepted_job_of_an_action_that_drydock_halts_does_not_start(site: AgentSite) -> None:
    here = ("--bootstrap", site.bootstrap, "--keys", str(site.folder / "keys"))
    scope = f"site:{site.name}/reenroll"
    assert drydock("halt", "--all", "--why", "drill", *here).returncode == 0
    agent = site.start("one")
    site.is_assigned(agent, 4)
    jobs = site.prompts(2)
    site.order(*jobs)
    eventually(lambda: site.phases() == ["accepted"] * 2, "jobs are accepted")
    signer = KeyStore(site.folder / "keys").signer(Purpose.JOBS)
    raw, ignored = automatic_halt(site, signer), "drydock_agent_control_ignored_total"
    before = agent.metric(ignored)
    forged = (automatic_halt(site, STRANGER_KEY), raw.replace(b"too many", b"too much"))
    site.publish(*(("x", one) for one in (*forged, raw)), topic=HALTS.name)
    eventually(lambda: scope in (agent.health()["halts"] or ()), "the agent knows of the halt")
    assert agent.metric(ignored) == before + len(forged)
    assert drydock("resume", "--all", *here).returncode == 0
    eventually(lambda: agent.health()["halts"] == [scope], "only the halt of the action is left")
    assert site.acted() == []
    resumed = drydock("resume", scope, *here)
    assert resumed.returncode == 0, resumed.stderr
    site.are_done(jobs)


def test_no_job_starts_while_halts_cannot_be_read(site: AgentSite) -> None:
    starts_no_job_without(site, CONTROL.name)


def test_no_job_starts_while_halts_of_actions_cannot_be_read(site: AgentSite) -> None:
    starts_no_job_without(site, HALTS.name)


def starts_no_job_without(site: AgentSite, topic: str) -> None:
    """Delete a topic with halts, and create it again while jobs wait."""
    with KafkaAdminClient(bootstrap_servers=site.bootstrap) as admin:
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics(), 30, "not deleted")
    agent = site.start("one")
    jobs = site.prompts(2)
    site.order(*jobs)
    eventually(lambda: site.phases() == ["accepted"] * 2, "jobs are accepted")
    assert agent.metric("drydock_agent_halts_known") == 0
    assert agent.health()["halts"] is None
    assert site.acted() == []
    make_topics(site.bootstrap, site.name)
    site.are_done(jobs)


def test_reset_of_attempts_is_published_with_its_author_and_reason(site: AgentSite) -> None:
    scope, cause = f"site:{site.name}", ("--cause", "unreachable")
    audit = ("--by", "ada", "--why", "login corrected")
    done = drydock(
        *("attempts", "reset", scope, *cause, *audit, "--bootstrap", site.bootstrap, "--json"),
        *("--keys", str(site.folder / "keys")),
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"reset": scope})
    (found,) = [
        event.data
        for event in site.events(CONTROL.name)
        if isinstance(event, AttemptsResetEvent) and event.data.scope.key == scope
    ]
    assert (found.cause, found.by, found.why) == ("unreachable", "ada", "login corrected")


def test_halt_of_an_unknown_release_is_refused_with_the_nearest_one(site: AgentSite) -> None:
    here = ("--bootstrap", site.bootstrap, "--keys", str(site.folder / "keys"), "--json")
    early = drydock("halt", "--advisory", "macOS-26.9", *here)
    assert early.returncode == 0, early.stderr  # no release is known: every name is taken
    producer = KafkaProducer(bootstrap_servers=site.bootstrap)
    producer.send(ADVISORIES.name, key=b"macOS-26.2", value=encode(release("26.2")))
    producer.close()
    refused = drydock("halt", "--advisory", "macOS-26.3", *here)
    assert refused.returncode == 2
    assert refused.stderr.endswith("did you mean 'macOS-26.2'?\n")
    named = drydock("halt", "--advisory", "macOS-26.2", "--until", "+4h", *here)
    assert (named.returncode, json.loads(named.stdout)) == (0, {"halted": "advisory:macOS-26.2"})


WRONG = {
    "no scope": (("halt",), "name one scope"),
    "two scopes": (("halt", "--all", "--site", "london"), "name one scope"),
    "unknown site": (("halt", "--site", "lodnon"), "no site 'lodnon'; "),
    "unknown kind": (("halt", "host:a"), "is not a scope"),
    "bad time": (("halt", "--all", "--until", "soon"), "until"),
    "end in the past": (("halt", "--all", "--until", "2020-01-01"), "is not in the future"),
    "nothing to resume": (("resume", "--advisory", "macOS-1"), "is not halted"),
    "unknown site to reset": (
        ("attempts", "reset", "site:lodnon", "--why", "x"),
        "no site 'lodnon'; ",
    ),
    "two services": (("halt", "--all", "--data-dir", "x"), "choose one"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.usefixtures("leaky_clients")
def test_error_of_halt_or_resume_is_one_line(
    kafka: KafkaCluster, given: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    make_topics(kafka.bootstrap, "anywhere")
    KeyStore(tmp_path).make(Purpose.CONTROL)
    where = ("--bootstrap", kafka.bootstrap, "--keys", str(tmp_path))
    result = CliRunner().invoke(app, [*given, *where])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
