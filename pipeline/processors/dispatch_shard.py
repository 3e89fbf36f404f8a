"""Dispatch for the sites of one partition: publishes each job when its site has capacity. Pure.

A device shard sees only some of the Macs of a site, so it cannot count the open jobs of the site.
It sends each job here, keyed by site; here the job waits, is published to the site's executors,
and is followed to its end. Capacity goes to the first deadline, then to the job issued first.

It halts an action at a site if too many Macs there get a job for it (`automatic_halt`), by a record
of `drydock.halts.v1`, and publishes no job that the halt of an action covers.

It also limits the jobs of each action that a site gets in an hour (`blast_radius` of the policy).
The size of a site is the sum over the partitions of its Macs: each job carries the number that its
partition knows, and that of the newest job counts. The Macs of a partition without a job do not
count, which only lowers the limit.

| stage | event | next stage | published |
| --- | --- | --- | --- |
| (unknown) | job issued | waiting | |
| waiting | the site has capacity, a topic and jobs left in this hour | dispatched | the job |
| waiting | the same, and too many Macs have got a job for the action | waiting | the halt |
| waiting | the job expires | finished | |
| waiting | superseded, or inferred to have expired | withdrawn | |
| dispatched, started, finished | job issued, again after some minutes | the same | the job again |
| dispatched | job issued, again, and the site's topic is missing | waiting | |
| dispatched | superseded | withdrawn | the withdrawal |
| started | superseded: its executor can take a declaration back | started | the withdrawal |
| dispatched | inferred to have expired | withdrawn | |
| started | withheld in a dry run | dispatched | |
| withdrawn | accepted, withheld | withdrawn | |
| any but finished | another result of an executor that is not final | started | |
| any but finished | a final result, but no inferred expiry | finished | |
| any | a day after the job's last time, two after it was published | (forgotten) | |

`withdrawn` is a guess until the executor reports: an executor that had started continues, and its
results move the job to `started`, which a repeated withdrawal does not change. Every other event
changes nothing, so each event may be repeated. `dispatched` and `started` use capacity, unless the
job needs none (re-enrollment).

The owner of a Mac sends an issued job again while it knows no result of it (`unaccepted_jobs`): the
job's record in the site's topic may be lost, or its results, or the state of the Mac. An executor
that has the job reports its newest result again. A repeat soon after the issue is that of a crash.

Invariant: a job is published at most once in an epoch, and once for each repeat by its owner. The
first time, if it needs capacity, the site's jobs that use capacity are fewer than its `max_jobs`,
and the site's jobs of this hour for its action fewer than the policy allows.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Final

from msgspec.structs import replace

from pipeline.decide.admission import reject_reason
from pipeline.payload_signing import sign_record
from pipeline.policy.file import read_policy
from pipeline.policy.model import Policy
from pipeline.processors import rows
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.dead_letters import dead_letter_record
from pipeline.processors.fast.verified_cache import JobHeader, peek_job
from pipeline.processors.queued_job import (
    QueuedJob,
    Stage,
)
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import ConsumedRecord, OutgoingRecord, ShardOutput
from pipeline.processors.withdrawals import withdrawal_problem
from pipeline.reconcile.automatic_halt import action_scope, automatic_halt
from pipeline.reconcile.hourly_jobs import HourlyJobs
from pipeline.state.device import from_us, to_us
from pipeline.state.jobs import INFERRED_ATTEMPT
from schemas.dead_letters import DeadLetterCode, DeadLetterReason, Problem
from schemas.envelope import (
    Event,
    InvalidEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    decode,
    encode,
)
from schemas.jobs import Action, Job
from schemas.results import FINAL_OUTCOMES, Outcome
from schemas.signed_records import AUTOMATIC_HALT_RECORD
from schemas.topics import (
    DEAD_LETTERS,
    DISPATCH,
    DISPATCH_STATE,
    HALTS,
    INVENTORY,
    jobs_topic,
    partition_of,
)

_JOBS: Final = JobIssuedEvent | JobSupersededEvent | JobResultedEvent
_UNTOUCHED: Final = (Outcome.ACCEPTED, Outcome.WITHHELD)
_NOT_OFFERED: Final = (Stage.WAITING, Stage.WITHDRAWN)


class DispatchShard:
    """The jobs of the sites of one partition.

    `job_topics` maps the existing job topics to their numbers of partitions; the caller adds new
    ones. Jobs of a site without a topic wait.
    """

    def __init__(
        self,
        partition: int,
        broadcast: BroadcastState,
        config: ShardConfig,
        job_topics: Mapping[str, int],
    ) -> None:
        self.partition = partition
        self.epoch = 0
        # Dispatch decides nothing by broadcast records.
        self.broadcast_offsets: dict[str, int] = {}
        self.jobs: dict[str, QueuedJob] = {}
        self._broadcast = broadcast
        self._config = config
        self._job_topics = job_topics
        self._is_catching_up = True
        self._output = ShardOutput()
        self._dirty: dict[str, None] = {}
        self._waiting: dict[str, dict[Action, list[tuple[int, int, str]]]] = {}
        self._jobs_under_way: dict[str, int] = {}
        # By site, action and hour since 1970.
        self._dispatched = HourlyJobs()
        # The time of each halt that this shard has published, by the key of its scope.
        self._halted_us: dict[str, int] = {}
        # By site and partition of the Macs: the time of issue of the newest job, and its site_macs.
        self._macs: dict[str, dict[int, tuple[int, int]]] = {}
        self._expiry_heap: list[tuple[int, str]] = []

    # --- before it begins ---

    def load(self, key: bytes, raw: bytes) -> None:
        """Put one row of the changelog in memory: the epoch row, or a job.

        Raises InvalidRow if the row is not JSON, has no epoch, lacks a field, has an unknown stage
        or is one of another job.
        """
        if key == rows.EPOCH_KEY:
            self.epoch = rows.EpochRow.decode(raw).epoch
            return
        wire = rows.decode_row(raw)
        try:
            queued = QueuedJob.from_wire(wire)
        except ValueError as error:
            raise rows.InvalidRow(f"row of {key!r}: {error!r}") from error
        if queued.job_id.encode() != key:
            raise rows.InvalidRow(f"row of {key!r} has job {queued.job_id!r}")
        self.jobs[queued.job_id] = queued

    def replace_row(
        self, key: bytes, raw: bytes, reason: Problem, origin: str, now: datetime
    ) -> None:
        """Write the job in memory instead of the unreadable row `raw`, and a dead letter of it.

        The row is deleted if `load` has had no other row of its key. Call it after `begin`.
        """
        job_id = key.decode(errors="replace")
        if job_id.encode() == key and job_id in self.jobs:
            self._dirty[job_id] = None
        elif key != rows.EPOCH_KEY:
            self._output.rows[key] = None
        self._dead_letter(DISPATCH_STATE.name, raw, reason, origin, now)

    def begin(self, _: datetime) -> None:
        """Complete the loaded state. Call it once, after the last `load`.

        Counts the jobs that use capacity and those of each hour, queues those that wait, and notes
        the time at which each job is forgotten.
        """
        for queued in self.jobs.values():
            self._update_counts(queued, 1)
            if queued.dispatched_us:
                self._dispatched.add(*_dispatched_job(queued))
            self._expiry_heap.append((queued.forget_at_us, queued.job_id))
        heapq.heapify(self._expiry_heap)

    def finish_catch_up(self) -> None:
        """Let `tick` dispatch from now on, when the backlog at the change of owner is folded.

        Before this call `tick` does nothing: the end of a job that uses capacity may not be read
        yet.
        """
        self._is_catching_up = False

    # --- input ---

    def process_records(self, _: str, records: Sequence[ConsumedRecord], now: datetime) -> int:
        """Fold records; return the number of those that became dead letters."""
        before = self._output.counters.dead_letters.total()
        for record in records:
            self._process(record, now)
        return self._output.counters.dead_letters.total() - before

    def _process(self, record: ConsumedRecord, now: datetime) -> None:
        raw = record.value or b""
        is_verified = self._config.verified.pop(raw)
        job = peek_job(raw) if is_verified else None
        if job is not None:
            self._output.counters.folded[DISPATCH.name] += 1
            self._enqueue(job, raw, now)
            return
        try:
            event = decode(raw)
        except InvalidEvent as error:
            self._dead_letter_record(record.offset, raw, error, now)
            return
        if not isinstance(event, _JOBS):
            detail = f"{event.type} does not belong here"
            reason = Problem(DeadLetterCode.UNKNOWN_TYPE, detail, "$.type")
            self._dead_letter_record(record.offset, raw, reason, now)
            return
        wrong = None
        if not is_verified:
            unsigned = withdrawal_problem(event, raw, self._config.trusted)
            if unsigned is not None:
                self._dead_letter_record(record.offset, raw, unsigned, now)
                return
            wrong = reject_reason(event, jobs=self._config.trusted, approvals={})
        if wrong is not None:
            reason = Problem(DeadLetterCode.BAD_VALUE, wrong, "$.data")
            self._dead_letter_record(record.offset, raw, reason, now)
            return
        try:
            self._fold(event, raw, now)
        except Exception as error:  # noqa: BLE001 - the handler's top: our bug
            detail = f"dispatching it failed: {type(error).__name__}: {error}"
            self._dead_letter_record(record.offset, raw, Problem(DeadLetterCode.BUG, detail), now)
            return
        self._output.counters.folded[DISPATCH.name] += 1

    def _fold(self, event: Event, raw: bytes, now: datetime) -> None:
        """Move the event's job to its next stage, by the module's table.

        `raw` is the event's bytes. A new issued job is queued. If a dispatched or started job is
        superseded, its withdrawal is published; if it is offered again, the job. Any other event of
        an unknown job changes nothing, nor does one of a finished job or a repeat.
        """
        if isinstance(event, JobIssuedEvent):
            self._enqueue(event.data.job, raw, now)
            return
        assert isinstance(event, JobSupersededEvent | JobResultedEvent)
        queued = self.jobs.get(event.data.job_id)
        if queued is None or queued.stage is Stage.FINISHED:
            return
        if isinstance(event, JobSupersededEvent):
            is_offered = queued.stage in (Stage.DISPATCHED, Stage.STARTED)
            if is_offered and jobs_topic(queued.site) in self._job_topics:
                self._publish(queued, raw)
            self._withdraw(queued)
        elif event.data.outcome is Outcome.EXPIRED and event.data.attempt == INFERRED_ATTEMPT:
            self._withdraw(queued)
        elif event.data.outcome in FINAL_OUTCOMES:
            self._save(replace(queued, stage=Stage.FINISHED, issued_event=None))
        elif event.data.outcome in _UNTOUCHED and queued.stage is Stage.WITHDRAWN:
            return
        elif event.data.outcome is Outcome.WITHHELD:
            # The executor is done with the job: no result follows a withdrawal, which ends it here.
            self._save(replace(queued, stage=Stage.DISPATCHED, issued_event=None))
        else:
            # Also a withdrawn job: it had started before the withdrawal reached the executor.
            self._save(replace(queued, stage=Stage.STARTED, issued_event=None))

    def _enqueue(self, job: Job | JobHeader, raw: bytes, now: datetime) -> None:
        queued = self.jobs.get(job.job_id)
        if queued is None:
            self._save(QueuedJob.from_job(job, raw))
        elif queued.stage in _NOT_OFFERED or not queued.is_offered_again(to_us(now)):
            return
        elif jobs_topic(queued.site) in self._job_topics:
            self._publish(queued, raw)
            self._output.counters.offered_again[queued.site] += 1
        elif queued.stage is Stage.DISPATCHED:
            self._save(QueuedJob.from_job(job, raw))

    def _withdraw(self, queued: QueuedJob) -> None:
        if queued.stage is not Stage.STARTED:
            self._save(replace(queued, stage=Stage.WITHDRAWN, issued_event=None))

    # --- due work ---

    @staticmethod
    def pop_unusable() -> Mapping[str, int]:
        """Return no dead letters of stamped records: workers write the topic."""
        return {}

    def tick(self, now: datetime) -> bool:
        """Dispatch waiting jobs while capacity is free; forget old jobs (`QueuedJob.forget_at_us`).

        A waiting job that has expired is finished, without a record. Always returns False, because
        one call does all due work. Before `finish_catch_up` it does nothing.
        """
        if self._is_catching_up:
            return False
        now_us = to_us(now)
        self._dispatched.forget_before(now_us)
        for site in [site for site, queues in self._waiting.items() if any(queues.values())]:
            self._dispatch_waiting(site, now)
        while self._expiry_heap and self._expiry_heap[0][0] <= now_us:
            _, job_id = heapq.heappop(self._expiry_heap)
            queued = self.jobs.get(job_id)
            if queued is None:
                continue
            if (forget_at_us := queued.forget_at_us) > now_us:
                # It was published after it was queued here.
                heapq.heappush(self._expiry_heap, (forget_at_us, job_id))
            else:
                self._update_counts(queued, -1)
                del self.jobs[job_id]
                self._dirty[job_id] = None
        return False

    def is_behind(self, now: datetime) -> bool:
        """Return True if the first waiting job of a site can be dispatched, or has expired.

        Also before `finish_catch_up`, when `tick` does nothing.
        """
        return any(self._next_dispatchable(site, to_us(now)) is not None for site in self._waiting)

    def _dispatch_waiting(self, site: str, now: datetime) -> None:
        now_us = to_us(now)
        while (queued := self._next_dispatchable(site, now_us)) is not None:
            if queued.expires_us > now_us and self._halt_action(queued, now):
                continue
            heapq.heappop(self._waiting[site][queued.action])
            if queued.expires_us <= now_us:
                # No result is published: the device shard of the Mac infers the expiry itself.
                self._save(replace(queued, stage=Stage.FINISHED, issued_event=None))
                continue
            assert queued.issued_event is not None
            self._publish(queued, queued.issued_event)
            sent = replace(queued, stage=Stage.DISPATCHED, issued_event=None, dispatched_us=now_us)
            self._save(sent)
            self._dispatched.add(*_dispatched_job(sent))

    def _next_dispatchable(self, site: str, now_us: int) -> QueuedJob | None:
        """Return the next waiting job that can be dispatched or has expired; it stays in the queue.

        None if no job waits, if the site's job topic is missing, or if the first job of each action
        needs capacity that is not free or exceeds the jobs of this hour. Drops entries of jobs that
        no longer wait from the heads of the queues.
        """
        heads = []
        for queue in self._waiting.get(site, {}).values():
            while queue:
                queued = self.jobs.get(queue[0][2])
                if queued is not None and queued.stage is Stage.WAITING:
                    if queued.expires_us <= now_us:
                        return queued
                    heads.append((queue[0], queued))
                    break
                heapq.heappop(queue)
        if not heads or jobs_topic(site) not in self._job_topics:
            return None
        for _, queued in sorted(heads, key=itemgetter(0)):
            if self._has_room(queued, now_us):
                return queued
        return None

    def _halt_action(self, queued: QueuedJob, now: datetime) -> bool:
        """Publish the halt of the job's action, if too many Macs of the site got a job for it."""
        policy = self._policy()
        if policy is None:
            return False
        event = automatic_halt(
            *(self._dispatched, policy, self._broadcast.fleet),
            site=queued.site,
            action=queued.action,
            udid=queued.udid,
            macs=self._macs_of(queued.site),
            now=now,
        )
        if event is None:
            return False
        raw = sign_record(encode(event), AUTOMATIC_HALT_RECORD, self._config.signing_key)
        self._output.records.append(OutgoingRecord(HALTS.name, 0, event.subject.encode(), raw))
        self._halted_us[event.subject] = to_us(event.time)
        return True

    def _is_halted(self, queued: QueuedJob, now_us: int) -> bool:
        """Return True if the job's action is halted at its site; also before the halt is read."""
        fleet, scope = self._broadcast.fleet, action_scope(queued.site, queued.action)
        halted_us = self._halted_us.get(scope.key)
        if halted_us is not None:
            if fleet.halt_changed_us(scope) < halted_us:
                return True
            del self._halted_us[scope.key]
        return any(halt.scope == scope for halt in fleet.halts_in_force(from_us(now_us)))

    def _macs_of(self, site: str) -> int:
        return sum(macs for _, macs in self._macs.get(site, {}).values())

    def _has_room(self, queued: QueuedJob, now_us: int) -> bool:
        """Return True if the site has capacity for the job, and may get it now and in this hour."""
        if self._is_halted(queued, now_us):
            return False
        policy = self._policy()
        site = None if policy is None else policy.sites.get(queued.site)
        if policy is None or site is None:
            return not queued.needs_capacity
        limit = policy.blast_radius.limit(queued.action, self._macs_of(queued.site))
        sent = self._dispatched.count(queued.site, queued.action, now_us)
        if limit is not None and sent >= limit:
            return False
        under_way = self._jobs_under_way.get(queued.site, 0)
        return not queued.needs_capacity or under_way < site.max_jobs

    def _policy(self) -> Policy | None:
        changed = self._broadcast.fleet.policy
        return None if changed is None else read_policy(changed.text)

    def sites_without_topic(self) -> Collection[str]:
        """Return the sites with waiting jobs and without a job topic."""
        return [
            site
            for site, queues in self._waiting.items()
            if any(queues.values()) and jobs_topic(site) not in self._job_topics
        ]

    # --- output ---

    def collect(self) -> ShardOutput:
        """Return records, rows and counters since the last call, and start a new output.

        The rows are those of changed jobs; the row of a forgotten job is None.
        """
        output, self._output = self._output, ShardOutput()
        for job_id in self._dirty:
            queued = self.jobs.get(job_id)
            row = None if queued is None else queued.to_row(self.epoch)
            output.rows[job_id.encode()] = row
        self._dirty.clear()
        return output

    def _save(self, queued: QueuedJob) -> None:
        old = self.jobs.get(queued.job_id)
        if old is None:
            heapq.heappush(self._expiry_heap, (queued.forget_at_us, queued.job_id))
        else:
            self._update_counts(old, -1)
        self.jobs[queued.job_id] = queued
        self._update_counts(queued, 1)
        self._dirty[queued.job_id] = None

    def _update_counts(self, queued: QueuedJob, sign: int) -> None:
        """Count a job that uses capacity (`sign` 1), or no longer count it (-1).

        With 1, a job that waits is put in the queue of its site.
        """
        if queued.stage in (Stage.DISPATCHED, Stage.STARTED) and queued.needs_capacity:
            self._jobs_under_way[queued.site] = self._jobs_under_way.get(queued.site, 0) + sign
        if sign < 0:
            return
        self._note_macs(queued)
        if queued.stage is Stage.WAITING:
            # Jobs that need no capacity come before every deadline.
            first = queued.deadline_us if queued.needs_capacity else -1
            queue = self._waiting.setdefault(queued.site, {}).setdefault(queued.action, [])
            heapq.heappush(queue, (first, queued.issued_us, queued.job_id))

    def _note_macs(self, queued: QueuedJob) -> None:
        partition = partition_of(queued.udid, self._config.partitions[INVENTORY.name])
        known = self._macs.setdefault(queued.site, {})
        known[partition] = max(known.get(partition, (0, 0)), (queued.issued_us, queued.site_macs))

    def _publish(self, queued: QueuedJob, raw: bytes) -> None:
        topic = jobs_topic(queued.site)
        partition = partition_of(queued.udid, self._job_topics[topic])
        self._output.records.append(OutgoingRecord(topic, partition, queued.udid.encode(), raw))

    def _dead_letter_record(
        self, offset: int, raw: bytes, reason: DeadLetterReason, now: datetime
    ) -> None:
        origin = f"{DISPATCH.name}/{self.partition}/{offset}"
        self._dead_letter(DISPATCH.name, raw, reason, origin, now)

    def _dead_letter(
        self, topic: str, raw: bytes, reason: DeadLetterReason, origin: str, now: datetime
    ) -> None:
        count = self._config.partitions[DEAD_LETTERS.name]
        self._output.records.append(
            dead_letter_record(
                *(reason, raw),
                origin=origin,
                now=now,
                partition_count=count,
                is_proven=topic == DISPATCH_STATE.name,
            )
        )
        self._output.counters.dead_letters[topic, reason.code] += 1


def _dispatched_job(queued: QueuedJob) -> tuple[str, Action, int, str]:
    return queued.site, queued.action, queued.dispatched_us, queued.udid
