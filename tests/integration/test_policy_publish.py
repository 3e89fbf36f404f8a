"""`drydock policy publish` on a real broker: an unchanged policy is not published again."""

import json
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.policy.file import policy_digest
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.trusted_keys import Purpose
from schemas.envelope import PolicyChangedEvent, decode
from schemas.topics import CONTROL
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics

POLICY = "sites: {tokyo: {time_zone: Asia/Tokyo}}\ndefault_site: tokyo\n"
OTHER = POLICY + "# another one\n"


def published(kafka: KafkaCluster) -> list[tuple[str, str]]:
    """Return publisher and text of each policy, in the order of the topic."""
    partition = TopicPartition(CONTROL.name, 0)
    options = KafkaConnection(bootstrap=kafka.bootstrap).consumer_options()
    found = []
    with KafkaConsumer(**options) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        (end,) = consumer.end_offsets([partition]).values()
        while consumer.position(partition) < end:
            for record in consumer.poll(timeout_ms=1000).get(partition, ()):
                event = decode(record.value)
                assert isinstance(event, PolicyChangedEvent)
                found.append((event.data.by, event.data.text))
    return found


@pytest.mark.usefixtures("leaky_clients")
def test_policy_is_published_only_if_it_differs_from_the_one_in_force(
    empty_kafka: KafkaCluster, tmp_path: Path
) -> None:
    KeyStore(tmp_path).make(Purpose.CONTROL)

    def publish(by: str, text: str, *more: str) -> Result:
        where = ("--bootstrap", empty_kafka.bootstrap, "--by", by, "--keys", str(tmp_path))
        return CliRunner().invoke(app, ["policy", "publish", "-", *where, *more], input=text)

    early = publish("early", POLICY)
    assert (early.exit_code, early.stdout) == (2, "")
    assert early.stderr.startswith("drydock: NOT confirmed by Kafka at ")
    assert early.stderr.endswith(f"no topic {CONTROL.name}: run `drydock topics apply`\n")
    make_topics(empty_kafka.bootstrap)
    assert publish("one", POLICY).stdout.startswith("in force: digest ")
    assert publish("two", POLICY).stdout.startswith("unchanged: digest ")
    printed = json.loads(publish("three", OTHER, "--json").stdout)
    assert (printed["kind"], printed["previous"]) == ("in force", policy_digest(POLICY))
    assert publish("four", POLICY).stdout.startswith("in force: ")
    assert published(empty_kafka) == [("one", POLICY), ("three", OTHER), ("four", POLICY)]
