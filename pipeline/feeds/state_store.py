"""The states of feeds in Kafka, written in one transaction with the events that follow from them.

All pollers use one transactional id. A poller that opens the store aborts the open transaction of
its predecessor and fences it, so that it can no longer write (KIP-98). Only then it reads the
states, so they are final. One transaction holds the events, the dead letters and the new state of
a feed: after a crash at any point, all of them are there or none, and the next poller continues
from the stored state.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Protocol, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError, ProducerFenced  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from pydantic import ValidationError

from pipeline.feeds.poller import DocumentResult
from pipeline.gateway.records import Record, event_records, letter_record
from pipeline.ingest.feed_review import review
from pipeline.ingest.sources import FEED_DIFFS
from pipeline.ingest.translation import Translation
from pipeline.trust.senders import default_sender
from pipeline.trust.stamps import Stamps
from pipeline.trust.translated import admit_translation
from runtime.kafka import KafkaConnection, missing_topics
from runtime.logs import Log
from schemas import logkeys as key
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event
from schemas.feeds import PRE_RELEASE_KEYS, FeedSource, FeedState
from schemas.model import has_any_key
from schemas.topics import ADVISORIES, DEAD_LETTERS, FEEDS, headers_of

TRANSACTIONAL_ID: Final = "drydock.feeds"
_TOPICS: Final = (ADVISORIES.name, DEAD_LETTERS.name, FEEDS.name)
_PARTITION: Final = TopicPartition(FEEDS.name, 0)
_CONNECT_S: Final = 30.0
_WRITE_S: Final = 30.0
# An open transaction blocks read_committed readers. Usually a successor aborts it sooner.
_TRANSACTION_S: Final = 60.0
_CLOSE_S: Final = 5.0
_POLL_MS: Final = 500


class FeedStateStoreError(Exception):
    """Kafka cannot be reached, or another poller has fenced this one; open the store again."""


class PublishMetrics(Protocol):
    """Counts published events and dead letters."""

    def count_published(
        self,
        source: FeedSource,
        events: tuple[Event, ...],
        letters: tuple[DeadLetter, ...],
    ) -> None:
        """Count events and dead letters that are committed in Kafka."""


class FeedStateStore:
    """An open state store. Close it after a FeedStateStoreError; it cannot be used again."""

    def __init__(
        self,
        producer: Any,
        states: dict[FeedSource, FeedState],
        observer: PublishMetrics,
        clock: Callable[[], datetime],
        stamps: Stamps | None,
    ) -> None:
        self.states = states
        self._producer = producer
        self._observer = observer
        self._clock = clock
        self._stamps = stamps

    @classmethod
    async def open(
        cls,
        connection: KafkaConnection,
        observer: PublishMetrics,
        log: Log,
        clock: Callable[[], datetime],
        stamps: Stamps | None = None,
    ) -> Self:
        """Return an open state store with the states of all feeds.

        With `stamps` each event is stamped. It first fences the poller that has the store open:
        that one can no longer write. Raises FeedStateStoreError if the settings are invalid, Kafka
        cannot be reached within 30 s, or a topic is missing.
        """
        try:
            producer = AIOKafkaProducer(**_options(connection))
        except (OSError, ValueError) as error:
            raise FeedStateStoreError(f"the Kafka settings are invalid: {error}") from error
        store = cls(producer, {}, observer, clock, stamps)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await producer.start()
                missing = await missing_topics(producer.client, _TOPICS)
                if missing:
                    raise FeedStateStoreError(
                        f"no topic {', '.join(missing)}: run `drydock topics apply`"
                    )
                store.states = await _states(connection, log)
        except BaseException as error:
            await store.close()
            if isinstance(error, KafkaError | OSError | TimeoutError):
                raise FeedStateStoreError(
                    f"cannot read the feed states from Kafka: {error!r}"
                ) from error
            raise
        return store

    async def close(self) -> None:
        """Disconnect; give up after 5 s, which leaves connections open. Kafka's errors are ignored.

        The next poller aborts a transaction that is still open.
        """
        with suppress(KafkaError, TimeoutError, OSError):
            await asyncio.wait_for(self._producer.stop(), _CLOSE_S)

    async def process_document(
        self, source: FeedSource, document: bytes, *, accept_losses: bool
    ) -> DocumentResult:
        """Return the outcome of a document, once its events and the new state are committed.

        A refused document gives no events: its new dead letters and the new state are committed.
        Nothing is written if the state does not change. `accept_losses` accepts a document that
        lacks many earlier entries. Raises FeedStateStoreError if another poller has fenced this
        one, or Kafka fails or is too slow; then the records may be durable or not, and the store
        shows it when it is opened again.
        """
        state, now = self.states[source], self._clock()
        reviewed = await asyncio.to_thread(
            review,
            document,
            state,
            origin=f"feed/{source}",
            now=now,
            # SOFA, the catalogue of releases, decides which CVEs of KEV are Apple's.
            fixed=self.states["sofa"].cves,
            accept_losses=accept_losses,
        )
        admitted = admit_translation(
            Translation(reviewed.events, reviewed.dead_letters),
            document,
            default_sender(source),
            source=source,
            origin=f"feed/{source}",
            received_at=now,
        )
        if reviewed.state != state:
            await self._write(_records(admitted, reviewed.state, self._stamps))
            self.states[source] = reviewed.state
        self._observer.count_published(source, admitted.events, admitted.dead_letters)
        return DocumentResult(
            *(reviewed.outcome, len(admitted.events), reviewed.detail), reviewed.state.document_at
        )

    async def _write(self, records: Iterable[Record]) -> None:
        """Commit all of these records in one transaction, or none of them.

        Raises FeedStateStoreError if another poller has fenced this one, or Kafka fails or is too
        slow; after a failure of the commit itself the records may be committed.
        """
        producer = self._producer
        try:
            async with asyncio.timeout(_WRITE_S):
                await producer.begin_transaction()
                sent = []
                for one in records:
                    ack = await producer.send(
                        one.topic, one.value, one.key, headers=headers_of(one.topic)
                    )
                    # If one fails, `gather` does not await the others: avoid asyncio's warnings.
                    ack.add_done_callback(_retrieve_exception)
                    sent.append(ack)
                await asyncio.gather(*sent)
                await producer.commit_transaction()
        except ProducerFenced as error:
            raise FeedStateStoreError("another poller has opened the feed state store") from error
        except (KafkaError, TimeoutError) as error:
            raise FeedStateStoreError(f"cannot publish the feed document: {error!r}") from error


def _retrieve_exception(ack: "asyncio.Future[Any]") -> None:
    if not ack.cancelled():
        ack.exception()


def _records(done: Translation, state: FeedState, stamps: Stamps | None) -> list[Record]:
    """Return the records of the events, then of the dead letters, then of the feed's new state."""
    return [
        *event_records(done.events, stamps),
        *map(letter_record, done.dead_letters),
        Record(
            FEEDS.name, state.source.encode(), state.model_dump_json(exclude_none=True).encode()
        ),
    ]


async def _states(connection: KafkaConnection, log: Log) -> dict[FeedSource, FeedState]:
    """Return the state of every feed from the topic, by source.

    A feed without a stored or readable state has an empty one. Raises KafkaError or OSError if
    Kafka fails.
    """
    found: dict[bytes, bytes] = {}
    consumer = AIOKafkaConsumer(**connection.aiokafka_reader_options())
    try:
        await consumer.start()
        consumer.assign([_PARTITION])
        await consumer.seek_to_beginning(_PARTITION)
        end = (await consumer.end_offsets([_PARTITION]))[_PARTITION]
        # Compare the position, not the last record: transaction markers occupy offsets too.
        while await consumer.position(_PARTITION) < end:
            for record in (await consumer.getmany(timeout_ms=_POLL_MS)).get(_PARTITION, ()):
                found[record.key] = record.value
    finally:
        await consumer.stop()
    return {source: _state(source, found.get(source.encode()), log) for source in FEED_DIFFS}


def _state(source: FeedSource, raw: bytes | None, log: Log) -> FeedState:
    """Return the stored state; an empty one if `raw` is None or unreadable, which is logged.

    Raises FeedStateStoreError for a state from before release 0.1.0.
    """
    if raw is not None and has_any_key(raw, PRE_RELEASE_KEYS):
        raise FeedStateStoreError(
            f"{FEEDS.name} was written before release 0.1.0, whose states are not read: delete the"
            " topic, then create it with `drydock topics apply`"
        )
    try:
        return FeedState(source=source) if raw is None else FeedState.model_validate_json(raw)
    except ValidationError as error:
        # Publishing all events again does no harm; a feed that can never publish again would.
        fields = {key.SOURCE: source, key.DETAIL: str(error)}
        log.error("feed state unreadable; starting from an empty one", **fields)
        return FeedState(source=source)


def _options(connection: KafkaConnection) -> dict[str, Any]:
    return connection.aiokafka_producer_options() | {
        "transactional_id": TRANSACTIONAL_ID,
        "transaction_timeout_ms": round(_TRANSACTION_S * 1000),
    }
