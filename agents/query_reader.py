"""The queries of a site, read from Kafka by the one agent that owns the partition.

Every agent of the site is in one group. The member that owns the only partition is the leader of
the site's MDM servers, so their budgets hold for the whole site. Another agent takes over when it
ends: it continues with the first query that was not sent.

| event | effect |
| --- | --- |
| a record arrives | its signature, site and expiry are checked; then it waits for its server |
| every 5 s | the offset of the first query that waits is committed |
| the partition is revoked | that offset is committed, then the waiting queries are dropped |
| Kafka fails | the waiting queries are dropped: the next owner reads them |
"""

import threading
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

from kafka import (  # type: ignore[import-untyped]
    AsyncConsumerRebalanceListener,
    KafkaConsumer,
    OffsetAndMetadata,
)
from kafka.errors import (  # type: ignore[import-untyped]
    KafkaError,
    UnknownTopicOrPartitionError,
)
from pydantic import ValidationError

from agents.consumer_group import GroupMember, rejoin_if_stuck
from agents.mdm.queries import QuerySender
from runtime.kafka import KafkaConnection, session_options
from runtime.logs import Log
from runtime.offset_gaps import COMMIT_METADATA
from runtime.retry import BROKER, Backoff
from runtime.trusted_keys import KeyRing
from schemas import logkeys as key
from schemas.queries import MacQuery
from schemas.signed_payloads import verify_query
from schemas.signing import SignatureError, Signed
from schemas.topics import queries_topic

_POLL_MS: Final = 500
_TIMEOUT_MS: Final = 10_000
_COMMIT_INTERVAL_S: Final = 5.0
_LOG_INTERVAL_S: Final = 30.0


def queries_group(site: str) -> str:
    """Return the name of the group whose member is the leader of a site's MDM servers."""
    return f"drydock.agent.{site}.queries"


class QueryReader(threading.Thread):
    """Thread that passes the queries of a site to `sender` while this agent is the leader.

    `member` has the site; without a heartbeat for its session another agent becomes the leader.
    `keys` returns the trusted keys, `now` is the agent's clock.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        member: GroupMember,
        sender: QuerySender,
        keys: Callable[[], KeyRing],
        now: Callable[[], datetime],
        log: Log,
    ) -> None:
        super().__init__(daemon=True, name="query-reader")
        self._connection = connection
        self._site = member.site
        self._sender = sender
        self._keys = keys
        self._now = now
        self._log = log
        self._session_s = member.session_s
        # By partition: the offset after the last record that was read.
        self._next_offsets: dict[Any, int] = {}
        self._committed: dict[Any, int] = {}
        self._ending = threading.Event()
        self._next_log_at = 0.0

    def stop(self) -> None:
        """Request the end of the thread, which then leaves the group; returns at once."""
        self._ending.set()

    def run(self) -> None:
        """Read until stopped. After an error a new client begins at the committed offset."""
        backoff = Backoff(BROKER)
        while not self._ending.is_set():
            try:
                self._read_until_stopped()
            except Exception as error:  # noqa: BLE001 - top of the thread; jobs do not need it
                self._warn("cannot read the queries of the site; retrying", error)
            self.drop_all()
            backoff.wait(self._ending)

    def drop_all(self) -> None:
        """Drop the queries that wait: they belong to the next leader."""
        self._committed.clear()
        self._sender.clear()

    def _read_until_stopped(self) -> None:
        """Read with a new client. Raises KafkaError; UnknownTopicOrPartitionError without topic."""
        options = self._connection.consumer_options(queries_group(self._site)) | {
            **session_options(self._session_s),
            "reconnect_backoff_max_ms": 2000,
            "bootstrap_timeout_ms": _TIMEOUT_MS,
        }
        with KafkaConsumer(**options) as consumer:
            topic = queries_topic(self._site)
            if not consumer.partitions_for_topic(topic):
                raise UnknownTopicOrPartitionError(f"{topic}: run drydock topics apply")
            self._next_offsets.clear()
            consumer.subscribe([topic], listener=_Revocations(partial(self._hand_over, consumer)))
            commit_at = 0.0
            while not self._ending.is_set():
                rejoin_if_stuck(consumer)
                for partition, batch in consumer.poll(timeout_ms=_POLL_MS).items():
                    for record in batch:
                        self._accept(record)
                        self._next_offsets[partition] = record.offset + 1
                if time.monotonic() >= commit_at:
                    commit_at = time.monotonic() + _COMMIT_INTERVAL_S
                    self._commit(consumer)
            self._commit(consumer)

    def _accept(self, record: Any) -> None:
        """Let the query of a record wait; one that is not for this site or not signed is refused.

        One that has expired is asked again by the pipeline, so it is dropped.
        """
        try:
            query = self._read(record.value or b"")
        except (ValidationError, SignatureError) as error:
            self._sender.count_refused()
            self._warn("query without a valid signature or for another site refused", error)
            return
        if self._now() < query.expires_at:
            self._sender.ask(query, record.offset)

    def _read(self, raw: bytes) -> MacQuery:
        """Return the query; raises ValidationError, SignatureError also for another site's."""
        query = verify_query(Signed.model_validate_json(raw), self._keys().jobs)
        if query.site != self._site:
            raise SignatureError(f"signed for {query.site}")
        return query

    async def _hand_over(self, consumer: Any) -> None:
        """Commit, so that the next leader does not repeat what was sent; then drop what waits.

        Runs in the client's event loop, where a blocking commit is refused.
        """
        try:
            if offsets := self._offsets_to_commit():
                await consumer.commit_async(offsets)
        except KafkaError as error:
            self._warn("cannot commit before a rebalance; queries can be repeated", error)
        self._next_offsets.clear()
        self.drop_all()

    def _commit(self, consumer: Any) -> None:
        """Commit the offset of the first query that is not sent yet. Raises KafkaError."""
        if offsets := self._offsets_to_commit():
            consumer.commit(offsets, timeout_ms=_TIMEOUT_MS)
            self._committed = {partition: entry.offset for partition, entry in offsets.items()}

    def _offsets_to_commit(self) -> dict[Any, OffsetAndMetadata]:
        """Return the offset to commit of each partition; none for one that is committed."""
        waiting = self._sender.first_offset()
        return {
            partition: OffsetAndMetadata(offset, COMMIT_METADATA, -1)
            for partition, read_to in self._next_offsets.items()
            if (offset := read_to if waiting is None else waiting) != self._committed.get(partition)
        }

    def _warn(self, message: str, error: Exception) -> None:
        if time.monotonic() >= self._next_log_at:
            self._next_log_at = time.monotonic() + _LOG_INTERVAL_S
            detail = str(error) or type(error).__name__
            self._log.warning(message, **{key.SITE: self._site, key.DETAIL: detail})


class _Revocations(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Awaits a function when the partition is revoked."""

    def __init__(self, on_revoked: Callable[[], Awaitable[None]]) -> None:
        self._on_revoked = on_revoked

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Do what a former leader does."""
        if revoked:
            await self._on_revoked()

    async def on_partitions_assigned(self, _: Any) -> None:
        """Do nothing: the records come with the next poll."""
