"""Every metric of an agent. Label values are closed sets, initialised to zero."""

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from runtime.metrics import (
    clock_skew_gauge,
    damaged_file_counter,
    dead_letter_counter,
    lost_records_counter,
    make_registry,
    moved_offsets_counter,
    ready_gauge,
)
from schemas.dead_letters import DeadLetterCode
from schemas.results import Outcome
from schemas.topics import CONTROL, HALTS

FENCED: Final = "fenced"
UNCONFIRMED: Final = "unconfirmed"
HALTED: Final = "halted"
HALTS_UNKNOWN: Final = "halts_unknown"
LEASE_TOO_OLD: Final = "lease_too_old"
ENDING: Final = "ending"
EXPIRED: Final = "expired"
_JOURNAL: Final = "journal"
_JOBS: Final = "drydock.jobs"
_HALT_TOPICS: Final = (CONTROL.name, HALTS.name)
_TOPICS: Final = (_JOBS, "drydock.attempts")


class AgentMetrics:
    """The metrics of one process, summed over its partitions."""

    def __init__(self) -> None:
        self.registry = registry = make_registry()

        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(f"drydock_agent_{name}", help_text, registry=registry)

        self._live = gauge("jobs_live", "Accepted jobs without an end.")
        self._touched = gauge(
            "jobs_under_way", "Jobs between the first command to the Mac and their end."
        )
        self._waiting = gauge("results_waiting", "Results that Kafka has not confirmed yet.")
        self._doubted_jobs = gauge(
            "doubted_jobs",
            "Jobs whose newest record in the attempts topic is unreadable and whose order is "
            "not in the job topic. They are examined if their order arrives again.",
        )
        self._partitions = gauge(
            "partitions", "Partitions of the site's job topic that are assigned to this process."
        )
        self._stalled = gauge(
            "partitions_stalled",
            "Partitions without progress, or given back because of it. Above 0, `/readyz` is "
            "503 with the reasons.",
        )
        self._ready = ready_gauge(registry)
        self._skew = clock_skew_gauge(registry)
        self._lag = gauge(
            "lag_records", "Records of the job topic that are not in the journal yet."
        )
        self._halted = gauge("halted", "1 while a halt covers the whole site, else 0.")
        self._known = gauge(
            "halts_known",
            "1 while the halts are read to the end of their topic, else 0. At 0 no job starts.",
        )
        self._answers = gauge(
            "answers_known",
            "1 while the answers of Macs at MDM servers are read to the ends of their topics, "
            "else 0. At 0 no Mac at an MDM server is looked at. Always 0 without `--config`.",
        )
        self._full = gauge(
            "volume_full",
            "1 while less than the reserve of the volume of the journals is free, else 0. At "
            "1 no job starts.",
        )
        self._polled = gauge(
            "last_poll_timestamp_seconds", "Time of the last poll of the job topic."
        )
        self._add_counters(registry)

    def _add_counters(self, registry: CollectorRegistry) -> None:
        self._results = Counter(
            "drydock_agent_results",
            "Results published and confirmed by Kafka.",
            ["outcome"],
            registry=registry,
        )
        self._records = Counter(
            "drydock_agent_records",
            "Records of the job topic (jobs and withdrawals) that were journalled or "
            "dead-lettered.",
            registry=registry,
        )
        self._lost = Counter(
            "drydock_agent_leases_lost",
            "Partitions given up: `fenced` (another executor has the partition) or "
            "`unconfirmed` (Kafka did not confirm a write).",
            ["cause"],
            registry=registry,
        )
        self._doubted = Counter(
            "drydock_agent_doubted_journals",
            "Journals of partitions that may lack orders: their changelog is empty or cut.",
            registry=registry,
        )
        self._refusals = Counter(
            "drydock_agent_partitions_refused",
            "Partitions without progress, so that another agent of the site may take them.",
            registry=registry,
        )
        self._records_lost = lost_records_counter(registry)
        self._moved_offsets = moved_offsets_counter(registry)
        for topic in (_JOBS, *_HALT_TOPICS):
            self._records_lost.labels(topic)
        self._moved_offsets.labels(_JOBS)
        self._blocked = Counter(
            "drydock_agent_actions_blocked",
            "Commands stopped by the last check before a Mac is touched: `halted`, "
            "`halts_unknown`, `lease_too_old` (ownership of the partition was not confirmed "
            "recently enough), `ending` (the process stops), `expired` (by the clocks of "
            "brokers and signers the job has expired).",
            ["reason"],
            registry=registry,
        )
        self._ignored_control = Counter(
            "drydock_agent_control_ignored",
            "Halts and clearings that no trusted key for control signed, or that are unreadable.",
            registry=registry,
        )
        self._dead_letters = dead_letter_counter(registry, _TOPICS)
        self._damaged_files = damaged_file_counter(registry, _JOURNAL)
        for outcome in Outcome:
            self._results.labels(outcome.value)
        for cause in (FENCED, UNCONFIRMED):
            self._lost.labels(cause)
        for reason in (HALTED, HALTS_UNKNOWN, LEASE_TOO_OLD, ENDING, EXPIRED):
            self._blocked.labels(reason)

    def record_poll(self) -> None:
        """Set the time of the last poll to now."""
        self._polled.set(time.time())

    def set_jobs(self, live: int, touched: int, waiting: int, doubted: int) -> None:
        """Set the numbers of live, touched and doubted jobs, and of unconfirmed results."""
        self._doubted_jobs.set(doubted)
        self._live.set(live)
        self._touched.set(touched)
        self._waiting.set(waiting)

    def set_assignment(self, partitions: int, lag: int) -> None:
        """Set the number of partitions with a runner and their total lag in records."""
        self._partitions.set(partitions)
        self._lag.set(lag)

    def set_stalled(self, partitions: int) -> None:
        """Set the number of partitions without progress, or given back because of it."""
        self._stalled.set(partitions)

    def set_clock_skew(self, seconds: float) -> None:
        """Set the difference from the brokers' clock, positive if this clock is ahead."""
        self._skew.set(seconds)

    def set_ready(self, *, ready: bool) -> None:
        """Set the gauge `drydock_ready`."""
        self._ready.set(ready)

    def set_answers(self, *, known: bool) -> None:
        """Set if the answers of Macs are known."""
        self._answers.set(known)

    def set_halts(self, *, known: bool, halted: bool) -> None:
        """Set the state of the halts.

        `known` is True if all halts are read and recent, `halted` if a halt covers the whole site.
        """
        self._known.set(known)
        self._halted.set(halted)

    def set_volume(self, *, full: bool) -> None:
        """Set whether the volume of the journals has no room; then no job starts."""
        self._full.set(full)

    def count_records(self, records: int) -> None:
        """Count so many records of the job topic, each journalled or dead-lettered."""
        self._records.inc(records)

    def count_result(self, outcome: Outcome) -> None:
        """Count a result that Kafka confirmed."""
        self._results.labels(outcome.value).inc()

    def count_lost_lease(self, *, fenced: bool) -> None:
        """Count a partition that was given up: fenced, or a write was not confirmed."""
        self._lost.labels(FENCED if fenced else UNCONFIRMED).inc()

    def count_damaged_file(self) -> None:
        """Count a damaged journal that was renamed; the next one is made from the changelog."""
        self._damaged_files.labels(_JOURNAL).inc()

    def count_doubted_journal(self) -> None:
        """Count a journal that may lack orders."""
        self._doubted.inc()

    def count_stalled_partition(self) -> None:
        """Count a partition that is refused because it made no progress."""
        self._refusals.inc()

    def count_lost_records(self, topic: str, count: int) -> None:
        """Count records of the job topic, or of a topic with halts, that were not read."""
        self._records_lost.labels(topic if topic in _HALT_TOPICS else _JOBS).inc(count)

    def count_ignored_control(self) -> None:
        """Count a halt or clearing that no trusted key signed, or that is unreadable."""
        self._ignored_control.inc()

    def count_moved_offset(self) -> None:
        """Count a committed offset of the job topic that another program moved."""
        self._moved_offsets.labels(_JOBS).inc()

    def count_blocked_action(self, reason: str) -> None:
        """Count an order that the last check stopped, by its block reason."""
        self._blocked.labels(reason).inc()

    def count_dead_letter(self, topic: str, code: DeadLetterCode) -> None:
        """Count a record of the job topic, or of the attempts topic, that became a dead letter."""
        family = next(each for each in _TOPICS if topic.startswith(f"{each}."))
        self._dead_letters.labels(family, code.value).inc()
