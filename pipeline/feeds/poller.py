"""Looks at each feed when it is due and gives what it finds to a sink. Decides nothing itself."""

import asyncio
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from pipeline.config import FeedsSettings
from pipeline.feeds.download_cache import CachedDocument, DownloadCache
from pipeline.feeds.fetching import FetchError, FetchLimits, fetch
from pipeline.ingest.feed_review import REFUSALS, FeedOutcome
from schemas import logkeys as key
from schemas.feeds import FeedSource

NO_FEED: Final = "none"
# A catalogue of CVEs comes after the feed that tells which of them are Apple's; last who is most
# often out of reach, behind a proxy that does not know Apple's authority.
_ORDER: Final[tuple[FeedSource, ...]] = ("sofa", "kev", "gdmf")
# So that not everybody's pollers ask at the same second.
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """What became of a document; `detail` says why it was refused, `events` how much was new."""

    outcome: FeedOutcome
    events: int = 0
    detail: str = ""


class Sink(Protocol):
    """Who judges documents and makes durable what they say anew."""

    async def process_document(
        self, source: FeedSource, document: bytes, *, accept_losses: bool
    ) -> DocumentResult:
        """Take the next document of a feed, or refuse it."""


class PollMetrics(Protocol):
    """Who counts."""

    def count_poll(self, source: FeedSource, outcome: FeedOutcome) -> None:
        """A feed was looked at."""


@dataclass(frozen=True, slots=True)
class PolledFeed:
    """Where a feed is, a URL or a file, and how often it is looked at."""

    location: str
    every_s: float


class Poller:
    """Looks at some feeds. What is due is remembered, whoever the sink is meanwhile."""

    def __init__(
        self,
        feeds: Mapping[FeedSource, PolledFeed],
        copies: DownloadCache,
        limits: FetchLimits,
        observer: PollMetrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._feeds = {source: feeds[source] for source in _ORDER if source in feeds}
        self._copies = copies
        self._limits = limits
        self._observer = observer
        self._log = log
        self._due = dict.fromkeys(self._feeds, 0.0)

    async def run(self, sink: Sink) -> None:
        """Look at each feed as often as it says, without end. What the sink raises ends it."""
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
        """Look at these feeds now, or at all."""
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
        if isinstance(fetched, str):
            return DocumentResult(FeedOutcome.UNREACHABLE, detail=fetched)
        result = await sink.process_document(source, fetched.document, accept_losses=accept_losses)
        await asyncio.to_thread(self._cache, source, fetched, result.outcome)
        return result

    async def _fetch(self, source: FeedSource) -> CachedDocument | str:
        """The document, or why there is none."""
        location = self._feeds[source].location
        known = await asyncio.to_thread(self._copies.load, source, location)
        try:
            return await fetch(location, known, self._limits)
        except FetchError as error:
            return str(error)

    def _cache(self, source: FeedSource, copy: CachedDocument, outcome: FeedOutcome) -> None:
        try:
            if outcome in REFUSALS:
                self._copies.store_refused(source, copy.document)
            elif copy != self._copies.load(source, copy.location):
                self._copies.store(source, copy)
        except OSError as error:
            # The next look costs a whole download; nothing else is lost.
            fields = {key.SOURCE: source, key.DETAIL: str(error.strerror)}
            self._log.warning("cannot keep a copy", **fields)

    def _report(self, source: FeedSource, result: DocumentResult) -> None:
        self._observer.count_poll(source, result.outcome)
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
    log: structlog.typing.FilteringBoundLogger,
) -> Poller:
    """A poller of the feeds that the settings name, with its copies in the folder."""
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
    limits = FetchLimits(timeout_s=settings.timeout_s, max_bytes=settings.max_bytes)
    return Poller(feeds, DownloadCache(folder), limits, observer, log)
