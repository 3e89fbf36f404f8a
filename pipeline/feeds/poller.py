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
from pipeline.feeds.copies import Copies, Copy
from pipeline.feeds.fetching import FetchError, Limits, fetch
from pipeline.ingest.judging import REFUSALS, FeedOutcome
from schemas import logkeys as key
from schemas.feeds import FeedSource

NO_FEED: Final = "none"
# A catalogue of CVEs comes after the feed that tells which of them are Apple's; last who is most
# often out of reach, behind a proxy that does not know Apple's authority.
_ORDER: Final[tuple[FeedSource, ...]] = ("sofa", "kev", "gdmf")
# So that not everybody's pollers ask at the same second.
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a document; `detail` says why it was refused, `events` how much was new."""

    outcome: FeedOutcome
    events: int = 0
    detail: str = ""


class Sink(Protocol):
    """Who judges documents and makes durable what they say anew."""

    async def take(self, source: FeedSource, document: bytes, *, accept_losses: bool) -> Taken:
        """Take the next document of a feed, or refuse it."""


class Observer(Protocol):
    """Who counts."""

    def polled(self, source: FeedSource, outcome: FeedOutcome) -> None:
        """A feed was looked at."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a feed is, a URL or a file, and how often it is looked at."""

    location: str
    every_s: float


class Poller:
    """Looks at some feeds. What is due is remembered, whoever the sink is meanwhile."""

    def __init__(
        self,
        feeds: Mapping[FeedSource, Feed],
        copies: Copies,
        limits: Limits,
        observer: Observer,
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
        asked = [one for one in self._feeds if sources is None or one in sources]
        fetched = {source: asyncio.create_task(self._fetched(source)) for source in asked}
        outcomes = {}
        try:
            for source, fetching in fetched.items():
                taken = await self._taken(source, await fetching, sink, source in accept_losses)
                self._tell(source, taken)
                outcomes[source] = taken.outcome
                jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
                self._due[source] = time.monotonic() + self._feeds[source].every_s * jitter
        finally:
            for fetching in fetched.values():
                fetching.cancel()
        return outcomes

    async def _taken(
        self, source: FeedSource, found: Copy | str, sink: Sink, accept_losses: bool
    ) -> Taken:
        if isinstance(found, str):
            return Taken(FeedOutcome.UNREACHABLE, detail=found)
        taken = await sink.take(source, found.document, accept_losses=accept_losses)
        await asyncio.to_thread(self._keep, source, found, taken.outcome)
        return taken

    async def _fetched(self, source: FeedSource) -> Copy | str:
        """The document, or why there is none."""
        location = self._feeds[source].location
        known = await asyncio.to_thread(self._copies.load, source, location)
        try:
            return await fetch(location, known, self._limits)
        except FetchError as error:
            return str(error)

    def _keep(self, source: FeedSource, copy: Copy, outcome: FeedOutcome) -> None:
        try:
            if outcome in REFUSALS:
                self._copies.keep_refused(source, copy.document)
            elif copy != self._copies.load(source, copy.location):
                self._copies.keep(source, copy)
        except OSError as error:
            # The next look costs a whole download; nothing else is lost.
            said = {key.SOURCE: source, key.DETAIL: str(error.strerror)}
            self._log.warning("cannot keep a copy", **said)

    def _tell(self, source: FeedSource, taken: Taken) -> None:
        self._observer.polled(source, taken.outcome)
        said = {key.SOURCE: source, key.OUTCOME: taken.outcome.value}
        if taken.outcome is FeedOutcome.UNREACHABLE:
            self._log.warning("feed unreachable", **said, **{key.DETAIL: taken.detail})
        elif taken.outcome in REFUSALS:
            self._log.error("feed refused", **said, **{key.DETAIL: taken.detail})
        elif taken.outcome is FeedOutcome.TAKEN:
            self._log.info("feed taken", **said, **{key.COUNT: taken.events})


def make_poller(
    settings: FeedsSettings,
    folder: Path,
    observer: Observer,
    log: structlog.typing.FilteringBoundLogger,
) -> Poller:
    """A poller of the feeds that the settings name, with its copies in the folder."""
    every_s: dict[FeedSource, float] = {
        "sofa": settings.interval_s,
        "gdmf": max(settings.interval_s, settings.gdmf_interval_s),
        "kev": settings.interval_s,
    }
    feeds = {
        source: Feed(location, seconds)
        for source, seconds in every_s.items()
        if (location := str(getattr(settings, source))) != NO_FEED
    }
    limits = Limits(timeout_s=settings.timeout_s, max_bytes=settings.max_bytes)
    return Poller(feeds, Copies(folder), limits, observer, log)
