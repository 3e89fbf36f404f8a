"""Fetches each feed when it is due and gives the document to a sink, which reviews it."""

import asyncio
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from pipeline.config import FeedsSettings
from pipeline.feeds.download_cache import CachedDocument, DownloadCache
from pipeline.feeds.fetching import FetchError, FetchLimits, fetch
from pipeline.feeds.locations import problem_of
from pipeline.ingest.feed_review import REFUSALS, FeedOutcome
from runtime.logs import Log
from schemas import logkeys as key
from schemas.feeds import FeedSource

NO_FEED: Final = "none"
# KEV comes after SOFA, which lists the CVEs that Apple fixed. GDMF comes last because it is the
# most often unreachable: proxies often do not know Apple's certificate authority.
_ORDER: Final[tuple[FeedSource, ...]] = ("sofa", "kev", "gdmf")
# Spreads the requests of all Drydock installations, as a fraction of the interval.
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """The outcome of one document.

    `events` is the number of new events. `detail` is the reason if the document was refused or not
    received, else empty. `document_at` is the date inside the newest accepted document, None if it
    is not known.
    """

    outcome: FeedOutcome
    events: int = 0
    detail: str = ""
    document_at: datetime | None = None


class Sink(Protocol):
    """Reviews documents and makes the resulting events durable."""

    async def process_document(
        self, source: FeedSource, document: bytes, *, accept_losses: bool
    ) -> DocumentResult:
        """Return the outcome of the next document of a feed, once its events are durable.

        A refused document gives no events. `accept_losses` accepts a document that lacks many
        entries of the earlier one.
        """


class PollMetrics(Protocol):
    """Counts polls."""

    def count_poll(
        self, source: FeedSource, outcome: FeedOutcome, document_at: datetime | None
    ) -> None:
        """Count one poll of a feed; `document_at` is that of its DocumentResult."""


@dataclass(frozen=True, slots=True)
class PolledFeed:
    """A feed's location (URL or path of a file) and the interval between its polls."""

    location: str
    every_s: float


class Poller:
    """Polls some feeds. It keeps the time of each next poll when the sink is replaced."""

    def __init__(
        self,
        feeds: Mapping[FeedSource, PolledFeed],
        copies: DownloadCache,
        limits: FetchLimits,
        observer: PollMetrics,
        log: Log,
    ) -> None:
        self._feeds = {source: feeds[source] for source in _ORDER if source in feeds}
        self._copies = copies
        self._limits = limits
        self._observer = observer
        self._log = log
        self._due = dict.fromkeys(self._feeds, 0.0)

    async def run(self, sink: Sink) -> None:
        """Poll each feed at its interval, until cancelled or until the sink raises.

        A feed that was never polled is due at once. Each interval varies at random by up to 10 %.
        Raises ValueError if the poller has no feed.
        """
        while True:
            now = time.monotonic()
            due = [source for source, at in self._due.items() if at <= now]
            await self.poll(sink, due)
            await asyncio.sleep(max(0.0, min(self._due.values()) - time.monotonic()))

    async def poll(
        self,
        sink: Sink,
        sources: Collection[FeedSource] | None = None,
        *,
        accept_losses: Collection[FeedSource] = (),
    ) -> dict[FeedSource, FeedOutcome]:
        """Poll these feeds now, or all of them for None; return the outcome of each polled feed.

        Sources that the poller does not have are left out. For the feeds in `accept_losses` a
        document that lacks many earlier entries is accepted. Exceptions of the sink are raised.
        """
        selected = [one for one in self._feeds if sources is None or one in sources]
        fetched = {source: asyncio.create_task(self._fetch(source)) for source in selected}
        outcomes = {}
        try:
            for source, fetching in fetched.items():
                result = await self._process(source, await fetching, sink, source in accept_losses)
                self._report(source, result)
                outcomes[source] = result.outcome
                jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
                self._due[source] = time.monotonic() + self._feeds[source].every_s * jitter
        finally:
            for fetching in fetched.values():
                fetching.cancel()
        return outcomes

    async def _process(
        self, source: FeedSource, fetched: CachedDocument | str, sink: Sink, accept_losses: bool
    ) -> DocumentResult:
        """Return the sink's result for a fetched document, after the document was cached.

        A text in place of the document is the reason of a failed fetch: the outcome is UNREACHABLE.
        """
        if isinstance(fetched, str):
            return DocumentResult(FeedOutcome.UNREACHABLE, detail=fetched)
        result = await sink.process_document(source, fetched.document, accept_losses=accept_losses)
        await asyncio.to_thread(self._cache, source, fetched, result.outcome)
        return result

    async def _fetch(self, source: FeedSource) -> CachedDocument | str:
        """Return the document of a feed; a text, the reason, if it could not be fetched."""
        location = self._feeds[source].location
        known = await asyncio.to_thread(self._copies.load, source, location)
        try:
            return await fetch(location, known, self._limits)
        except FetchError as error:
            return str(error)

    def _cache(self, source: FeedSource, copy: CachedDocument, outcome: FeedOutcome) -> None:
        """Keep the document on disk: a refused one beside the accepted one, else in its place.

        An error of the disk is only logged.
        """
        try:
            if outcome in REFUSALS:
                self._copies.store_refused(source, copy.document)
            elif copy != self._copies.load(source, copy.location):
                self._copies.store(source, copy)
        except OSError as error:
            # Only the next poll is affected: it downloads the whole document.
            fields = {key.SOURCE: source, key.DETAIL: str(error.strerror)}
            self._log.warning("feed copy not stored", **fields)

    def _report(self, source: FeedSource, result: DocumentResult) -> None:
        self._observer.count_poll(source, result.outcome, result.document_at)
        fields = {key.SOURCE: source, key.OUTCOME: result.outcome.value}
        if result.outcome is FeedOutcome.UNREACHABLE:
            self._log.warning("feed unreachable", **fields, **{key.DETAIL: result.detail})
        elif result.outcome in REFUSALS:
            self._log.error("feed refused", **fields, **{key.DETAIL: result.detail})
        elif result.outcome is FeedOutcome.ACCEPTED:
            self._log.info("feed accepted", **fields, **{key.COUNT: result.events})


def make_poller(
    settings: FeedsSettings,
    folder: Path,
    observer: PollMetrics,
    log: Log,
) -> Poller:
    """Return a poller of the feeds that have a location, with its cache in `folder`.

    A location of `none` leaves the feed out. Apple's lookup service (GDMF) gets the longer of the
    two intervals in the settings. Raises ValueError for a location over plain HTTP.
    """
    every_s: dict[FeedSource, float] = {
        "sofa": settings.interval_s,
        "gdmf": max(settings.interval_s, settings.gdmf_interval_s),
        "kev": settings.interval_s,
    }
    feeds = {
        source: PolledFeed(location, seconds)
        for source, seconds in every_s.items()
        if (location := str(getattr(settings, source))) != NO_FEED
    }
    for source, feed in feeds.items():
        problem = problem_of(feed.location)
        if problem is not None:
            raise ValueError(f"DRYDOCK_FEEDS_{source.upper()}: {problem}")
    limits = FetchLimits(timeout_s=settings.timeout_s, max_bytes=settings.max_bytes)
    return Poller(feeds, DownloadCache(folder), limits, observer, log)
