"""Feeds that the service polls itself. Each document is accepted as if it had been posted."""

from dataclasses import dataclass
from datetime import datetime

from pipeline.feeds.poller import DocumentResult, Poller
from pipeline.gateway.event_sink import FeedSink, NotDurableError
from pipeline.ingest.feed_review import FeedOutcome
from pipeline.trust.senders import default_sender
from runtime.logs import Log
from runtime.retry import FEED, Backoff
from schemas.feeds import FeedSource


@dataclass(frozen=True, slots=True)
class ServiceSink:
    """The service as the destination of a poller's documents."""

    sink: FeedSink

    async def process_document(
        self, source: FeedSource, document: bytes, *, accept_losses: bool
    ) -> DocumentResult:
        """Return the outcome of a feed's document, once the service has stored the result.

        The outcome is UNREACHABLE, with the reason in `detail`, if the service does not accept the
        request or fails before the result is durable. `accept_losses` accepts a document that lacks
        many earlier entries.
        """
        try:
            response = await self.sink.store_feed(
                source, document, default_sender(source), accept_losses=accept_losses
            )
        except NotDurableError as error:
            return DocumentResult(FeedOutcome.UNREACHABLE, detail=f"not accepted: {error}")
        document_at = response.get("document_at")
        return DocumentResult(
            FeedOutcome(response["outcome"]),
            response["events"],
            response.get("refused", ""),
            None if document_at is None else datetime.fromisoformat(document_at),
        )


async def poll_feeds(poller: Poller, sink: FeedSink, log: Log) -> None:
    """Poll the feeds until cancelled.

    An unexpected exception is logged, and polling starts again after 15 to 60 s.
    """
    backoff = Backoff(FEED)
    while True:
        try:
            await poller.run(ServiceSink(sink))
        except Exception as error:  # the task's top: polling continues
            log.error("unhandled exception", exc_info=error)
            await backoff.sleep()
