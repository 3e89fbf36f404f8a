"""The queries of the Macs of one partition, as records for the agents of their sites. Pure.

The queue is made from the state: a new owner asks again for what the Macs have not answered, and
the agents send no second command for it.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.payload_signing import sign_query
from pipeline.processors.shard_output import Counters, OutgoingRecord
from pipeline.reconcile.query_queue import QueryQueue
from pipeline.reconcile.reconciler import Reconciler
from schemas.topics import queries_topic


class ShardQueries:
    """The queries of the reconciler's Macs. A site without a topic for them is not queried.

    `topics` has the topics for queries; topics may be added to it. `signing_key` returns the
    key that signs the queries.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        topics: Mapping[str, int],
        signing_key: Callable[[], Ed25519PrivateKey],
    ) -> None:
        self._reconciler = reconciler
        self._topics = topics
        self._signing_key = signing_key
        # No method of this object: a cycle would keep the Macs of a released partition in memory.
        self._queue = QueryQueue(
            reconciler.query_needs, lambda site, _: queries_topic(site) in topics
        )
        self._changed: dict[str, None] = {}
        self._known: tuple[str | None, int] | None = None

    def add(self, udids: Iterable[str]) -> None:
        """Schedule the queries of these Macs again, for a later `pop_due`."""
        if self._topics:
            self._changed.update(dict.fromkeys(udids))

    def add_reported(self, udids: Iterable[str]) -> None:
        """As `add`, without Macs that have queries: a report only postpones these."""
        if self._topics:
            self._changed.update((udid, None) for udid in udids if udid not in self._queue)

    def pop_due(self, now: datetime, limit: int, counters: Counters) -> list[OutgoingRecord]:
        """Return the records of at most `limit` queries to ask now, and count them.

        At most `limit` Macs get new times before.
        """
        reconciler = self._reconciler
        known = reconciler.policy_digest, len(self._topics)
        if known != self._known:
            self._known = known
            self.add(reconciler.fleet.macs())
        for _ in range(min(limit, len(self._changed))):
            udid = next(iter(self._changed))
            del self._changed[udid]
            self._queue.update(reconciler.fleet.canonical_udid(udid) or udid, now)
        records = []
        for query in self._queue.pop_due(now, limit):
            counters.due_queries[query.kind] += 1
            value = sign_query(query, self._signing_key()).model_dump_json().encode()
            topic = queries_topic(query.site)
            records.append(OutgoingRecord(topic, 0, query.udid.encode(), value))
        return records

    def is_due(self, now: datetime) -> bool:
        """Return True if `pop_due` has more work now."""
        due = self._queue.next_due_at(now)
        return bool(self._changed) or (due is not None and due <= now)
