"""`drydock topics` on a real broker."""

import json
import subprocess
import sys
from typing import Any

from kafka import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]
from typer.testing import Result

from pipeline.provisioning.plan import wanted_topics
from schemas.topics import TOPICS, topic_settings
from tests.kafka.brokers import ROOT, KafkaCluster, free_ports
from tests.kafka.topics import run_topics
from tests.waiting import wait_until

CHECKINS = "drydock.checkins.v1"
DEVICE = {
    CHECKINS,
    "drydock.decisions.v1",
    "drydock.inventory.v1",
    "drydock.orders.v1",
    "drydock.results.v1",
    "drydock.state.v1",
}


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def reported_differences(result: Result) -> set[tuple[str, str, str]]:
    return {(each["topic"], each["change"], each["result"]) for each in lines(result)}


def admin_of(kafka: KafkaCluster) -> Any:
    return KafkaAdminClient(bootstrap_servers=kafka.bootstrap)


def settings_of(kafka: KafkaCluster, topic: str) -> dict[str, str]:
    with admin_of(kafka) as admin:
        asked = [ConfigResource(ConfigResourceType.TOPIC, topic)]
        described = admin.describe_configs(asked, config_filter="all")["topic"][topic]
    return {name: str(each["value"]) for name, each in described.items()}


def change_setting(kafka: KafkaCluster, topic: str, name: str, value: str) -> None:
    with admin_of(kafka) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})])
    wait_until(lambda: settings_of(kafka, topic)[name] == value, 30, "setting did not show")


def partitions_of(kafka: KafkaCluster) -> dict[str, int]:
    with admin_of(kafka) as admin:
        return {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}


def test_plan_on_an_empty_cluster_lists_every_topic_and_creates_none(
    empty_kafka: KafkaCluster,
) -> None:
    result = run_topics("plan", empty_kafka, sites="muc,austin")
    assert result.exit_code == 1
    assert len(lines(result)) == len(wanted_topics(["austin", "muc"], 1, 1))
    assert {each["result"] for each in lines(result)} == {"differs"}
    assert set(partitions_of(empty_kafka)) <= {"__consumer_offsets", "__transaction_state"}


def test_apply_creates_all_topics_and_a_second_apply_changes_nothing(
    empty_kafka: KafkaCluster,
) -> None:
    first = run_topics("apply", empty_kafka)
    assert first.exit_code == 0, first.output
    assert {each["result"] for each in lines(first)} == {"done"}
    for topic in TOPICS:
        actual = settings_of(empty_kafka, topic.name.format(site="austin"))
        assert topic_settings(topic, 1).items() <= actual.items()
    again = run_topics("apply", empty_kafka)
    assert (again.exit_code, again.stdout) == (0, "")
    plan = run_topics("plan", empty_kafka)
    assert (plan.exit_code, plan.stdout) == (0, "")


def test_apply_corrects_a_setting_and_does_not_change_other_topics(
    empty_kafka: KafkaCluster,
) -> None:
    run_topics("apply", empty_kafka)
    change_setting(empty_kafka, CHECKINS, "retention.ms", "1000")
    change_setting(empty_kafka, CHECKINS, "flush.messages", "7")
    with admin_of(empty_kafka) as admin:
        admin.create_topics(["other.topic", "drydock.jobs.berln.v1"], wait_for_metadata=False)
        admin.wait_for_topics(["other.topic", "drydock.jobs.berln.v1"])

    plan = run_topics("plan", empty_kafka)
    assert plan.exit_code == 1
    assert reported_differences(plan) == {(CHECKINS, "setting", "differs")}
    assert "drydock.jobs.berln.v1 is not in the table" in plan.stderr
    assert "flush.messages=7" in plan.stderr
    assert settings_of(empty_kafka, CHECKINS)["retention.ms"] == "1000"

    done = run_topics("apply", empty_kafka)
    assert done.exit_code == 0
    assert reported_differences(done) == {(CHECKINS, "setting", "done")}
    settings = settings_of(empty_kafka, CHECKINS)
    assert settings["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert settings["flush.messages"] == "7"
    assert {"other.topic", "drydock.jobs.berln.v1"} <= set(partitions_of(empty_kafka))


def test_partitions_are_added_to_the_whole_key_space_only_with_yes(
    empty_kafka: KafkaCluster,
) -> None:
    run_topics("apply", empty_kafka, "--partitions", "2")

    held = run_topics("apply", empty_kafka, "--partitions", "4")
    assert held.exit_code == 1
    assert reported_differences(held) == {(name, "partitions", "refused") for name in DEVICE}
    assert {partitions_of(empty_kafka)[name] for name in DEVICE} == {2}

    done = run_topics("apply", empty_kafka, "--partitions", "4", "--yes")
    assert done.exit_code == 0, done.output
    assert reported_differences(done) == {(name, "partitions", "done") for name in DEVICE}
    assert {partitions_of(empty_kafka)[name] for name in DEVICE} == {4}

    less = run_topics("apply", empty_kafka, "--partitions", "2", "--yes")
    assert less.exit_code == 1
    assert reported_differences(less) == {(name, "partitions", "refused") for name in DEVICE}
    assert {partitions_of(empty_kafka)[name] for name in DEVICE} == {4}


def test_topics_are_not_created_with_more_copies_than_brokers(empty_kafka: KafkaCluster) -> None:
    result = run_topics("apply", empty_kafka, "--replication", "3")
    assert result.exit_code == 1
    assert all("the cluster has 1" in each["obstacle"] for each in lines(result))
    assert not DEVICE & set(partitions_of(empty_kafka))


def test_unreachable_broker_is_one_line_and_exit_code_2() -> None:
    # A separate process: kafka-python leaves sockets open if its constructor fails.
    bootstrap = f"127.0.0.1:{free_ports(1)[0]}"
    result = subprocess.run(
        [
            *(sys.executable, "-c", "from pipeline.cli import main; main()"),
            *("topics", "plan", "--bootstrap", bootstrap, "--timeout", "1"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert f"no Kafka broker at {bootstrap}" in result.stderr


def test_invalid_address_and_invalid_site_are_one_line_and_exit_code_2() -> None:
    for result, message in (
        (run_topics("plan", "not an address"), "DRYDOCK_KAFKA_BOOTSTRAP"),
        (run_topics("plan", "127.0.0.1:1", sites="Austin!"), "'Austin!' is not a site name"),
    ):
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert message in result.stderr
