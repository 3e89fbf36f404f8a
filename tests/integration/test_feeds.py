"""`drydock feeds` on a real broker: each change of a feed is published once, after any crash."""

import asyncio
import hashlib
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.feeds.metrics import FeedsMetrics
from pipeline.feeds.state_store import FeedStateStore, FeedStateStoreError
from pipeline.ingest.feed_review import FeedOutcome, review
from runtime.kafka import KafkaConnection
from runtime.logs import make_log, silence_kafka_clients
from schemas.dead_letters import DeadLetter
from schemas.envelope import AdvisoryEvent, Event, decode
from schemas.feeds import FeedState
from schemas.topics import ADVISORIES, DEAD_LETTERS, FEEDS
from tests.factories.sofa import feed, line, release
from tests.factories.sofa_snapshots import SNAPSHOTS, expected, read_snapshots
from tests.feed_server import FeedServer, feed_server
from tests.kafka.brokers import KafkaCluster
from tests.kafka.gateways import STAMP_KEY, Server, server
from tests.kafka.topics import make_topics
from tests.waiting import wait_until

WAIT_LIMIT_S = 60.0
NOW = datetime(2026, 8, 10, tzinfo=UTC)


def count_changes(events: Iterable[Event]) -> Counter[tuple[str, str]]:
    """Return the count of each change, such as (published, macOS-26.2)."""
    return Counter((event.type.split(".")[2], event.subject) for event in events)


def changes_of_reviews(documents: Iterable[bytes]) -> list[Counter[tuple[str, str]]]:
    """Return the changes of each document of SOFA, reviewed one after another.

    The first one has no document before it.
    """
    found, state = [], FeedState(source="sofa")
    for document in documents:
        reviewed = review(document, state, origin="/sofa", now=NOW)
        state = reviewed.state
        found.append(count_changes(reviewed.events))
    return found


@dataclass
class Published:
    """The records of the topics; `read` continues where it ended."""

    consumer: Any
    events: list[AdvisoryEvent] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    states: dict[str, FeedState] = field(default_factory=dict)

    @classmethod
    def on(cls, kafka: KafkaCluster) -> "Published":
        connection = KafkaConnection(bootstrap=kafka.bootstrap)
        consumer = KafkaConsumer(**connection.consumer_options())
        consumer.assign(
            [
                TopicPartition(topic.name, number)
                for topic in (ADVISORIES, DEAD_LETTERS, FEEDS)
                for number in range(topic.partitions)
            ]
        )
        consumer.seek_to_beginning()
        return cls(consumer)

    def read(self) -> "Published":
        """Read to the end of the topics."""
        ends = self.consumer.end_offsets(self.consumer.assignment())
        while any(self.consumer.position(partition) < end for partition, end in ends.items()):
            for records in self.consumer.poll(timeout_ms=200).values():
                for record in records:
                    self._add(record)
        return self

    def _add(self, record: Any) -> None:
        if record.topic == ADVISORIES.name:
            event = decode(record.value)
            assert isinstance(event, AdvisoryEvent)
            assert record.key.decode() == event.subject
            self.events.append(event)
        elif record.topic == FEEDS.name:
            self.states[record.key.decode()] = FeedState.model_validate_json(record.value)
        else:
            self.letters.append(DeadLetter.model_validate_json(record.value))

    def waits_for(self, source: str, document: bytes) -> None:
        """Wait until the state of the feed is of this document."""
        digest = hashlib.sha256(document).hexdigest()

        def is_published() -> bool:
            state = self.read().states.get(source)
            return state is not None and state.document_sha256 == digest

        wait_until(is_published, WAIT_LIMIT_S, f"{source} is not published")

    def changes(self, source: str, since: int = 0) -> Counter[tuple[str, str]]:
        """Return the count of each change, such as (published, macOS-26.2)."""
        return count_changes(event for event in self.events[since:] if event.data.source == source)


@pytest.fixture
def published(empty_kafka: KafkaCluster) -> Iterator[Published]:
    make_topics(empty_kafka.bootstrap)
    found = Published.on(empty_kafka)
    with closing(found.consumer):
        yield found


@pytest.fixture
def web() -> Iterator[FeedServer]:
    with feed_server() as served:
        yield served


def replica(
    kafka: KafkaCluster, folder: Path, web: FeedServer, **feeds: str
) -> AbstractContextManager[Server]:
    """Run a replica of `drydock feeds` with a short poll interval."""
    where = {name: feeds.get(name, f"{web.url}/{name}") for name in ("sofa", "gdmf", "kev")}
    options = [part for name, location in where.items() for part in (f"--{name}", location)]
    return server(
        "feeds",
        folder,
        *("--data-dir", str(folder / "data"), "--listen", "127.0.0.1:0", *options),
        *("--interval", "0.2", "--bootstrap", kafka.bootstrap),
        env={"DRYDOCK_FEEDS_SESSION_TIMEOUT_S": "6", "NO_PROXY": "127.0.0.1"},
    )


def polls(running: Server) -> bool:
    events = [one["event"] for one in running.log() if "polling" in str(one["event"])]
    return bool(events) and events[-1] == "polling started"


@pytest.mark.timeout(240)
def test_two_replicas_publish_every_change_once_when_the_leader_is_killed(
    empty_kafka: KafkaCluster,
    published: Published,
    web: FeedServer,
    reference_data: Path,
    tmp_path: Path,
) -> None:
    snapshots = read_snapshots(reference_data)
    resources = reference_data / "sofa" / "resources"
    web.documents["/gdmf"] = (resources / "gdmf_cached.json").read_bytes()
    web.documents["/kev"] = (resources / "kev_catalog.json").read_bytes()
    web.documents["/sofa"] = snapshots[SNAPSHOTS[1]]
    reviewed = changes_of_reviews(snapshots[name] for name in SNAPSHOTS[1:])
    with (
        replica(empty_kafka, tmp_path / "a", web) as one,
        replica(empty_kafka, tmp_path / "b", web) as other,
    ):
        for running in (one, other):
            wait_until(lambda: is_ready(running), WAIT_LIMIT_S, "not ready")  # noqa: B023
        published.waits_for("sofa", snapshots[SNAPSHOTS[1]])
        published.waits_for("kev", web.documents["/kev"])
        first, second = (one, other) if polls(one) else (other, one)
        assert not polls(second)
        assert published.changes("sofa") == reviewed[0]
        assert sum(reviewed[0].values()) == 102

        def kill(path: str) -> None:
            if path == "/sofa" and web.documents[path] is snapshots[SNAPSHOTS[5]]:
                first.process.send_signal(signal.SIGKILL)
                web.served = lambda _: None

        web.served = kill
        for last in range(2, len(SNAPSHOTS)):
            since = len(published.events)
            web.documents["/sofa"] = snapshots[SNAPSHOTS[last]]
            published.waits_for("sofa", snapshots[SNAPSHOTS[last]])
            changes = published.changes("sofa", since)
            assert changes == reviewed[last - 1], last
            assert {one for one in changes if one[0] != "corrected"} == expected(last - 1, last)
        assert first.process.poll() == -signal.SIGKILL
        assert polls(second)
        wait_until(lambda: web.responses["/kev", 304] > 0, WAIT_LIMIT_S, "no request by ETag")
        assert second.value("drydock_feeds_leading") == 1
        assert second.value("drydock_feed_polls_total", "accepted", "sofa") >= 3
        # Now SOFA lists the CVE as Apple's, so the next poll of KEV publishes it.
        wait_until(
            lambda: published.read().changes("kev")["severity_raised", "CVE-2025-14174"] == 1,
            WAIT_LIMIT_S,
            "the CVE that CISA lists as Google's is not published",
        )
        assert second.end() == 0
    known = Counter(published.read().changes("kev"))
    assert set(known.values()) == {1}
    assert len(known) > 93
    assert set(published.changes("gdmf").values()) == {1}
    assert published.letters == []


def is_ready(running: Server) -> bool:
    return httpx.get(f"{running.url}/readyz", trust_env=False).status_code == 200


# Pollers in the process of the test.


def with_store(kafka: KafkaCluster, work: Callable[[FeedStateStore], Any]) -> Any:
    """Run `work` with an open state store and return its result."""
    silence_kafka_clients()

    async def run() -> Any:
        store = await opened(kafka)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def opened(kafka: KafkaCluster) -> FeedStateStore:
    connection = KafkaConnection(bootstrap=kafka.bootstrap)
    return await FeedStateStore.open(
        connection, FeedsMetrics(CollectorRegistry()), make_log(), lambda: NOW
    )


SMALL = feed(line("Tahoe 26", release("26.2"), release("26.1")))


def test_open_transaction_of_a_dead_poller_is_never_read(
    empty_kafka: KafkaCluster, published: Published
) -> None:
    async def work(old: FeedStateStore) -> None:
        await old._producer.begin_transaction()
        await (await old._producer.send(ADVISORIES.name, b"half", b"macOS-26.2"))
        new = await opened(empty_kafka)
        try:
            assert new.states["sofa"] == FeedState(source="sofa")
            result = await new.process_document("sofa", SMALL, accept_losses=False)
            assert (result.outcome, result.events) == (FeedOutcome.ACCEPTED, 2)
        finally:
            await new.close()

    with_store(empty_kafka, work)
    assert published.read().changes("sofa") == Counter(
        {("published", "macOS-26.1"): 1, ("published", "macOS-26.2"): 1}
    )


def test_fenced_poller_cannot_write_and_continues_from_the_stored_state(
    empty_kafka: KafkaCluster, published: Published
) -> None:
    more = feed(
        line("Tahoe 26", release("26.3"), release("26.2"), release("26.1")),
        last_check="2026-02-02T08:00:00Z",
    )

    async def work(old: FeedStateStore) -> None:
        await old.process_document("sofa", SMALL, accept_losses=False)
        new = await opened(empty_kafka)
        try:
            assert (await new.process_document("sofa", more, accept_losses=False)).events == 1
            with pytest.raises(FeedStateStoreError, match="another poller"):
                await old.process_document("sofa", more, accept_losses=False)
        finally:
            await new.close()
        again = await opened(empty_kafka)
        try:
            result = await again.process_document("sofa", more, accept_losses=False)
            assert result.outcome is FeedOutcome.UNCHANGED
        finally:
            await again.close()

    with_store(empty_kafka, work)
    assert set(published.read().changes("sofa").values()) == {1}
    assert len(published.events) == 3


def test_missing_topics_are_reported(empty_kafka: KafkaCluster, tmp_path: Path) -> None:
    arguments = ["feeds", "--data-dir", str(tmp_path), "--once", "--bootstrap"]
    done = CliRunner(env={"DRYDOCK_STAMP_KEYS": STAMP_KEY}).invoke(
        app, [*arguments, empty_kafka.bootstrap]
    )
    assert done.exit_code == 2
    assert "no topic drydock.advisories.v1, " in done.stderr


def test_wrong_document_is_refused_and_reported_once(
    empty_kafka: KafkaCluster, published: Published, web: FeedServer, tmp_path: Path
) -> None:
    versions = [f"26.{number}" for number in range(9, 0, -1)]
    good = feed(line("Tahoe 26", *map(release, versions)))
    later = (NOW + timedelta(hours=1)).isoformat()
    lost = feed(line("Tahoe 26", *map(release, versions[-3:])), last_check=later)

    def poll(document: bytes, *options: str) -> int:
        web.documents["/sofa"] = document
        arguments = ["feeds", "--data-dir", str(tmp_path), "--once", *options]
        feeds = ["--sofa", f"{web.url}/sofa", "--gdmf", "none", "--kev", "none"]
        done = CliRunner(env={"NO_PROXY": "127.0.0.1", "DRYDOCK_STAMP_KEYS": STAMP_KEY}).invoke(
            app, [*arguments, *feeds, "--bootstrap", empty_kafka.bootstrap]
        )
        assert done.exit_code in {0, 1}, done.output
        logged = [json.loads(text) for text in done.stderr.splitlines()]
        outcomes.extend((one["event"], one.get("outcome")) for one in logged)
        return done.exit_code

    outcomes: list[tuple[str, str | None]] = []
    assert poll(good) == 0
    for wrong, outcome in ((good[: len(good) // 2], "unreadable"), (lost, "truncated")):
        for _ in range(2):
            assert poll(wrong) == 1
            assert outcomes[-1] == ("feed refused", outcome)
        assert (tmp_path / "sofa.refused").read_bytes() == wrong
        assert (tmp_path / "sofa.json").read_bytes() == good
    assert poll(good) == 0
    letters = sorted((one.code.value, one.source) for one in published.read().letters)
    assert letters == [("bad_value", "sofa"), ("not_json", "sofa")]
    assert len(published.events) == len(versions)

    assert poll(lost, "--accept", "sofa") == 0
    counts = published.read().changes("sofa")
    # Releases older than the oldest listed one are not retracted: they fell off the end.
    assert counts["retracted", "macOS-26.9"] == 1
    assert poll(good) == 1
    assert outcomes[-1] == ("feed refused", "stale")
    web.documents.clear()
    web.responses.clear()
    assert poll_gone(poll, web) == 1
    assert outcomes[-1] == ("feed unreachable", "unreachable")


def poll_gone(poll: Callable[[bytes], int], web: FeedServer) -> int:
    """Poll a feed whose server responds 404."""
    web.statuses["/sofa"] = [404]
    return poll(b"")
