"""One partition of the Macs: fold, decide, and say what to publish and what to keep. Pure.

Owns the engine of the Macs whose UDIDs are hashed to the partition. Whoever calls it makes what
`collect` gives durable, in its order, before it commits what it was given.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Final

from pipeline.decide.admission import objection
from pipeline.decide.engine import SOURCE, Decided, Effect, Engine, Failed, Followed
from pipeline.decide.standing import Standing
from pipeline.processors import rows, set_aside
from pipeline.processors.facts import Fact, Facts
from pipeline.processors.own_orders import OwnOrders
from pipeline.processors.terms import Terms
from pipeline.processors.work import Incoming, Post, Work
from pipeline.state.device import FIGURES_FROM, Device, from_us, to_us
from pipeline.state.jobs import JobEntry, Ledger
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import encode_record
from schemas.envelope import (
    Event,
    InvalidEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    decode,
    encode,
)
from schemas.glance import Glance, glance
from schemas.ids import event_id
from schemas.orders import issue
from schemas.results import Outcome
from schemas.routing import device_key
from schemas.topics import (
    CHECKINS,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    INVENTORY,
    ORDERS,
    RESULTS,
    partition_of,
)

DEVICE_TOPICS: Final = (INVENTORY, CHECKINS, RESULTS, ORDERS)
_MODELS: Final = {topic.name: topic.models for topic in DEVICE_TOPICS}
_Job = JobIssuedEvent | JobSupersededEvent | JobResultedEvent


class DeviceShard:
    """The Macs of one partition. One writer; times are given."""

    def __init__(self, partition: int, facts: Facts, terms: Terms) -> None:
        self.partition = partition
        self.engine = Engine(fast_paths=terms.fast_paths)
        self.epoch = 0
        self._facts = facts
        self._terms = terms
        self._count = terms.partitions[INVENTORY.name]
        self._work = Work()
        # What was folded when it was logged: to read it back changes nothing.
        self._folded = OwnOrders()
        self._dirty: dict[str, None] = {}
        # Macs of which only times and figures changed since their rows were written; `_overdue`
        # did so before the last turn of `refresh`.
        self._unwritten: dict[str, None] = {}
        self._overdue: dict[str, None] = {}
        self._turn_at: datetime | None = None
        self._answered: dict[str, int] = {}
        self._owner_dirty = False
        self._is_catching_up = True
        # Macs to be looked at once the backlog is folded, and those of them whose rows say so.
        self._unanswered: dict[str, None] = {}
        self._told_unanswered: dict[str, None] = {}
        self._standings: dict[str, Standing] = {}
        self._passes: list[_Pass] = []
        self._seen = 0
        self._sweeping: Iterator[str] | None = None
        self._sweep_at: datetime | None = None
        self._failing: dict[str, str] = {}

    # --- before it begins ---

    def load(self, key: bytes, raw: bytes) -> None:
        """Take a row of the state as it was kept. Raises BadRow."""
        if key == rows.OWNER_KEY:
            owner = rows.Owner.of(raw)
            self.epoch, self._answered = owner.epoch, dict(owner.answered)
            return
        udid = key.decode()
        owner_of = partition_of(udid, self._count)
        if owner_of != self.partition:
            raise rows.BadRow(f"row of {udid} is one of partition {owner_of}: was one added?")
        standing, is_answered = rows.load_device(self.engine, udid, raw)
        if standing is not None:
            self._standings[udid] = standing
        if not is_answered:
            self._unanswered[udid] = self._told_unanswered[udid] = None

    def begin(self, now: datetime) -> None:
        """All rows are loaded: go on from there."""
        engine = self.engine
        engine.fleet.advisories = self._facts.fleet.advisories
        for fact in self._facts.log:
            if fact.event is not None:
                engine.fold(fact.event)
        self._seen = len(self._facts.log)
        engine.recount_jobs()
        for udid, standing in self._standings.items():
            engine.restore(udid, standing)
        self._standings.clear()
        self._answer_to(self._facts.after(self._answered))
        # Partitions of one worker do not sweep all at once.
        every = self._terms.sweep_every
        self._sweep_at = now + every * (self.partition + 1) / (self._count + 1)

    def caught_up(self) -> None:
        """All that was in the topics when the partition changed hands is folded: decide from now
        on, first for the Macs of which something was learnt.

        What was decided before and was not kept is in those topics too, with all it was decided
        by. To decide by a part of that would take it back.
        """
        engine, owner = self.engine, self.engine.fleet.owner
        # An ended job may have freed a slot for who waits for one.
        waiting = [udid for udid, one in engine.standings.items() if one.wants_slot]
        udids = {owner(udid) or udid for udid in (*self._unanswered, *waiting)}
        self._passes.append(_Pass(sorted(udids), is_backlog=True))
        self._is_catching_up = False

    # --- what comes in ---

    def take(self, topic: str, records: Sequence[Incoming], now: datetime) -> int:
        """Fold records of one topic and follow what follows. Gives how many were set aside."""
        before = self._work.tally.letters.total()
        if topic == INVENTORY.name and self._terms.fast_paths:
            self._take_reports(records, now)
        else:
            for record in records:
                self._take(topic, record, now)
        return self._work.tally.letters.total() - before

    def _take_reports(self, records: Sequence[Incoming], now: datetime) -> None:
        """Most reports of a fleet are repeats: those are told by their bytes and not decoded."""
        engine, unwritten = self.engine, self._unwritten
        repeats, oldest_us = 0, to_us(now)
        for record in records:
            raw = record.value or b""
            seen = glance(raw)
            try:
                again = None if seen is None else engine.fleet.repeats(seen)
                if again is not None:
                    before, after, us = again
                    udid = after.udid
                    if after.inventory_days != before.inventory_days:
                        self._dirty[udid] = None
                    else:
                        unwritten[udid] = None
                    if self._is_catching_up:
                        self._unanswered[udid] = None
                    elif engine.figures_matter(udid, now, after):
                        self._follow(engine.look_at(udid, now), now)
            except Exception as error:  # noqa: BLE001 - the handler's top: our bug, set aside
                self._bug(INVENTORY.name, record.offset, raw, error, now)
                continue
            if again is None:
                self._take(INVENTORY.name, record, now, seen)
            else:
                repeats += 1
                oldest_us = min(oldest_us, us)
        self._work.tally.add(INVENTORY.name, repeats, (to_us(now) - oldest_us) / 1e6)

    def _take(
        self, topic: str, record: Incoming, now: datetime, seen: Glance | None = None
    ) -> None:
        raw = record.value or b""
        if self._folded.take(raw):
            self._work.tally.add(topic, 1, 0.0)
            return
        try:
            event = decode(raw)
        except InvalidEvent as error:
            code = DeadLetterCode(error.code)
            self._refuse(topic, record.offset, raw, code, error.detail, now, error.where)
            return
        if not isinstance(event, _MODELS[topic]):
            self._refuse(
                *(topic, record.offset, raw, DeadLetterCode.UNKNOWN_TYPE),
                *(f"{event.type} does not belong here", now, "$.type"),
            )
            return
        key = _key_of(event)
        if key not in self.engine.fleet.devices:
            owner = partition_of(key, self._count)
            if owner != self.partition:
                # Its producer has another key or partitioner: one worker must own a Mac.
                self._work.posts.append(Post(topic, owner, key.encode(), raw))
                return
        wrong = objection(event, jobs=self._terms.trusted, approvals={})
        if wrong is not None:
            self._refuse(topic, record.offset, raw, DeadLetterCode.BAD_VALUE, wrong, now, "$.data")
            return
        try:
            self._fold(event, raw, now, seen)
        except Exception as error:  # noqa: BLE001 - the handler's top: our bug, set aside
            self._bug(topic, record.offset, raw, error, now)
            return
        self._work.tally.add(topic, 1, (now - event.time).total_seconds())

    def _fold(self, event: Event, raw: bytes, now: datetime, seen: Glance | None = None) -> None:
        fleet, key = self.engine.fleet, _key_of(event)
        device, ledger = fleet.devices.get(key), fleet.ledgers.get(key, ())
        effects = self._handle(event, now, seen)
        first = next(effects, None)  # folds; nothing that follows from it is folded yet
        if isinstance(event, _Job):
            self._after_job(event, raw, ledger, fleet.ledgers.get(key, ()))
        after = fleet.devices.get(key)
        # Devices that differ in what a repeat is recognised by are equal: no row has that.
        if after is not None and after is not device and after != device:
            self._changed(key, device, after)
        if first is not None:
            self._follow(chain((first,), effects), now)
        for name in self.engine.forgotten:
            self._dirty[name] = None
        self.engine.forgotten.clear()

    def _handle(self, event: Event, now: datetime, seen: Glance | None) -> Iterator[Effect]:
        if not self._is_catching_up:
            return self.engine.handle(event, now, seen)
        touched = self.engine.fold(event).udids
        self._unanswered |= dict.fromkeys(touched)
        self._dirty |= dict.fromkeys(touched[1:])
        return iter(())

    def _follow(self, effects: Iterable[Effect], now: datetime) -> None:
        for effect in effects:
            if isinstance(effect, Followed):
                self._log(effect.event, now)
            elif isinstance(effect, Failed):
                self._failed(effect, now)
            else:
                self._decided(effect, now)

    def _decided(self, effect: Decided, now: datetime) -> None:
        decision = effect.record.decision
        body = encode_record(effect.record, fast_paths=self._terms.fast_paths)
        self._post(DECISIONS.name, decision.udid, body)
        self._work.tally.decisions[decision.action, decision.reason] += 1
        self._dirty[decision.udid] = None
        self._failing.pop(decision.udid, None)
        if effect.job is not None:
            issued = JobIssuedEvent(
                id=event_id("issued", effect.job.job_id),
                source=SOURCE,
                subject=effect.job.udid,
                time=now,
                data=issue(effect.job, self._terms.key, fast_paths=self._terms.fast_paths),
            )
            self._log(issued, now)

    def _after_job(self, event: _Job, raw: bytes, before: Ledger, after: Ledger) -> None:
        """Tell dispatch where a job opened or ended: it counts the site's slots."""
        job_id = event.data.job.job_id if isinstance(event, JobIssuedEvent) else event.data.job_id
        old, new = _entry(before, job_id), _entry(after, job_id)
        if new is None or new is old:
            return
        self._dirty[_key_of(event)] = None
        if (old is not None and old.is_open) is not new.is_open:
            if self._terms.fast_paths:
                self._terms.believed.add(raw)
            partition = partition_of(new.site, self._terms.partitions[DISPATCH.name])
            self._work.posts.append(Post(DISPATCH.name, partition, new.site.encode(), raw))
        if isinstance(event, JobResultedEvent):
            self._work.tally.results[new.action, event.data.outcome] += 1
            if new.outcome is Outcome.SUCCEEDED:
                took = event.time - from_us(new.issued_us)
                self._work.tally.durations.append((new.action, took.total_seconds()))

    def _changed(self, key: str, before: Device | None, after: Device) -> None:
        if (
            before is None
            or before.values[:FIGURES_FROM] != after.values[:FIGURES_FROM]
            or before.checkins != after.checkins
            or before.inventory_days != after.inventory_days
        ):
            self._dirty[key] = None
        else:
            self._unwritten[key] = None

    # --- what is due ---

    def tick(self, now: datetime) -> bool:
        """Do a bounded piece of what is due without any event; True if there is more to do."""
        if self._turn_at is None or now >= self._turn_at:
            self._turn_at = now + self._terms.refresh
            self._overdue |= self._unwritten
            self._unwritten.clear()
        if self._is_catching_up:
            return False
        self._take_facts()
        self._answer_facts(now)
        due = self.engine.next_due()
        if due is not None and due <= now:
            self._follow(self.engine.due(now, self._terms.slice), now)
            due = self.engine.next_due()
        self._sweep_on(now)
        return bool(self._passes) or self._sweeping is not None or (due is not None and due <= now)

    def is_behind(self, now: datetime) -> bool:
        """Whether `tick` has something to do now, sweeps aside."""
        due = self.engine.next_due()
        unread = self._seen < len(self._facts.log)
        return bool(self._passes) or unread or (due is not None and due <= now)

    def _take_facts(self) -> None:
        log = self._facts.log
        if self._seen == len(log):
            return
        new = log[self._seen :]
        self._seen = len(log)
        self.engine.fleet.advisories = self._facts.fleet.advisories
        for fact in new:
            if fact.event is not None:
                self.engine.fold(fact.event)
        self._answer_to(new)

    def _answer_to(self, facts: Sequence[Fact]) -> None:
        """Look at the Macs that these facts concern, and remember then how far that reached."""
        if not facts:
            return
        known = self.engine.fleet.devices
        udids = {
            udid: None
            for fact in facts
            for udid in self.engine.affected(fact.change)
            if udid in known
        }
        reached = {fact.topic: fact.offset + 1 for fact in facts}
        self._passes.append(_Pass(sorted(udids), reached, facts))

    def _answer_facts(self, now: datetime) -> None:
        left = self._terms.slice
        while self._passes and left > 0:
            current = self._passes[0]
            some = current.udids[current.done : current.done + left]
            for udid in some:
                self._follow(self.engine.look_at(udid, now), now)
            if current.is_backlog:
                self._answered_backlog(some)
            left -= len(some)
            current.done += len(some)
            if current.done < len(current.udids):
                return
            if current.is_backlog:
                self._answered_backlog(list(self._unanswered))
            if self.partition == 0:
                # Every worker reads them: one of them says what could not be used.
                self._refuse_facts(current.facts, now)
            self._answered |= {
                topic: max(offset, self._answered.get(topic, 0))
                for topic, offset in current.reached.items()
            }
            self._owner_dirty = True
            del self._passes[0]

    def _answered_backlog(self, udids: Iterable[str]) -> None:
        for udid in udids:
            self._unanswered.pop(udid, None)
            if udid in self._told_unanswered:
                del self._told_unanswered[udid]
                self._dirty[udid] = None

    def _sweep_on(self, now: datetime) -> None:
        if self._sweeping is None:
            if self._sweep_at is None or now < self._sweep_at:
                return
            self._sweeping = iter(list(self.engine.fleet.macs()))
            self._sweep_at = now + self._terms.sweep_every
        macs = list(islice(self._sweeping, self._terms.slice))
        if macs:
            self._follow(self.engine.sweep(now, macs), now)
        else:
            self._sweeping = None

    # --- what goes out ---

    def collect(self) -> Work:
        """What is to be published and written since the last time."""
        work, self._work = self._work, Work()
        # Bounded, or all of a fleet would be written in one round, unless it is to be at once.
        most = self._terms.slice if self._terms.refresh else None
        self._dirty |= dict.fromkeys(islice(self._overdue, most))
        for udid in self._dirty:
            self._overdue.pop(udid, None)
            self._unwritten.pop(udid, None)
            is_answered = udid not in self._unanswered
            if not is_answered:
                self._told_unanswered[udid] = None
            work.rows[udid.encode()] = rows.device_row(
                self.engine, udid, self.epoch, is_answered=is_answered
            )
        self._dirty.clear()
        if self._owner_dirty:
            work.rows[rows.OWNER_KEY] = rows.Owner(self.epoch, self._answered).to_row()
            self._owner_dirty = False
        return work

    def _post(self, topic: str, key: str, value: bytes) -> None:
        self._work.posts.append(Post(topic, self.partition, key.encode(), value))

    def _log(self, event: Event, now: datetime) -> None:
        """Publish what was decided of a job, and fold it: it is read here again, and known then."""
        topic = RESULTS if isinstance(event, JobResultedEvent) else ORDERS
        raw = encode(event, fast_paths=self._terms.fast_paths)
        self._post(topic.name, _key_of(event), raw)
        self._fold(event, raw, now)
        if self._terms.fast_paths:
            self._folded.add(raw)

    def _refuse(
        self,
        topic: str,
        offset: int,
        raw: bytes,
        code: DeadLetterCode,
        detail: str,
        now: datetime,
        where: str,
        partition: int | None = None,
    ) -> None:
        origin = f"{topic}/{self.partition if partition is None else partition}/{offset}"
        self._set_aside(topic, raw, code, detail, origin, now, where)

    def _bug(self, topic: str, offset: int, raw: bytes, error: Exception, now: datetime) -> None:
        detail = f"folding it failed: {type(error).__name__}: {error}"
        self._refuse(topic, offset, raw, DeadLetterCode.BUG, detail, now, "")

    def _refuse_facts(self, facts: Sequence[Fact], now: datetime) -> None:
        for topic, offset, _, _, refusal in facts:
            if refusal is not None:
                code, detail, where, raw = refusal
                self._refuse(topic, offset, raw, code, detail, now, where, 0)

    def _failed(self, effect: Failed, now: datetime) -> None:
        """Set aside a Mac that our rules fail on: once for each way in which they do."""
        detail = f"deciding failed: {type(effect.error).__name__}: {effect.error}"
        if self._failing.get(effect.udid) == detail:
            return
        self._failing[effect.udid] = detail
        raw = rows.device_row(self.engine, effect.udid, self.epoch)
        self._set_aside(INVENTORY.name, raw, DeadLetterCode.BUG, detail, effect.udid, now, "")

    def _set_aside(
        self,
        topic: str,
        raw: bytes,
        code: DeadLetterCode,
        detail: str,
        origin: str,
        now: datetime,
        where: str,
    ) -> None:
        told = set_aside.letter(raw, code, detail, origin=origin, now=now, where=where)
        partition = partition_of(told.raw_sha256, self._terms.partitions[DEAD_LETTERS.name])
        body = told.model_dump_json(exclude_none=True).encode()
        self._work.posts.append(Post(DEAD_LETTERS.name, partition, told.raw_sha256.encode(), body))
        self._work.tally.letters[topic, code] += 1


@dataclass(slots=True)
class _Pass:
    """Macs to look at because of some facts, or of a backlog; done up to an index."""

    udids: list[str]
    reached: Mapping[str, int] = field(default_factory=dict)
    facts: Sequence[Fact] = ()
    is_backlog: bool = False
    done: int = 0


def _key_of(event: Event) -> str:
    if isinstance(event, JobIssuedEvent):
        return event.data.job.udid
    if isinstance(event, JobResultedEvent | JobSupersededEvent):
        return event.data.udid
    return device_key(event)  # type: ignore[arg-type]


def _entry(ledger: Ledger, job_id: str) -> JobEntry | None:
    found = [entry for entry in ledger if entry.job_id == job_id]
    return found[0] if found else None
