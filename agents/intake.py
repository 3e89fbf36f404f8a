"""Orders in: the consumer, its group, and who works on which partition.

One thread that does nothing but talk to Kafka, so that no Mac, however slow, costs the group
membership. Where an owner is behind, its partition is paused. An owner is started only when the
group's coordinator has just confirmed that the partition is this member's.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.admin import MemberToRemove  # type: ignore[import-untyped]
from kafka.coordinator.assignors.sticky.sticky_assignor import (  # type: ignore[import-untyped]
    StickyPartitionAssignor,
)
from kafka.errors import (  # type: ignore[import-untyped]
    AuthorizationError,
    FencedInstanceIdError,
    KafkaError,
    RebalanceInProgressError,
    SaslAuthenticationFailedError,
)

from agents.metrics import AgentMetrics
from agents.owner import Owner, Rest
from schemas import logkeys as key
from schemas.connection import KafkaConnection
from schemas.topics import attempts_topic, jobs_topic

_POLL_MS: Final = 200
_MOST_AT_ONCE: Final = 200
_MOST_WAITING: Final = 1000
_CALL_MS: Final = 5000
_BOOTSTRAP_MS: Final = 10_000
# A member that does not poll for this long has stopped, whatever its heartbeat says. Kafka also
# waits so long for a member that does not come back into the group.
_MAX_POLL_S: Final = 20
_HAND_OVER_S: Final = 5.0
_FOR_GOOD: Final = (FencedInstanceIdError, AuthorizationError, SaslAuthenticationFailedError)


class IntakeError(Exception):
    """The site's orders cannot be read, and trying again will not help."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who this executor is in its site's group. `name` lasts: it comes back to its partitions
    after a restart within `session_s`, and its older double is fenced."""

    site: str
    name: str
    session_s: float = 30.0

    @property
    def group(self) -> str:
        """The consumer group of the site."""
        return f"drydock.agent.{self.site}"

    @property
    def instance(self) -> str:
        """The static member's id."""
        return f"{self.group}.{self.name}"


class Intake(threading.Thread):
    """Reads the site's orders and hands each partition's to its owner."""

    def __init__(
        self,
        connection: KafkaConnection,
        member: Member,
        make_owner: Callable[[int, int, Callable[[int, int], None]], Owner],
        metrics: AgentMetrics,
        log: Any,
        *,
        max_poll_s: float = _MAX_POLL_S,
    ) -> None:
        super().__init__(daemon=True, name="intake")
        self.polled_at = time.monotonic()
        self.failure: str | None = None
        self.partitions = 0
        self._connection = connection
        self._member = member
        self._topic = jobs_topic(member.site)
        self._make_owner = make_owner
        self._metrics = metrics
        self._log = log
        self._max_poll_s = max_poll_s
        self._owners: dict[int, Owner] = {}
        self._leaving: list[Owner] = []
        # The offset up to which everything is safely with the changelog, as committed.
        self._done: dict[int, int] = {}
        self._to_commit: dict[int, int] = {}
        self._lock = threading.Lock()
        self._drain_until: float | None = None
        self._rebalancing_since: float | None = None
        self._consumer: Any = None

    # --- for other threads ---

    def drain(self, within_s: float) -> None:
        """Take no more orders, let what is under way end, hand over at the latest in time."""
        self._drain_until = time.monotonic() + within_s

    def commit(self, partition: int, offset: int) -> None:
        """Everything before this offset is safe."""
        with self._lock:
            self._to_commit[partition] = offset

    def rests(self) -> dict[int, Rest | None]:
        """How each partition held here was left by its last cycle; None before the first."""
        rests = {partition: owner.rest for partition, owner in [*self._owners.items()]}
        return {
            partition: rest
            if rest is None or rest.offset is not None
            else rest._replace(offset=self._done.get(partition))
            for partition, rest in rests.items()
        }

    # --- the thread ---

    def run(self) -> None:
        """Poll until drained, or until trying again is no use (`failure` then says why)."""
        try:
            self._consumer = self._subscribed()
            while not self._is_over():
                self._round()
        except (IntakeError, *_FOR_GOOD) as error:
            self.failure = str(error) or type(error).__name__
        except Exception as error:  # noqa: BLE001 - the thread's top: the process ends with it
            self._log.error("bug", exc_info=True, **{key.SITE: self._member.site})
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._end()

    def _subscribed(self) -> Any:
        session_ms = round(self._member.session_s * 1000)
        options = self._connection.consumer_options(
            self._member.group, instance=self._member.instance
        ) | {
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": min(3000, session_ms // 3),
            "max_poll_interval_ms": round(self._max_poll_s * 1000),
            "reconnect_backoff_max_ms": 2000,
            "bootstrap_timeout_ms": _BOOTSTRAP_MS,
            # Who stays keeps what it has: a change of hands costs a claim and a reading.
            "partition_assignment_strategy": (StickyPartitionAssignor,),
        }
        try:
            consumer = KafkaConsumer(**options)
        except KafkaError as error:
            raise IntakeError(f"no Kafka at {self._connection.bootstrap}: {error}") from error
        counts = {
            topic: self._count(consumer, topic)
            for topic in (self._topic, attempts_topic(self._member.site))
        }
        if not all(counts.values()) or len(set(counts.values())) != 1:
            consumer.close(timeout_ms=_CALL_MS)
            said = ", ".join(f"{topic} has {count}" for topic, count in counts.items())
            raise IntakeError(
                f"as many partitions in both are needed: {said}"
                f" (drydock topics apply --sites {self._member.site})"
            )
        self.partitions = counts[self._topic]
        consumer.subscribe([self._topic])
        return consumer

    def _count(self, consumer: Any, topic: str) -> int:
        """How many partitions a topic has. The client asks any broker, also one that is away."""
        until = time.monotonic() + _BOOTSTRAP_MS / 1000
        while True:
            try:
                return len(consumer.partitions_for_topic(topic) or ())
            except KafkaError as error:
                if time.monotonic() >= until:
                    raise IntakeError(
                        f"no Kafka at {self._connection.bootstrap}: {error}"
                    ) from error
                self._warn("Kafka does not answer", error)
                time.sleep(_POLL_MS / 1000)

    def _round(self) -> None:
        consumer = self._consumer
        try:
            find_back(consumer)
            records = consumer.poll(timeout_ms=_POLL_MS, max_records=_MOST_AT_ONCE)
            self.polled_at = time.monotonic()
            self._metrics.polled()
            before = dict(self._owners)
            self._follow_assignment()
            for place, batch in records.items():
                # A new owner begins at the last commit: it will get these.
                owner = self._owners.get(place.partition)
                if owner is not None and owner is before.get(place.partition):
                    owner.offer(batch)
            self._pace()
            self._commit()
        except _FOR_GOOD:
            raise
        except KafkaError as error:
            self._warn("Kafka does not answer", error)
            time.sleep(_POLL_MS / 1000)
        self._tell()

    def _follow_assignment(self) -> None:
        self._leaving = [owner for owner in self._leaving if owner.is_alive()]
        held = {place.partition for place in self._consumer.assignment()}
        for partition in self._owners.keys() - held:
            owner = self._owners.pop(partition)
            owner.stop()
            self._leaving.append(owner)
            self._done.pop(partition, None)
            with self._lock:
                self._to_commit.pop(partition, None)
        for partition in held:
            owner_now = self._owners.get(partition)
            if owner_now is None or not owner_now.is_alive():
                self._start(partition)

    def _start(self, partition: int) -> None:
        if self._drain_until is not None:
            return
        if any(owner.partition == partition for owner in self._leaving):
            return
        place = TopicPartition(self._topic, partition)
        if partition not in self._done:
            # Not the consumer's position: that is past what it has fetched already.
            done = self._consumer.committed(place, timeout_ms=_CALL_MS)
            if done is None:
                done = self._consumer.beginning_offsets([place], timeout_ms=_CALL_MS)[place]
            self._done[partition] = done
        if not self._commit_now({partition: self._done[partition]}):
            return
        self._consumer.seek(place, self._done[partition])
        owner = self._make_owner(partition, self.partitions, self.commit)
        self._owners[partition] = owner
        owner.start()

    def _pace(self) -> None:
        for partition, owner in self._owners.items():
            place = TopicPartition(self._topic, partition)
            full = owner.waiting >= _MOST_WAITING or self._drain_until is not None
            if full:
                self._consumer.pause(place)
            elif owner.waiting <= _MOST_WAITING // 2 and place in self._consumer.paused():
                self._consumer.resume(place)

    def _commit(self) -> None:
        with self._lock:
            wanted, self._to_commit = self._to_commit, {}
        held = {place.partition for place in self._consumer.assignment()}
        wanted = {p: offset for p, offset in wanted.items() if p in held}
        if wanted and not self._commit_now(wanted):
            with self._lock:
                self._to_commit = wanted | self._to_commit

    def _commit_now(self, offsets: dict[int, int]) -> bool:
        """Commit; whether the coordinator took it, and so knows the partitions as ours."""
        asked = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in offsets.items()
        }
        try:
            self._consumer.commit(asked, timeout_ms=_CALL_MS)
        except _FOR_GOOD:
            raise
        except KafkaError as error:
            self._warn("offsets not committed", error)
            self._note_rebalance(error)
            return False
        self._rebalancing_since = None
        self._done.update(offsets)
        return True

    def _note_rebalance(self, error: KafkaError) -> None:
        """End it where a rebalance lasts longer than any can: this client has lost its way back in
        a way that `find_back` does not know; another process gets in."""
        if not isinstance(error, RebalanceInProgressError):
            self._rebalancing_since = None
            return
        now = time.monotonic()
        since = self._rebalancing_since = self._rebalancing_since or now
        if now - since > self._max_poll_s + 2 * self._member.session_s:
            raise IntakeError(f"out of the group {self._member.group} since {now - since:.0f} s")

    # --- the end ---

    def _is_over(self) -> bool:
        if self._drain_until is None:
            return False
        for owner in self._owners.values():
            owner.drain()
        left = any(owner.touched_jobs or owner.waiting for owner in self._owners.values())
        return not left or time.monotonic() >= self._drain_until - _HAND_OVER_S

    def _end(self) -> None:
        owners = [*self._owners.values(), *self._leaving]
        until = time.monotonic() + _HAND_OVER_S
        for owner in owners:
            owner.stop()
        for owner in owners:
            owner.join(max(0.0, until - time.monotonic()))
        if self._consumer is None:
            return
        try:
            self._commit()
            member_id = self._consumer.group_metadata().member_id
            self._consumer.close(timeout_ms=_CALL_MS)
            if self.failure is None:
                self._leave(member_id)
        except KafkaError as error:
            self._warn("left without a word to Kafka", error)

    def _leave(self, member_id: str) -> None:
        """Give the partitions up now. A static member that only closes keeps them until its
        session ends; kafka-python does not leave for it."""
        options = self._connection.client_options() | {"request_timeout_ms": _CALL_MS}
        with KafkaAdminClient(**options) as admin:
            # With its id: were a double here by now, that one is left in peace.
            me = MemberToRemove(member_id, self._member.instance, "drained")
            admin.remove_group_members(self._member.group, [me])

    # --- what is told ---

    def _tell(self) -> None:
        owners = self._owners.values()
        self._metrics.standing(
            sum(owner.live_jobs for owner in owners),
            sum(owner.touched_jobs for owner in owners),
            sum(owner.waiting_results for owner in owners),
        )
        lag = 0
        for place in self._consumer.assignment():
            highwater = self._consumer.highwater(place)
            done = self._done.get(place.partition)
            if highwater is not None and done is not None:
                lag += max(0, highwater - done)
        self._metrics.holding(len(owners), lag)

    def _warn(self, what: str, error: Exception) -> None:
        said = str(error) or type(error).__name__
        self._log.warning(what, **{key.SITE: self._member.site, key.DETAIL: said})


def find_back(consumer: Any) -> None:
    """Have a consumer join its group where it has forgotten that it was about to.

    kafka-python 3.0.12 begins to join again when the topic's metadata is another than at the last
    assignment, and looks for the end of it only while that is so. Is the metadata what it was again
    in the meantime, it stays 'rebalancing' for good, commits nothing and sends no heartbeat.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - nothing public says so
    if coordinator.rebalance_in_progress() and not coordinator.need_rejoin():
        coordinator.request_rejoin()
