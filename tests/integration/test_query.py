"""`drydock query` and `replay --kafka` on the topics of a fleet that ran."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer  # type: ignore[import-untyped]
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.demo.scenario import policy_text
from pipeline.embedded.control_events import halt_set
from pipeline.payload_signing import sign_record
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.trusted_keys import Purpose
from schemas.envelope import encode
from schemas.events.control import HaltScope
from schemas.signed_records import CONTROL_RECORD
from schemas.topics import CONTROL
from tests.chaos.programs import STAMPS_ENV
from tests.kafka.broker_fixtures import start_cluster
from tests.kafka.brokers import ROOT
from tests.kafka.recorded import MACS, TOKEN, RecordedFleet, record_fleet
from tests.kafka.replay_checks import macs_of_a_longer_deadline, replay_lines, verified
from tests.transcripts import failures
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
RUN = CliRunner(env={**STAMPS_ENV, "DRYDOCK_ADMIN_TOKEN": TOKEN})


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedFleet]:
    broker = start_cluster(1, tmp_path_factory)
    yield record_fleet(tmp_path_factory.mktemp("fleet"), broker)
    broker.kill()


def rows(url: str, *command: str) -> list[dict[str, Any]]:
    done = RUN.invoke(app, [*command, "--server", url])
    assert done.exit_code in {0, 1}, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def halt(fleet: RecordedFleet, site: str) -> None:
    event = halt_set(HaltScope(site=site), "alice", "a test", None, datetime.now(UTC))
    raw = sign_record(encode(event), CONTROL_RECORD, KeyStore(fleet.keys).signer(Purpose.CONTROL))
    connection = KafkaConnection(bootstrap=fleet.broker.bootstrap)
    producer = KafkaProducer(**connection.producer_options())
    producer.send(CONTROL.name, key=event.subject.encode(), value=raw).get(30)
    producer.close()


def test_view_shows_the_fleet_and_leaves_no_trace(fleet: RecordedFleet, tmp_path: Path) -> None:
    with KafkaAdminClient(bootstrap_servers=fleet.broker.bootstrap) as admin:
        groups = {str(one) for one in admin.list_groups()}
    outcome = fleet.run.outcome
    with fleet.query(tmp_path) as url:
        devices = rows(url, "devices", "list", "-o", "jsonl")
        found = {row["udid"]: (row["decision"], row["reason"]) for row in devices}
        assert found == {
            udid: (one["decision"], one["reason"]) for udid, one in outcome.latest.items()
        }
        assert len(found) == MACS
        jobs = {row["job_id"]: row["outcome"] for row in rows(url, "jobs", "list", "-o", "jsonl")}
        assert jobs == {job_id: job.outcome for job_id, job in outcome.jobs.items()}
        [status] = rows(url, "status", "--json")
        assert status["lag"]["records"] == 0
        assert status["policy_details"]["by"] == "demo"
        policies = rows(url, "policy", "history", "--json")
        assert [(one["digest"], one["by"]) for one in policies] == [(status["policy"], "demo")]
        held = next(row for row in devices if row["decision"] == "hold")
        [explained] = rows(url, "explain", held["serial"], "--json")
        assert explained["methods"]
        assert explained["policy_rules"]
        assert explained["events_total"] > 10
    # It continues where it was: a halt that was set meanwhile is read, and nothing twice.
    halt(fleet, "london")
    with fleet.query(tmp_path) as url:
        assert [row["by"] for row in rows(url, "halts", "list", "-o", "jsonl")] == ["alice"]
        assert rows(url, "jobs", "list", "-o", "jsonl") != []
        [again] = rows(url, "explain", held["serial"], "--json")
        assert again == explained
        halt(fleet, "tokyo")
        wait_until(lambda: len(rows(url, "halts", "list", "-o", "jsonl")) == 2, 30, "second halt")
    with KafkaAdminClient(bootstrap_servers=fleet.broker.bootstrap) as admin:
        assert {str(one) for one in admin.list_groups()} == groups


# --- drydock replay --kafka ---


def test_recorded_decisions_verify_from_the_topics(fleet: RecordedFleet) -> None:
    report = verified(fleet)
    assert report["decisions"] == fleet.run.figures["topics"]["drydock.decisions.v1"]
    assert report["jobs"] == len(fleet.run.outcome.jobs)


def test_site_and_mac_are_selected(fleet: RecordedFleet) -> None:
    listed = replay_lines(fleet)
    assert len(listed) == fleet.run.figures["topics"]["drydock.decisions.v1"]
    of_tokyo = [one for one in listed if one["site"] == "tokyo"]
    serial = of_tokyo[0]["serial"]
    for options, wanted in (
        (("--site", "tokyo"), of_tokyo),
        (("--serial", serial), [one for one in listed if one["serial"] == serial]),
    ):
        assert replay_lines(fleet, *options) == wanted
        assert verified(fleet, *options)["decisions"] == len(wanted)


def test_another_deadline_changes_the_macs_that_it_concerns(
    fleet: RecordedFleet, tmp_path: Path
) -> None:
    assert 0 < len(macs_of_a_longer_deadline(fleet, tmp_path)) < MACS


def test_each_question_of_on_call_is_answered_from_a_fleet(
    fleet: RecordedFleet, tmp_path: Path
) -> None:
    shorter = tmp_path / "shorter.yaml"
    shorter.write_text(policy_text().replace("exploited: 3d", "exploited: 2d"))

    def drydock(arguments: list[str]) -> str:
        done = RUN.invoke(app, arguments)
        assert done.exit_code in {0, 1}, done.stderr
        return str(done.stdout)

    with fleet.query(tmp_path) as url:
        sources = {"$AT": ("--server", url), "$LOG": ("--kafka", *fleet.options)}
        sources["shorter.yaml"] = (str(shorter),)
        assert failures(ROOT / "docs" / "how-to" / "investigate.md", sources, drydock) == []


def test_replay_names_what_is_missing(fleet: RecordedFleet, tmp_path: Path) -> None:
    assert "give --data-dir" in RUN.invoke(app, ["replay"]).stderr
    no_keys = RUN.invoke(app, ["replay", "--kafka"])
    assert (no_keys.exit_code, "--kafka needs --keys" in no_keys.stderr) == (2, True)
    empty = ["replay", "--kafka", "--keys", str(tmp_path)]
    assert "every policy would be refused" in RUN.invoke(app, empty).stderr
    down = ["replay", "--kafka", "--keys", str(fleet.keys), "--bootstrap", "127.0.0.1:1"]
    refused = RUN.invoke(app, down)
    assert (refused.exit_code, "cannot read Kafka at 127.0.0.1:1" in refused.stderr) == (2, True)


def test_time_of_the_last_read_is_old_without_brokers(fleet: RecordedFleet, tmp_path: Path) -> None:
    def read_at(url: str) -> datetime:
        [status] = rows(url, "status", "--json")
        return datetime.fromisoformat(status["lag"]["read_at"])

    with fleet.query(tmp_path) as url:
        fleet.broker.kill()
        killed_at = datetime.now(UTC)
        while datetime.now(UTC) < killed_at + timedelta(seconds=7):
            assert read_at(url) <= killed_at
    fleet.broker.restart(1)
