"""Documents of polled feeds, given to the sink of the HTTP application."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from pipeline.embedded.feeds import ServiceSink
from pipeline.feeds.poller import DocumentResult
from pipeline.ingest.feed_review import FeedOutcome
from tests.factories.sofa import feed, line, release
from tests.unit.gateway.apps import sqlite_app
from tests.unit.gateway.fakes import until

DATED = datetime(2026, 2, 1, 8, tzinfo=UTC)


def test_polled_document_is_accepted_as_if_it_had_been_posted(tmp_path: Path) -> None:
    document = feed(line("Tahoe 26", release("26.2")))

    async def polled() -> DocumentResult:
        async with sqlite_app(tmp_path) as it:
            assert it.app.feeds is not None
            sink = ServiceSink(it.app.feeds)
            found = await sink.process_document("sofa", document, accept_losses=False)
            posted = await it.post("/v1/feeds/sofa", document)
            dated = {"document_at": DATED.isoformat()}
            counts = {"events": 0, "dead_letters": 0}
            assert posted.json() == {"outcome": "unchanged", **counts, **dated}
            return found

    assert asyncio.run(polled()) == DocumentResult(FeedOutcome.ACCEPTED, 1, document_at=DATED)


def test_document_is_unreachable_while_too_many_requests_wait(tmp_path: Path) -> None:
    async def polled() -> DocumentResult:
        async with sqlite_app(tmp_path, max_waiting=1) as it:
            assert it.app.feeds is not None
            it.hold()
            waiting = it.service_thread.ask(lambda *_: None)
            found = await ServiceSink(it.app.feeds).process_document(
                "sofa", b"{}", accept_losses=False
            )
            it.release()
            await until(waiting.done)
            return found

    found = asyncio.run(polled())
    assert found.outcome is FeedOutcome.UNREACHABLE
    assert found.detail == "not accepted: too many requests are waiting: try again"
