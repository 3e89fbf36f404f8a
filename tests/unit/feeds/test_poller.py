"""The poller: order and times of polls, the documents that it caches, and its logs."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from pipeline.config import FeedsSettings
from pipeline.feeds.download_cache import DownloadCache
from pipeline.feeds.poller import DocumentResult, Poller, make_poller
from pipeline.ingest.feed_review import FeedOutcome
from schemas.feeds import FeedSource

DATED = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Sink:
    """Accepts every document, unless `outcomes` has another outcome for its source."""

    outcomes: dict[str, FeedOutcome] = field(default_factory=dict)
    documents: list[tuple[str, bytes, bool]] = field(default_factory=list)

    async def process_document(
        self, source: FeedSource, document: bytes, *, accept_losses: bool
    ) -> DocumentResult:
        self.documents.append((source, document, accept_losses))
        outcome = self.outcomes.get(source, FeedOutcome.ACCEPTED)
        return DocumentResult(outcome, detail="why", document_at=DATED)


@dataclass
class Counts:
    polls: list[tuple[str, str]] = field(default_factory=list)
    document_at: datetime | None = None

    def count_poll(
        self, source: FeedSource, outcome: FeedOutcome, document_at: datetime | None
    ) -> None:
        self.polls.append((source, outcome.value))
        self.document_at = document_at


@dataclass
class Scene:
    folder: Path
    log: structlog.testing.LogCapture = field(default_factory=structlog.testing.LogCapture)
    counts: Counts = field(default_factory=Counts)
    sink: Sink = field(default_factory=Sink)

    def poller(self, **settings: str | float) -> Poller:
        named = {"sofa": "none", "gdmf": "none", "kev": "none"} | settings
        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[self.log])
        chosen = FeedsSettings.model_validate(named)
        return make_poller(chosen, self.folder / "copies", self.counts, log)

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_sofa_is_processed_before_kev(scene: Scene) -> None:
    kev, sofa = scene.file("kev", b"k"), scene.file("sofa", b"s")
    found = asyncio.run(scene.poller(kev=kev, sofa=sofa).poll(scene.sink, accept_losses=["sofa"]))
    assert scene.sink.documents == [("sofa", b"s", True), ("kev", b"k", False)]
    assert found == {"sofa": FeedOutcome.ACCEPTED, "kev": FeedOutcome.ACCEPTED}


def test_unreachable_feed_does_not_prevent_polls_of_others(scene: Scene) -> None:
    poller = scene.poller(sofa=str(scene.folder / "nowhere"), kev=scene.file("kev", b"k"))
    asyncio.run(poller.poll(scene.sink))
    assert scene.counts.polls == [("sofa", "unreachable"), ("kev", "accepted")]
    assert scene.counts.document_at == DATED
    assert scene.log.entries[0]["event"] == "feed unreachable"
    assert "No such file" in scene.log.entries[0]["detail"]


def test_refused_document_does_not_replace_the_accepted_one(scene: Scene) -> None:
    location = scene.file("sofa", b"good")
    poller = scene.poller(sofa=location)
    asyncio.run(poller.poll(scene.sink))
    scene.file("sofa", b"wrong")
    scene.sink.outcomes["sofa"] = FeedOutcome.TRUNCATED
    asyncio.run(poller.poll(scene.sink))
    copy = DownloadCache(scene.folder / "copies").load("sofa", location)
    assert copy is not None
    assert copy.document == b"good"
    assert (scene.folder / "copies" / "sofa.refused").read_bytes() == b"wrong"
    assert scene.log.entries[-1]["event"] == "feed refused"
    assert scene.log.entries[-1]["detail"] == "why"


def test_document_is_processed_when_it_cannot_be_cached(scene: Scene) -> None:
    (scene.folder / "copies").write_bytes(b"a file where a folder should be")
    found = asyncio.run(scene.poller(sofa=scene.file("sofa", b"s")).poll(scene.sink))
    assert found == {"sofa": FeedOutcome.ACCEPTED}
    assert scene.log.entries[0]["event"] == "feed copy not stored"


def test_each_feed_is_polled_when_it_is_due(scene: Scene) -> None:
    locations = {"sofa": scene.file("sofa", b"s"), "gdmf": scene.file("gdmf", b"g")}
    poller = scene.poller(**locations, interval_s=0.1, gdmf_interval_s=3600)

    async def run_twice() -> None:
        running = asyncio.create_task(poller.run(scene.sink))
        async with asyncio.timeout(20):
            while len(scene.sink.documents) < 4:
                await asyncio.sleep(0.01)
        running.cancel()
        # A second run continues with the times of the first: `gdmf` is not due again.
        again = asyncio.create_task(poller.run(scene.sink))
        async with asyncio.timeout(20):
            while len(scene.sink.documents) < 6:
                await asyncio.sleep(0.01)
        again.cancel()

    asyncio.run(run_twice())
    assert [source for source, _, _ in scene.sink.documents].count("gdmf") == 1
