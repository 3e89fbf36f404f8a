"""The CloudEvents SDKs of Python and Java read each event that Drydock's programs write."""

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from runtime.kafka import KafkaConnection
from schemas.envelope import decode, encode
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    DISPATCH,
    INTERNAL_TOPICS,
    INVENTORY,
    ORDERS,
    RESULTS,
    TOPICS,
    jobs_topic,
)
from tests.factories import POLICY_TEXT
from tests.factories.sites import osquery_report
from tests.factories.sofa import feed, line, release
from tests.fake_mdm import FakeMdm
from tests.kafka.brokers import ROOT, KafkaCluster, jars
from tests.kafka.gateways import STAMP_KEY
from tests.kafka.started import DRYDOCK, started
from tests.kafka.topics import make_topics
from tests.waiting import wait_until

SITE, UDID = "london", "11111111-AAAA-4000-8000-000000000001"
EVENT_TOPICS = {
    jobs_topic(SITE),
    *(one.name for one in (ADVISORIES, CHECKINS, CONTROL, DISPATCH, INVENTORY, ORDERS, RESULTS)),
}
HEADER = ("content-type", b"application/cloudevents+json")


def records(kafka: KafkaCluster, *topics: str) -> Iterator[Any]:
    """Yield all records of these topics."""
    with KafkaConsumer(**KafkaConnection(bootstrap=kafka.bootstrap).consumer_options()) as consumer:
        partitions = [
            TopicPartition(topic, number)
            for topic in topics
            for number in consumer.partitions_for_topic(topic)
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(one) < ends[one] for one in partitions):
            for found in consumer.poll(timeout_ms=1000).values():
                yield from found


def run(*command: str) -> None:
    done = subprocess.run([*DRYDOCK, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def post_a_mac(gateway: str) -> None:
    """Let a Mac enroll, poll and report: it needs an update."""
    now = datetime.now(UTC)
    mdm = FakeMdm(now)
    system = {"OSVersion": "26.1", "BuildVersion": "25B78", "ProductName": "Mac16,1"}
    mdm.enroll(UDID, SerialNumber=f"C02{UDID}", **system)
    responses = system | {"UDID": UDID, "IsSupervised": True}
    mdm.report(UDID, "Acknowledged", "one", QueryResponses=responses)
    report = osquery_report(UDID, now, os_version="26.1", build="25B78", free_disk_gb=200.0)
    posts = [("/webhooks/nanomdm", body) for body in mdm.bodies] + [("/v1/events", encode(report))]
    for path, body in posts:
        posted = httpx.post(f"{gateway}{path}", content=body, trust_env=False)
        assert posted.status_code == 200, posted.text


@pytest.fixture
def written(
    empty_kafka: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> KafkaCluster:
    """A broker with records that each program of Drydock has written: one job was withheld."""
    bootstrap, keys = empty_kafka.bootstrap, str(tmp_path / "keys")
    make_topics(bootstrap, SITE)
    at, env = ("--bootstrap", bootstrap), {"DRYDOCK_STAMP_KEYS": STAMP_KEY}
    signing = ("--keys", keys)
    for purpose in ("service", "records"):
        run("keys", "make", "--dir", keys, "--purpose", purpose)
    policy, sofa = tmp_path / "policy.yaml", tmp_path / "sofa.json"
    policy.write_text(POLICY_TEXT)
    newer = release("26.2", Build="25C56", exploited=("CVE-2026-12345",))
    sofa.write_bytes(feed(line("Tahoe 26", newer, release("26.1", Build="25B78"))))
    run("policy", "publish", str(policy), *signing, *at)
    monkeypatch.setenv("DRYDOCK_STAMP_KEYS", STAMP_KEY)
    run(
        *("feeds", "--once", "--sofa", str(sofa), "--gdmf", "none", "--kev", "none"),
        *("--data-dir", str(tmp_path / "feeds"), *at),
    )
    with (
        started(tmp_path, "worker", ("worker", *signing), bootstrap, env),
        started(tmp_path, "agent", ("agent", "--site", SITE, *signing), bootstrap, env),
        started(
            tmp_path, "gateway", ("gateway", "--insecure-loopback", *signing), bootstrap, env
        ) as gateway,
    ):
        post_a_mac(gateway)
        wait_until(
            lambda: len(list(records(empty_kafka, RESULTS.name))) >= 2, 60, "no job is withheld"
        )
        run("halt", "all", "--why", "tests", *signing, *at)
    return empty_kafka


@pytest.mark.timeout(300)  # starts a dozen processes: 30 s, minutes on a loaded machine
def test_each_event_is_read_by_the_sdks_of_python_and_java(written: KafkaCluster) -> None:
    names = {one.name.format(site=SITE) for one in (*TOPICS, *INTERNAL_TOPICS)}
    found = set()
    for record in records(written, *sorted(names)):
        if record.topic not in EVENT_TOPICS:
            assert list(record.headers) == []
            continue
        assert list(record.headers) == [HEADER]
        event = from_kafka_event(KafkaMessage(dict(record.headers), record.key, record.value))
        ours = decode(record.value)
        assert event.get_data() == ours.model_dump(mode="json", exclude_none=True)["data"]
        assert (event.get_id(), event.get_type()) == (ours.id, ours.type)
        found.add((record.topic, event.get_id(), event.get_type(), event.get_subject()))
    assert {topic for topic, *_ in found} == EVENT_TOPICS
    assert found == read_with_java(written)


def read_with_java(kafka: KafkaCluster) -> set[tuple[str, ...]]:
    """Return topic, id, type and subject of each event, as the Java SDK reads them."""
    libs = [jars("cloudevents-java"), jars("kafka")]
    missing = [folder for folder in libs if not folder.is_dir()]
    if missing and "CI" not in os.environ:
        pytest.skip(f"no {missing[0]}: `make test-kafka` fetches it")
    done = subprocess.run(
        [
            *("java", "-cp", ":".join(f"{folder}/*" for folder in libs)),
            *(str(ROOT / "tests/kafka/ReadCloudEvents.java"), kafka.bootstrap),
            *sorted(EVENT_TOPICS),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {tuple(line.split(" ")) for line in done.stdout.splitlines()}
