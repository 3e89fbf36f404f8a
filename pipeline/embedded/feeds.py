"""Feeds that the service polls itself. Each document is accepted as if it had been posted."""

import asyncio
from dataclasses import dataclass

from pipeline.embedded import write_requests
from pipeline.embedded.service_thread import ServiceThread, UnavailableError
from pipeline.feeds.poller import DocumentResult, Poller
from pipeline.ingest.feed_review import FeedOutcome
from runtime.logs import Log
from runtime.retry import FEED, Backoff
from schemas.feeds import FeedSource


@dataclass(frozen=True, slots=True)
class ServiceSink:
    """The service as the destination of a poller's documents."""

    service_thread: ServiceThread

    async def process_document(
        self, source: FeedSource, document: bytes, *, accept_losses: bool
    ) -> DocumentResult:
        """Return the outcome of a feed's document, once the service has stored the result.

        The outcome is UNREACHABLE, with the reason in `detail`, if the service does not accept the
        request or fails before the result is durable. `accept_losses` accepts a document that lacks
        many earlier entries.
        """
        prepare = write_requests.feed(source, document, accept_losses=accept_losses)
        try:
            response = await asyncio.wrap_future(self.service_thread.submit(prepare))
        except UnavailableError as error:
            return DocumentResult(FeedOutcome.UNREACHABLE, detail=f"not accepted: {error}")
        return DocumentResult(
            FeedOutcome(response["outcome"]), response["events"], response.get("refused", "")
        )


async def poll_feeds(poller: Poller, service_thread: ServiceThread, log: Log) -> None:
    """Poll the feeds until cancelled.

    An unexpected exception is logged, and polling starts again after 15 to 60 s.
    """
    sink = ServiceSink(service_thread)
    backoff = Backoff(FEED)
    while True:
        try:
            await poller.run(sink)
        except Exception as error:  # the task's top: polling goes on
            log.error("unhandled exception", exc_info=error)
            await backoff.sleep()
