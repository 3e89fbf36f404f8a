"""Consumer of a site's job topic: it starts one `PartitionRunner` for each assigned partition.

States of one partition in this process:

    free ── assigned ──> assigned ── commit confirmed ──> running ── revoked ──> leaving
     ^                      ^                                │                      │
     │                      └───────── runner ended ─────────┘                      │
     └───────────────────────────── thread of the runner ended ─────────────────────┘

    assigned   The group's assignment has the partition; no runner works on it.
    running    The runner gets the records. The partition is paused while its queue is full.
    leaving    The runner ends after its current step. No second runner starts before that.

A partition without progress is refused (`agents.stalls`): another member gets it, if there is one.

Invariant: a runner starts only after the coordinator has confirmed a commit for its partition, so
the partition belonged to this member at that moment.

The thread only talks to Kafka: a slow Mac cannot cost the membership in the group.
"""

import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.admin import MemberToRemove  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    AuthorizationError,
    FencedInstanceIdError,
    KafkaError,
    RebalanceInProgressError,
    SaslAuthenticationFailedError,
)

from agents.assignor import RefusalAssignor
from agents.consumer_group import GroupMember, rejoin_if_stuck, request_rejoin
from agents.first_offset import first_offset
from agents.metrics import AgentMetrics
from agents.partition_runner import PartitionRunner, PartitionStatus
from agents.stalls import Progress, StallMonitor
from runtime.kafka import KafkaConnection, session_options
from runtime.offset_gaps import COMMIT_METADATA
from runtime.retry import QUICK, Backoff, retrying
from schemas import logkeys as key
from schemas.topics import attempts_topic, jobs_topic

_POLL_MS: Final = 200
_MAX_POLL_RECORDS: Final = 200
_MAX_QUEUED: Final = 1000
_CALL_TIMEOUT_MS: Final = 5000
_BOOTSTRAP_TIMEOUT_MS: Final = 10_000
# A member that does not poll for this long leaves the group, even while it sends heartbeats. A
# rebalance waits for this time for members that do not rejoin.
_MAX_POLL_INTERVAL_S: Final = 20
_HAND_OVER_TIMEOUT_S: Final = 5.0
_PERMANENT_ERRORS: Final = (
    FencedInstanceIdError,
    AuthorizationError,
    SaslAuthenticationFailedError,
)


class JobConsumerError(Exception):
    """The jobs of the site cannot be read, and a retry in this process does not help."""


class JobConsumer(threading.Thread):
    """Thread that reads the jobs of a site and passes them to the runner of their partition.

    `make_runner` gets the partition, the number of partitions and the function to call when the
    records before an offset are in the changelog. After the thread has ended, `failure` is the
    reason of an unplanned end, None after a drain. While `is_kafka_up` returns False, no partition
    counts as stalled.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        member: GroupMember,
        make_runner: Callable[[int, int, Callable[[int, int], None]], PartitionRunner],
        metrics: AgentMetrics,
        log: Any,
        *,
        is_kafka_up: Callable[[], bool],
        max_poll_s: float = _MAX_POLL_INTERVAL_S,
        stalls: StallMonitor | None = None,
    ) -> None:
        super().__init__(daemon=True, name="job-consumer")
        self.polled_at = time.monotonic()
        self.failure: str | None = None
        self.partitions = 0
        self._connection = connection
        self._member = member
        self._topic = jobs_topic(member.site)
        self._make_runner = make_runner
        self._metrics = metrics
        self._log = log
        self._is_kafka_up = is_kafka_up
        self._max_poll_s = max_poll_s
        self._stalls = stalls or StallMonitor()
        self._assignor = RefusalAssignor()
        self._runners: dict[int, PartitionRunner] = {}
        self._leaving: list[PartitionRunner] = []
        # The committed offset of each partition: all records before it are in the changelog.
        self._done: dict[int, int] = {}
        # The offset that the runner of each partition started at.
        self._start_offsets: dict[int, int] = {}
        self._to_commit: dict[int, int] = {}
        self._lock = threading.Lock()
        self._drain_until: float | None = None
        self._rebalancing_since: float | None = None
        self._poll_backoff = Backoff(QUICK)
        self._consumer: Any = None

    # --- for other threads ---

    def drain(self, within_s: float) -> None:
        """Take no more jobs, let those under way end, and give the partitions up.

        Returns at once. `within_s` includes the time to stop the runners.
        """
        self._drain_until = time.monotonic() + within_s

    def wake(self, udids: Collection[str]) -> None:
        """Make the jobs of these Macs due: there is news about them. Returns at once."""
        for runner in [*self._runners.values()]:
            runner.wake(udids)

    def commit(self, partition: int, offset: int) -> None:
        """Request a commit: all records before this offset are in the changelog.

        Returns at once; the thread commits after its next poll. A request for a partition that is
        then not assigned is dropped.
        """
        with self._lock:
            self._to_commit[partition] = offset

    def partition_statuses(self) -> dict[int, PartitionStatus | None]:
        """Return the status of each partition with a runner, by partition.

        It is None until the first cycle of a lease is done, also for a new lease after a lost one.
        A runner without a journalled record has the offset that it started at: the committed one
        can be that of a cycle that has not ended.
        """
        statuses = {partition: runner.status for partition, runner in [*self._runners.items()]}
        return {
            partition: status
            if status is None or status.offset is not None
            else status._replace(offset=self._start_offsets.get(partition))
            for partition, status in statuses.items()
        }

    def troubles(self) -> dict[int, str]:
        """Return the reason for each partition that is stalled, or was given back, by partition."""
        return self._stalls.troubles

    # --- the thread ---

    def run(self) -> None:
        """Poll until drained, then stop the runners and leave the group.

        Also ends, with the reason in `failure`, at an error that a retry cannot solve and at an
        unexpected exception; then the runners stop, but the group is not left.
        """
        try:
            self._consumer = self._subscribe()
            while not self._is_drained():
                self._poll_once()
        except (JobConsumerError, *_PERMANENT_ERRORS) as error:
            self.failure = str(error) or type(error).__name__
        except Exception as error:  # noqa: BLE001 - top of the thread; the process ends with it
            self._log.error("unhandled exception", exc_info=True, **{key.SITE: self._member.site})
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._stop_runners()

    def _subscribe(self) -> Any:
        """Return a consumer that is subscribed to the job topic; sets `partitions`.

        Raises JobConsumerError if Kafka does not respond, if the topic of jobs or of attempts is
        missing, or if the two do not have the same number of partitions.
        """
        options = self._connection.consumer_options(
            self._member.group, instance=self._member.instance
        ) | {
            **session_options(self._member.session_s),
            "max_poll_interval_ms": round(self._max_poll_s * 1000),
            "reconnect_backoff_max_ms": 2000,
            "bootstrap_timeout_ms": _BOOTSTRAP_TIMEOUT_MS,
            # Members keep their partitions: a move costs a new lease and a read of the changelog.
            "partition_assignment_strategy": (self._assignor,),
        }
        try:
            consumer = KafkaConsumer(**options)
        except KafkaError as error:
            raise JobConsumerError(f"no Kafka at {self._connection.bootstrap}: {error}") from error
        counts = {
            topic: self._count(consumer, topic)
            for topic in (self._topic, attempts_topic(self._member.site))
        }
        if not all(counts.values()) or len(set(counts.values())) != 1:
            consumer.close(timeout_ms=_CALL_TIMEOUT_MS)
            found = ", ".join(f"{topic} has {count}" for topic, count in counts.items())
            raise JobConsumerError(
                f"both topics need the same number of partitions: {found};"
                f" run drydock topics apply --sites {self._member.site}"
            )
        self.partitions = counts[self._topic]
        consumer.subscribe([self._topic])
        return consumer

    def _count(self, consumer: Any, topic: str) -> int:
        """Return the number of partitions of a topic, 0 for a missing topic.

        Retries for 10 s, because the client may choose a broker that is down; then raises
        JobConsumerError.
        """
        retry = retrying(
            QUICK,
            KafkaError,
            within_s=_BOOTSTRAP_TIMEOUT_MS / 1000,
            on_failure=partial(self._warn, "Kafka does not respond"),
        )
        try:
            return len(retry(consumer.partitions_for_topic, topic) or ())
        except KafkaError as error:
            raise JobConsumerError(f"no Kafka at {self._connection.bootstrap}: {error}") from error

    def _poll_once(self) -> None:
        """Poll, start and stop runners, pass the records to them and commit.

        Raises one of _PERMANENT_ERRORS, and logs another KafkaError. Raises JobConsumerError if
        this client is stuck in a rebalance.
        """
        consumer = self._consumer
        try:
            rejoin_if_stuck(consumer)
            records = consumer.poll(timeout_ms=_POLL_MS, max_records=_MAX_POLL_RECORDS)
            self.polled_at = time.monotonic()
            self._metrics.record_poll()
            before = dict(self._runners)
            self._apply_assignment()
            for topic_partition, batch in records.items():
                # Skip records for a runner that is new: it begins at the last commit and gets them.
                runner = self._runners.get(topic_partition.partition)
                if runner is not None and runner is before.get(topic_partition.partition):
                    runner.offer(batch)
            self._apply_backpressure()
            self._commit()
            self._refuse_stalled()
        except _PERMANENT_ERRORS:
            raise
        except KafkaError as error:
            self._warn("Kafka does not respond", error)
            time.sleep(self._poll_backoff.next_delay_s())
        self._update_metrics()

    def _apply_assignment(self) -> None:
        """Make the runners match the assignment of the group.

        Stops the runner of each revoked partition, and tries to start one for each assigned
        partition that has no live runner. Raises KafkaError and JobConsumerError.
        """
        self._leaving = [runner for runner in self._leaving if runner.is_alive()]
        held = {topic_partition.partition for topic_partition in self._held()}
        for partition in self._runners.keys() - held:
            runner = self._runners.pop(partition)
            runner.stop()
            self._leaving.append(runner)
            self._done.pop(partition, None)
            with self._lock:
                self._to_commit.pop(partition, None)
        for partition in held:
            current = self._runners.get(partition)
            if current is None or not current.is_alive():
                self._start_runner(partition)

    def _start_runner(self, partition: int) -> None:
        """Start a runner at the offset of `first_offset`.

        Does nothing while this process drains, while the previous runner of the partition ends, or
        if the coordinator does not confirm a commit. Raises KafkaError if the offset cannot be
        read, one of _PERMANENT_ERRORS, and JobConsumerError if this client is stuck in a rebalance.
        """
        if self._drain_until is not None:
            return
        if any(runner.partition == partition for runner in self._leaving):
            return
        topic_partition = TopicPartition(self._topic, partition)
        if partition not in self._done:
            # Not the consumer's position: it is past the records that are fetched already.
            self._done[partition] = first_offset(
                self._consumer, topic_partition, _CALL_TIMEOUT_MS, self._metrics, self._log
            )
        if not self._commit_now({partition: self._done[partition]}):
            return
        self._consumer.seek(topic_partition, self._done[partition])
        self._start_offsets[partition] = self._done[partition]
        runner = self._make_runner(partition, self.partitions, self.commit)
        self._runners[partition] = runner
        runner.start()

    def _apply_backpressure(self) -> None:
        """Pause each partition with a full queue, and all of them while this process drains.

        A paused partition resumes when its queue is half empty.
        """
        for partition, runner in self._runners.items():
            topic_partition = TopicPartition(self._topic, partition)
            full = runner.waiting >= _MAX_QUEUED or self._drain_until is not None
            if full:
                self._consumer.pause(topic_partition)
            elif runner.waiting <= _MAX_QUEUED // 2 and topic_partition in self._consumer.paused():
                self._consumer.resume(topic_partition)

    def _refuse_stalled(self) -> None:
        """Refuse the partitions without progress; join again if the refused ones have changed."""
        if self._drain_until is not None:
            return
        progress = {each.partition: self._progress(each.partition) for each in self._held()}
        is_kafka_up = self._is_kafka_up()
        found = self._stalls.update(time.monotonic(), progress, is_kafka_up=is_kafka_up)
        for partition, trouble in found.items():
            self._metrics.count_stalled_partition()
            self._log.error(
                "partition stalled; another agent may take it",
                **{
                    key.SITE: self._member.site,
                    key.PARTITION: partition,
                    key.DETAIL: trouble,
                },
            )
        if self._assignor.refused != self._stalls.refused:
            self._assignor.refused = self._stalls.refused
            request_rejoin(self._consumer)

    def _progress(self, partition: int) -> Progress:
        runner = self._runners.get(partition)
        if runner is None:
            return Progress(0.0, "no runner: the last one does not end, or no commit is confirmed")
        return Progress(runner.worked_at, runner.trouble)

    def _held(self) -> set[TopicPartition]:
        """Return the partitions that the group assigns to this member."""
        return set(self._consumer.assignment())

    def _commit(self) -> None:
        """Commit the requested offsets of the assigned partitions.

        If the coordinator does not confirm them, they are committed by the next call. Requests for
        other partitions are dropped. Raises one of _PERMANENT_ERRORS, and JobConsumerError if this
        client is stuck in a rebalance.
        """
        with self._lock:
            wanted, self._to_commit = self._to_commit, {}
        held = {topic_partition.partition for topic_partition in self._held()}
        wanted = {p: offset for p, offset in wanted.items() if p in held}
        if wanted and not self._commit_now(wanted):
            with self._lock:
                self._to_commit = wanted | self._to_commit

    def _commit_now(self, offsets: dict[int, int]) -> bool:
        """Commit offsets. Returns True if the coordinator confirmed them, and so our ownership.

        Raises one of _PERMANENT_ERRORS. Logs another KafkaError and returns False; raises
        JobConsumerError if such errors show that this client is stuck in a rebalance.
        """
        asked = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, COMMIT_METADATA, -1)
            for partition, offset in offsets.items()
        }
        try:
            self._consumer.commit(asked, timeout_ms=_CALL_TIMEOUT_MS)
        except _PERMANENT_ERRORS:
            raise
        except KafkaError as error:
            self._warn("offsets not committed", error)
            self._note_rebalance(error)
            return False
        self._rebalancing_since = None
        self._done.update(offsets)
        return True

    def _note_rebalance(self, error: KafkaError) -> None:
        """Raise JobConsumerError if a rebalance lasts longer than any rebalance can.

        Then this client is stuck in a way that `rejoin_if_stuck` does not repair. A new process can
        join the group. An error other than RebalanceInProgressError starts the time again.
        """
        if not isinstance(error, RebalanceInProgressError):
            self._rebalancing_since = None
            return
        now = time.monotonic()
        since = self._rebalancing_since = self._rebalancing_since or now
        if now - since > self._max_poll_s + 2 * self._member.session_s:
            raise JobConsumerError(
                f"out of the group {self._member.group} for {now - since:.0f} s; restart the agent"
            )

    # --- the end ---

    def _is_drained(self) -> bool:
        """Return True if a requested drain is complete or 5 s before its end, False without one.

        Also passes the request to every runner.
        """
        if self._drain_until is None:
            return False
        for runner in self._runners.values():
            runner.drain()
        left = any(runner.touched_jobs or runner.waiting for runner in self._runners.values())
        return not left or time.monotonic() >= self._drain_until - _HAND_OVER_TIMEOUT_S

    def _stop_runners(self) -> None:
        """Stop all runners, wait 5 s at most for their end, commit, and close the consumer.

        Leaves the group only after a planned end, so that other members get the partitions at once.
        Logs a KafkaError; the steps after it are left out.
        """
        runners = [*self._runners.values(), *self._leaving]
        until = time.monotonic() + _HAND_OVER_TIMEOUT_S
        for runner in runners:
            runner.stop()
        for runner in runners:
            runner.join(max(0.0, until - time.monotonic()))
        if self._consumer is None:
            return
        try:
            self._commit()
            member_id = self._consumer.group_metadata().member_id
            self._consumer.close(timeout_ms=_CALL_TIMEOUT_MS)
            if self.failure is None:
                self._leave_group(member_id)
        except KafkaError as error:
            self._warn("group not left", error)

    def _leave_group(self, member_id: str) -> None:
        """Leave the group, so that other members get the partitions at once. Raises KafkaError.

        kafka-python 3.0.12 does not leave the group for a static member on `close`: Kafka would
        keep the partitions for it until the end of the session.
        """
        options = self._connection.client_options() | {"request_timeout_ms": _CALL_TIMEOUT_MS}
        with KafkaAdminClient(**options) as admin:
            # With our member id: a newer process of the same name stays in the group.
            me = MemberToRemove(member_id, self._member.instance, "drained")
            admin.remove_group_members(self._member.group, [me])

    # --- metrics and logs ---

    def _update_metrics(self) -> None:
        runners = self._runners.values()
        self._metrics.set_jobs(
            sum(runner.live_jobs for runner in runners),
            sum(runner.touched_jobs for runner in runners),
            sum(runner.waiting_results for runner in runners),
            sum(runner.doubted_jobs for runner in runners),
        )
        lag = 0
        for topic_partition in self._held():
            highwater = self._consumer.highwater(topic_partition)
            done = self._done.get(topic_partition.partition)
            if highwater is not None and done is not None:
                lag += max(0, highwater - done)
        self._metrics.set_assignment(len(runners), lag)
        self._metrics.set_stalled(len(self._stalls.troubles))

    def _warn(self, what: str, error: Exception) -> None:
        detail = str(error) or type(error).__name__
        self._log.warning(what, **{key.SITE: self._member.site, key.DETAIL: detail})
