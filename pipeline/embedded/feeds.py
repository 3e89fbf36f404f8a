"""Feeds polled by the service itself: what they say anew goes the way of a posted feed."""

import asyncio
from dataclasses import dataclass
from typing import Final

from pipeline.embedded import intake
from pipeline.embedded.worker import BusyError, Worker
from pipeline.feeds.poller import Poller, Taken
from pipeline.ingest.judging import FeedOutcome
from pipeline.server_process import Log
from schemas.feeds import FeedSource

_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ServiceSink:
    """The service as the poller sees it."""

    worker: Worker

    async def take(self, source: FeedSource, document: bytes, *, accept_losses: bool) -> Taken:
        """Take the next document of a feed, or refuse it."""
        prepare = intake.feed(source, document, accept_losses=accept_losses)
        try:
            answer = await asyncio.wrap_future(self.worker.submit(prepare))
        except BusyError as error:
            return Taken(FeedOutcome.UNREACHABLE, detail=f"not taken: {error}")
        return Taken(FeedOutcome(answer["outcome"]), answer["events"], answer.get("refused", ""))


async def poll_feeds(poller: Poller, worker: Worker, log: Log) -> None:
    """Look at the feeds until cancelled."""
    sink = ServiceSink(worker)
    while True:
        try:
            await poller.run(sink)
        except Exception as error:  # the task's top: feeds are looked at again
            log.error("bug", exc_info=error)
            await asyncio.sleep(_AGAIN_S)
