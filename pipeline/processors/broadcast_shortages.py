"""Reports records that the broadcast topics have lost."""

from collections.abc import Mapping

from pipeline.metrics import Metrics
from pipeline.processors.broadcast import BroadcastLog, Shortage, find_shortage
from runtime.logs import Log
from schemas import logkeys as key


class BroadcastShortages:
    """The lost records of the broadcast topics, from the last known state of their logs.

    `kept_ends` has, by topic, the highest offset that an epoch row has. `logs` is by topic, empty
    until the topics are checked.
    """

    def __init__(self, kept_ends: Mapping[str, int], metrics: Metrics, log: Log) -> None:
        self.logs: Mapping[str, BroadcastLog] = {}
        self._kept_ends = kept_ends
        self._metrics = metrics
        self._log = log
        self._reported: set[str] = set()

    def update(self, logs: Mapping[str, BroadcastLog]) -> None:
        """Replace the logs, and log and count the lost records of each topic.

        A topic is reported once until it has its records again.
        """
        self.logs = logs
        shortages = self.shortages()
        for topic in shortages.keys() - self._reported:
            lost, detail = shortages[topic]
            self._metrics.count_lost_records(topic, lost)
            self._log.error(
                "broadcast topic has lost records",
                **{key.TOPIC: topic, key.COUNT: lost, key.DETAIL: detail},
            )
        self._reported = set(shortages)

    def shortages(self) -> dict[str, Shortage]:
        """Return the lost records, by topic; only topics that have lost some."""
        found = {
            topic: find_shortage(topic, log, self._kept_ends.get(topic, 0))
            for topic, log in self.logs.items()
        }
        return {topic: shortage for topic, shortage in found.items() if shortage is not None}
