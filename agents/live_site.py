"""The threads of an agent's live site besides its jobs: answers of Macs in, queries of Macs out."""

from collections.abc import Callable, Collection
from typing import Final

from agents.configured_sites import ConfiguredSites
from agents.consumer_group import GroupMember
from agents.mdm.metrics import MdmMetrics
from agents.mdm.queries import QuerySender
from agents.mdm.reader import AnswerReader
from agents.query_reader import QueryReader
from runtime.kafka import KafkaConnection
from runtime.logs import Log
from runtime.trusted_keys import KeyRing

# Longer than one request of a reader to Kafka.
_STOP_READER_S: Final = 5.0


class LiveSite:
    """The threads; they are started and stopped together.

    `sites` has the site of `member` alone. `wake` is that of AnswerReader, `keys` that of
    both readers.
    """

    def __init__(
        self,
        sites: ConfiguredSites,
        connection: KafkaConnection,
        member: GroupMember,
        *,
        wake: Callable[[Collection[str]], None],
        keys: Callable[[], KeyRing],
        metrics: MdmMetrics,
        log: Log,
    ) -> None:
        self._sites = sites
        self._answers = AnswerReader(
            connection, sites, wake, sites.now, keys, metrics.count_ignored_record, log
        )
        self._sender = QuerySender(
            sites.queries[member.site],
            sites.query_budgets(member.site),
            sites.now,
            metrics.count_query,
            log,
        )
        self._queries = QueryReader(connection, member, self._sender, keys, sites.now, log)
        metrics.watch_waiting(self._sender.waiting)

    def start(self) -> None:
        """Start the threads."""
        self._answers.start()
        self._sender.start()
        self._queries.start()

    def stop(self) -> None:
        """Stop the threads, then close the store of answers and the connections.

        Queries that wait are left to the next leader.
        """
        self._queries.stop()
        self._answers.stop()
        self._queries.join(_STOP_READER_S)
        self._sender.stop()
        self._answers.join(_STOP_READER_S)
        self._sites.close()

    def are_answers_known(self) -> bool:
        """Return True if the answers of Macs are read to the ends of their topics."""
        return self._answers.is_current()
