"""The sites of one partition: which jobs have a slot, which wait for one. Pure.

A partition of Macs cannot see the others of a site. What it orders comes here, keyed by site; a
job is published to its site's executors once the site has a slot for it, those with the first
deadline first, and a job that is withdrawn before is never published.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from pipeline.decide.admission import objection
from pipeline.decide.policy_file import read_policy
from pipeline.processors import rows, set_aside
from pipeline.processors.facts import Facts
from pipeline.processors.own_orders import OwnJob, own_order
from pipeline.processors.terms import Terms
from pipeline.processors.work import Incoming, Post, Work
from pipeline.state.device import duration_us, to_us
from pipeline.state.jobs import BY_US
from schemas.dead_letters import DeadLetterCode
from schemas.envelope import (
    Event,
    InvalidEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    decode,
)
from schemas.jobs import Action, Job
from schemas.results import FINAL_OUTCOMES, Outcome
from schemas.topics import DEAD_LETTERS, DISPATCH, jobs_topic, partition_of

_JOBS: Final = JobIssuedEvent | JobSupersededEvent | JobResultedEvent
_NO_DEADLINE: Final = 1 << 62
# Ended jobs are remembered for so long beyond their own times, to know a repeat as one.
_REMEMBERED_US: Final = duration_us(timedelta(days=1))


class Stage(StrEnum):
    """How far a job is. `withdrawn` is over as far as we know: an executor that had begun says so,
    and then it has `begun` whatever is repeated of its withdrawal. `over` is for good."""

    WAITING = "waiting"
    OUT = "out"
    WITHDRAWN = "withdrawn"
    BEGUN = "begun"
    OVER = "over"


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """One job on its way. `order` is the JobIssuedEvent as bytes, kept while it waits."""

    job_id: str
    udid: str
    site: str
    stage: Stage
    takes_slot: bool
    deadline_us: int
    issued_us: int
    expires_us: int
    report_by_us: int
    order: bytes | None = None

    def to_row(self, epoch: int) -> bytes:
        """The job as a row of the state."""
        wire = {name: getattr(self, name) for name in _NAMES}
        wire["e"] = epoch
        wire["order"] = None if self.order is None else self.order.decode()
        return msgspec.json.encode(wire)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Ticket":
        """What `to_row` wrote."""
        order = wire["order"]
        values = {name: wire[name] for name in _NAMES} | {"stage": Stage(wire["stage"])}
        return cls(**values, order=None if order is None else order.encode())


_NAMES: Final = tuple(name for name in Ticket.__struct_fields__ if name != "order")


class DispatchShard:
    """The sites of one partition. `topics` maps the job topics that exist to their partitions;
    a job of a site without one waits."""

    def __init__(
        self, partition: int, facts: Facts, terms: Terms, topics: Mapping[str, int]
    ) -> None:
        self.partition = partition
        self.epoch = 0
        self.tickets: dict[str, Ticket] = {}
        self._facts = facts
        self._terms = terms
        self._topics = topics
        self._is_catching_up = True
        self._work = Work()
        self._dirty: dict[str, None] = {}
        self._waiting: dict[str, list[tuple[int, int, str]]] = {}
        self._out: dict[str, int] = {}
        self._ends: list[tuple[int, str]] = []

    # --- before it begins ---

    def load(self, key: bytes, raw: bytes) -> None:
        """Take a row of the state as it was kept. Raises BadRow."""
        if key == rows.OWNER_KEY:
            self.epoch = rows.Owner.of(raw).epoch
            return
        wire = rows.read(raw)
        try:
            ticket = Ticket.from_wire(wire)
        except (KeyError, TypeError, ValueError) as error:
            raise rows.BadRow(f"row of {key!r}: {error!r}") from error
        self.tickets[ticket.job_id] = ticket

    def begin(self, _: datetime) -> None:
        """All rows are loaded: go on from there."""
        for ticket in self.tickets.values():
            self._count(ticket, 1)
            self._ends.append((_forget_us(ticket), ticket.job_id))
        heapq.heapify(self._ends)

    def caught_up(self) -> None:
        """All that was in the topic when the partition changed hands is folded: give slots."""
        self._is_catching_up = False

    # --- what comes in ---

    def take(self, _: str, records: Sequence[Incoming], now: datetime) -> int:
        """Follow what was ordered, withdrawn and ended. Gives how many were set aside."""
        before = self._work.tally.letters.total()
        for record in records:
            self._take(record, now)
        return self._work.tally.letters.total() - before

    def _take(self, record: Incoming, now: datetime) -> None:
        raw = record.value or b""
        believed = self._terms.believed.take(raw)
        job = own_order(raw) if believed else None
        if job is not None:
            self._work.tally.folded[DISPATCH.name] += 1
            self._open(job, raw)
            return
        try:
            event = decode(raw)
        except InvalidEvent as error:
            code = DeadLetterCode(error.code)
            self._refuse(record.offset, raw, code, error.detail, now, error.where)
            return
        if not isinstance(event, _JOBS):
            detail = f"{event.type} does not belong here"
            self._refuse(record.offset, raw, DeadLetterCode.UNKNOWN_TYPE, detail, now, "$.type")
            return
        wrong = None
        if not believed:
            wrong = objection(event, jobs=self._terms.trusted, approvals={})
        if wrong is not None:
            self._refuse(record.offset, raw, DeadLetterCode.BAD_VALUE, wrong, now, "$.data")
            return
        try:
            self._fold(event, raw)
        except Exception as error:  # noqa: BLE001 - the handler's top: our bug, set aside
            detail = f"dispatching it failed: {type(error).__name__}: {error}"
            self._refuse(record.offset, raw, DeadLetterCode.BUG, detail, now, "")
            return
        self._work.tally.folded[DISPATCH.name] += 1

    def _fold(self, event: Event, raw: bytes) -> None:
        if isinstance(event, JobIssuedEvent):
            self._open(event.data.job, raw)
            return
        assert isinstance(event, JobSupersededEvent | JobResultedEvent)
        ticket = self.tickets.get(event.data.job_id)
        if ticket is None:
            return
        if ticket.stage is Stage.OVER:
            return
        if isinstance(event, JobSupersededEvent):
            if ticket.stage is Stage.OUT:
                self._publish(ticket, raw)
            self._withdraw(ticket)
        elif event.data.outcome is Outcome.EXPIRED and event.data.attempt == BY_US:
            self._withdraw(ticket)
        elif event.data.outcome in FINAL_OUTCOMES:
            self._put(replace(ticket, stage=Stage.OVER, order=None))
        else:
            # It had begun before its withdrawal reached the executor.
            self._put(replace(ticket, stage=Stage.BEGUN, order=None))

    def _open(self, job: Job | OwnJob, raw: bytes) -> None:
        if job.job_id not in self.tickets:
            self._put(_ticket(job, raw))

    def _withdraw(self, ticket: Ticket) -> None:
        if ticket.stage is not Stage.BEGUN:
            self._put(replace(ticket, stage=Stage.WITHDRAWN, order=None))

    # --- what is due ---

    def tick(self, now: datetime) -> bool:
        """Give free slots to those that wait, and forget what ended long ago."""
        if self._is_catching_up:
            return False
        now_us = to_us(now)
        for site in [site for site, queue in self._waiting.items() if queue]:
            self._fill(site, now_us)
        while self._ends and self._ends[0][0] <= now_us:
            _, job_id = heapq.heappop(self._ends)
            ticket = self.tickets.get(job_id)
            if ticket is not None and _forget_us(ticket) <= now_us:
                self._count(ticket, -1)
                del self.tickets[job_id]
                self._dirty[job_id] = None
        return False

    def is_behind(self, now: datetime) -> bool:
        """Whether `tick` has something to do now."""
        return any(self._next(site, to_us(now)) is not None for site in self._waiting)

    def _fill(self, site: str, now_us: int) -> None:
        while (ticket := self._next(site, now_us)) is not None:
            heapq.heappop(self._waiting[site])
            if ticket.expires_us <= now_us:
                # Its Mac's partition sees the same, and says so.
                self._put(replace(ticket, stage=Stage.OVER, order=None))
                continue
            assert ticket.order is not None
            self._publish(ticket, ticket.order)
            self._put(replace(ticket, stage=Stage.OUT, order=None))

    def _next(self, site: str, now_us: int) -> Ticket | None:
        """Who would have the next slot of a site; None if nobody can have one."""
        queue = self._waiting.get(site, [])
        while queue:
            ticket = self.tickets.get(queue[0][2])
            if ticket is None or ticket.stage is not Stage.WAITING:
                heapq.heappop(queue)
                continue
            if ticket.expires_us <= now_us:
                return ticket
            if jobs_topic(site) not in self._topics:
                return None
            free = self._slots(site) - self._out.get(site, 0)
            return ticket if free > 0 or not ticket.takes_slot else None
        return None

    def _slots(self, site: str) -> int:
        changed = self._facts.fleet.policy
        if changed is None:
            return 0
        known = read_policy(changed.text).sites.get(site)
        return 0 if known is None else known.max_jobs

    def homeless(self) -> Collection[str]:
        """The sites that jobs wait for and that have no topic."""
        return [
            site
            for site, queue in self._waiting.items()
            if queue and jobs_topic(site) not in self._topics
        ]

    # --- what goes out ---

    def collect(self) -> Work:
        """What is to be published and written since the last time."""
        work, self._work = self._work, Work()
        for job_id in self._dirty:
            ticket = self.tickets.get(job_id)
            row = None if ticket is None else ticket.to_row(self.epoch)
            work.rows[job_id.encode()] = row
        self._dirty.clear()
        return work

    def _put(self, ticket: Ticket) -> None:
        old = self.tickets.get(ticket.job_id)
        if old is None:
            heapq.heappush(self._ends, (_forget_us(ticket), ticket.job_id))
        else:
            self._count(old, -1)
        self.tickets[ticket.job_id] = ticket
        self._count(ticket, 1)
        self._dirty[ticket.job_id] = None

    def _count(self, ticket: Ticket, sign: int) -> None:
        if ticket.stage in (Stage.OUT, Stage.BEGUN) and ticket.takes_slot:
            self._out[ticket.site] = self._out.get(ticket.site, 0) + sign
        if sign < 0:
            return
        if ticket.stage is Stage.WAITING:
            # Who takes no slot waits for none.
            first = ticket.deadline_us if ticket.takes_slot else -1
            queue = self._waiting.setdefault(ticket.site, [])
            heapq.heappush(queue, (first, ticket.issued_us, ticket.job_id))

    def _publish(self, ticket: Ticket, raw: bytes) -> None:
        topic = jobs_topic(ticket.site)
        partition = partition_of(ticket.udid, self._topics[topic])
        self._work.posts.append(Post(topic, partition, ticket.udid.encode(), raw))

    def _refuse(
        self, offset: int, raw: bytes, code: DeadLetterCode, detail: str, now: datetime, where: str
    ) -> None:
        origin = f"{DISPATCH.name}/{self.partition}/{offset}"
        told = set_aside.letter(raw, code, detail, origin=origin, now=now, where=where)
        partition = partition_of(told.raw_sha256, self._terms.partitions[DEAD_LETTERS.name])
        body = told.model_dump_json(exclude_none=True).encode()
        self._work.posts.append(Post(DEAD_LETTERS.name, partition, told.raw_sha256.encode(), body))
        self._work.tally.letters[DISPATCH.name, code] += 1


def _ticket(job: Job | OwnJob, raw: bytes) -> Ticket:
    expires_us = to_us(job.expires_at)
    return Ticket(
        job_id=job.job_id,
        udid=job.udid,
        site=job.site,
        stage=Stage.WAITING,
        takes_slot=job.action is not Action.REENROLL,
        deadline_us=_NO_DEADLINE if job.deadline_at is None else to_us(job.deadline_at),
        issued_us=to_us(job.issued_at),
        expires_us=expires_us,
        report_by_us=expires_us if job.report_by is None else to_us(job.report_by),
        order=raw,
    )


def _forget_us(ticket: Ticket) -> int:
    """When nobody waits for the job any more, whatever was lost on the way."""
    return max(ticket.expires_us, ticket.report_by_us) + _REMEMBERED_US
