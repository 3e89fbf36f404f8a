"""Garbage in each partition of each topic prevents no start, and honest records are used."""

import itertools
import json
import os
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]

from runtime.kafka import KafkaConnection
from schemas.decisions import DecisionRecord
from schemas.envelope import encode
from schemas.topics import DECISIONS, INTERNAL_TOPICS, TOPICS, Partitioning
from tests.factories.sites import osquery_report
from tests.kafka.brokers import ROOT, KafkaCluster
from tests.kafka.gateways import STAMP_KEY, records_of
from tests.kafka.started import DRYDOCK, started
from tests.kafka.topics import PARTITIONS, make_topics
from tests.waiting import wait_until

SITE, MAC = "garbage", "MAC-HONEST"
GARBAGE: tuple[bytes | None, ...] = (
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    b"[[[[",
    b'{"specversion":"1.0","type":"drydock.halt.set.v1","id":"1"}',
    b'{"type":"drydock.job.issued.v1","data":{"job":{"udid":5}}}',
    b'{"epoch":-1}',
    b"\x00" * 64,
    b"9" * 5000,
    None,
)


# A worker stops on purpose when 100 records, and more than half, are dead letters. It folds 24
# partitions here.
PER_PARTITION = 4


def spoil(bootstrap: str) -> int:
    """Write garbage to each partition of each topic, in turn; return the number of topics."""
    values = itertools.cycle(GARBAGE)
    options = KafkaConnection(bootstrap=bootstrap).producer_options()
    with closing(KafkaProducer(**options)) as producer:
        sent = []
        for topic in (*TOPICS, *INTERNAL_TOPICS):
            is_device = topic.partitioning is Partitioning.DEVICE
            for partition in range(PARTITIONS if is_device else topic.partitions):
                for number, value in enumerate(itertools.islice(values, PER_PARTITION)):
                    # A compacted topic refuses a record without a key.
                    key = b"\xff" if number % 2 else b"MAC-1"
                    name = topic.name.format(site=SITE)
                    sent.append(producer.send(name, key=key, value=value, partition=partition))
        for each in sent:
            each.get(30)
    return len(TOPICS) + len(INTERNAL_TOPICS)


@pytest.mark.timeout(300)  # starts seven processes: 30 s, minutes on a loaded machine
def test_garbage_in_each_topic_prevents_no_start(empty_kafka: KafkaCluster, tmp_path: Path) -> None:
    bootstrap, keys = empty_kafka.bootstrap, str(tmp_path / "keys")
    make_topics(bootstrap, SITE)
    assert spoil(bootstrap) >= 15
    at, env = ("--bootstrap", bootstrap), {"DRYDOCK_STAMP_KEYS": STAMP_KEY}
    signing = ("--keys", keys)
    for purpose in ("service", "records"):
        run("keys", "make", "--dir", keys, "--purpose", purpose)
    run("policy", "publish", str(ROOT / "examples" / "policy.yaml"), *signing, *at)
    with (
        started(tmp_path, "worker", ("worker", *signing), bootstrap, env),
        started(tmp_path, "agent", ("agent", "--site", SITE, *signing), bootstrap, env),
        started(
            tmp_path, "gateway", ("gateway", "--insecure-loopback", *signing), bootstrap, env
        ) as gateway,
    ):
        report = osquery_report(MAC, datetime.now(UTC), os_version="26.1", build="25B78")
        posted = httpx.post(f"{gateway}/v1/events", content=encode(report), trust_env=False)
        assert posted.status_code == 200, posted.text
        wait_until(lambda: bool(decisions(empty_kafka)), 60, "the honest Mac is not decided")
    (first, *_) = decisions(empty_kafka)
    assert DecisionRecord.model_validate_json(first)
    run(
        "topics",
        "plan",
        "--sites",
        SITE,
        "--partitions",
        str(PARTITIONS),
        "--replication",
        "1",
        *at,
    )


def decisions(kafka: KafkaCluster) -> list[bytes]:
    """Return the decisions about the honest Mac."""
    found = []
    for value in records_of(kafka, None, DECISIONS):
        try:
            is_honest = json.loads(value or b"null")["decision"]["udid"] == MAC
        except (ValueError, LookupError, TypeError):
            continue
        if is_honest:
            found.append(value)
    return found


def run(*command: str) -> None:
    done = subprocess.run(
        [*DRYDOCK, *command], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
