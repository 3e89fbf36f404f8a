"""`python -m tests.bench.fast_paths`: the time that each fast path saves over its plain function.

Figures are microseconds of CPU per call: the minimum of several runs of each in turns, in one
process on one core. The Mac is that of `tests.bench.core`; it lacks a release, gets an update job
and is then held for it.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

from pipeline.decide.admission import reject_reason
from pipeline.decide.decision import Evaluation, evaluate
from pipeline.decide.fast.after_send import reevaluate_after_send
from pipeline.decide.fast.cached import cached
from pipeline.decide.gates import to_gate
from pipeline.decide.job import build_job
from pipeline.decide.needs.need import target
from pipeline.decide.situation import Situation
from pipeline.decide.windows import window_state
from pipeline.payload_signing import _key_id_of, sign_job
from pipeline.policy.file import read_policy
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.fast.verified_cache import peek_job
from pipeline.processors.shard_config import ShardConfig
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import from_us
from pipeline.state.fleet import Fleet
from pipeline.state.hardware import hardware_class, supports_major
from pipeline.state.jobs import add_job as add_to_ledger
from schemas.decisions import encode_record
from schemas.envelope import InventoryEvent, JobIssuedEvent, decode, encode
from schemas.fast.models import construct_unchecked
from schemas.fast.report_peek import peek_report
from schemas.ids import derive_job_id
from schemas.macos import parse_build, parse_os_version
from schemas.model import WireModel
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    DISPATCH,
    INTERNAL_TOPICS,
    INVENTORY,
    ORDERS,
    TOPICS,
    jobs_topic,
    partition_of,
)
from tests import factories as make
from tests.bench.core import POLICY, cpu, numbered_report, reconciler_of, udid_of
from tests.factories.sites import JOBS_KEY, KEYS

RUNS: Final = 9
MACS: Final = 1_500
UDID: Final = udid_of(1)
Work = Callable[[], object]


def us_each(works: Sequence[Work], count: int) -> list[float]:
    """Return the minimum time of each function, in microseconds per call."""
    best = [float("inf")] * len(works)
    for _ in range(RUNS):
        for at, work in enumerate(works):
            gc.collect()
            begun = time.process_time()
            for _ in range(count):
                work()
            best[at] = min(best[at], (time.process_time() - begun) / count * 1e6)
    return best


def fields_of(model: WireModel) -> tuple[Work, Work]:
    kind, values = type(model), dict(model.__dict__)
    return lambda: construct_unchecked(kind, dict(values)), lambda: kind(**values)


def hit_and_miss(function: Any, *given: Any) -> tuple[Work, Work]:
    return lambda: function(*given), lambda: function.__wrapped__(*given)


class Values:
    @cached
    def by_once(self) -> int:
        return 1

    @cached_property
    def by_cached_property(self) -> int:
        return 1


def repeats() -> tuple[Work, Work]:
    """Return the peek and the decode of a report that changes only time and free disk space."""
    raws = [
        encode(numbered_report(1, "26.2", make.NOW + n * make.HOUR / 60, free_disk_gb=50.0 + n))
        for n in range(200)
    ]
    fast, plain, turn = Fleet(), Fleet(), [0, 0]
    first = decode(raws[0])
    assert isinstance(first, InventoryEvent)
    fast.apply(first)
    seen = peek_report(raws[0])
    assert seen is not None
    fast.remember(first, seen)
    remembered = fast.devices[UDID]

    def recognise() -> None:
        fast.devices[UDID] = remembered  # otherwise the next round's reports would be older
        turn[0] = turn[0] % 199 + 1
        peek = peek_report(raws[turn[0]])
        assert peek is not None
        assert fast.apply_duplicate(peek) is not None

    def decode_it() -> None:
        turn[1] = turn[1] % 199 + 1
        plain.apply(decode(raws[turn[1]]))

    return recognise, decode_it


def cached_calls(s: Situation, sent: Evaluation) -> dict[str, tuple[Work, Work]]:
    """Return a cached and a computed call of each function with an `lru_cache`."""
    windows, zone = s.policy.windows_of("london"), s.policy.sites["london"].zone
    return {
        "cache: parse_os_version": hit_and_miss(parse_os_version, "26.2"),
        "cache: parse_build": hit_and_miss(parse_build, "25C56"),
        "cache: str of a version": hit_and_miss(
            type(s.device.os_version).__str__, s.device.os_version
        ),
        "cache: partition_of": hit_and_miss(partition_of, UDID, 12),
        "cache: from_us": hit_and_miss(from_us, s.now_us),
        "cache: to_gate": hit_and_miss(to_gate, sent.gated_needs[0].gates[0]),
        "cache: window_state": hit_and_miss(window_state, windows, zone, s.now),
        "cache: read_policy": hit_and_miss(read_policy, make.POLICY_TEXT),
        "cache: target": hit_and_miss(target, s.device.os_version, s.device.build),
        "cache: hardware_class": hit_and_miss(hardware_class, "Mac16,1", "J604AP", None),
        "cache: supports_major": hit_and_miss(supports_major, "Mac16,1", 26),
        "cache: derive_job_id": hit_and_miss(derive_job_id, UDID, "update", "26.2", 0),
        "cache: _key_id_of": hit_and_miss(_key_id_of, JOBS_KEY),
    }


def pairs() -> dict[str, tuple[Work, Work]]:
    """Return the fast and the plain form of each fast path, by its name in the table."""
    engine = reconciler_of([encode(one) for one in make.enrolled(UDID)])
    engine.fold(make.polled(UDID))
    engine.fold(numbered_report(1, "26.1", make.NOW - make.HOUR))
    slow = Reconciler(engine.fleet, fast_paths=False)
    s = engine.situation(UDID, make.NOW)
    sent = evaluate(s)
    job = build_job(s, sent.decision)
    after = Situation(*(s.device, s.advisories, s.policy, s.now, add_to_ledger(s.job_history, job)))
    event = make.issued(job).model_copy(update={"data": sign_job(job, JOBS_KEY)})
    assert isinstance(event, JobIssuedEvent)
    raw, record = encode(event), engine.record_of(sent.decision, s)

    def both(one: Situation) -> object:
        return one.site, one.open_job

    def verified() -> None:
        assert reject_reason(decode(raw), jobs=KEYS.jobs, approvals={}) is None

    return {
        "report recognised by its bytes": repeats(),
        "record as JSON": (
            lambda: encode_record(record),
            lambda: encode_record(record, fast_paths=False),
        ),
        "order as JSON": (lambda: encode(event), lambda: encode(event, fast_paths=False)),
        "order signed": (
            lambda: sign_job(job, JOBS_KEY),
            lambda: sign_job(job, JOBS_KEY, fast_paths=False),
        ),
        "Decision built": fields_of(sent.decision),
        "DecisionInputs built": fields_of(record.inputs),
        "Job built": fields_of(job),
        "decision after its order": (
            lambda: reevaluate_after_send(after, sent),
            lambda: evaluate(after),
        ),
        "Mac as JSON values, kept": (
            lambda: engine._deciding._wire_of(s.device),
            lambda: slow._deciding._wire_of(s.device),
        ),
        "site and open job, given": (
            lambda: both(engine.situation(UDID, make.NOW)),
            lambda: both(slow.situation(UDID, make.NOW)),
        ),
        "own order, by its bytes": (lambda: peek_job(raw), verified),
        "once": (lambda: Values().by_once, lambda: Values().by_cached_property),
    } | cached_calls(s, sent)


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


def records(raws: Iterable[bytes]) -> list[Record]:
    return [Record(offset, None, raw) for offset, raw in enumerate(raws)]


class Shards:
    """Both shards of a worker with one partition and MACS Macs that lack the release 26.2."""

    def __init__(self, *, fast_paths: bool) -> None:
        counts = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
        terms = ShardConfig(JOBS_KEY, KEYS.jobs, counts, slice_size=MACS, fast_paths=fast_paths)
        self.facts = BroadcastState(KEYS.approvals)
        self.facts.fold_record(CONTROL.name, 0, encode(make.policy_changed(POLICY)))
        for offset, version in enumerate(one for one in make.RELEASES if one != "26.2"):
            self.facts.fold_record(ADVISORIES.name, offset, encode(make.release(version)))
        self.macs = DeviceShard(0, self.facts, terms)
        self.sites = DispatchShard(0, self.facts, terms, {jobs_topic("london"): 1})
        for shard in (self.macs, self.sites):
            shard.begin(make.NOW)
            shard.finish_catch_up()
        enrolled = (one for number in range(MACS) for one in make.enrolled(udid_of(number)))
        polled = (make.polled(udid_of(number)) for number in range(MACS))
        self.macs.process_records(
            CHECKINS.name, records(map(encode, (*enrolled, *polled))), make.NOW
        )
        self.report(0)
        self.macs.tick(make.NOW)
        self.macs.collect()

    def report(self, turn: int) -> float:
        """Process a report of each Mac with another free disk space; return microseconds each."""
        when = make.NOW - make.HOUR + turn * make.HOUR / 60
        given = records(
            encode(numbered_report(number, "26.1", when, free_disk_gb=50.0 + turn))
            for number in range(MACS)
        )
        return cpu(lambda: self.macs.process_records(INVENTORY.name, given, make.NOW)) / MACS * 1e6

    def release(self) -> float:
        """Publish the release and process it up to dispatch; return microseconds per job."""
        raw = encode(make.release("26.2"))
        self.facts.fold_record(ADVISORIES.name, self.facts.next_offsets[ADVISORIES.name], raw)
        return cpu(self._settle) / MACS * 1e6

    def _settle(self) -> None:
        jobs, busy = 0, True
        while busy:
            busy = self.macs.tick(make.NOW) | self.sites.tick(make.NOW)
            posts = [*self.macs.collect().records, *self.sites.collect().records]
            orders = [post.value for post in posts if post.topic == ORDERS.name]
            self.macs.process_records(ORDERS.name, records(orders), make.NOW)
            sent = [post.value for post in posts if post.topic == DISPATCH.name]
            self.sites.process_records(DISPATCH.name, records(sent), make.NOW)
            jobs += len(sent)
            busy = busy or bool(posts)
        assert jobs == MACS


def together() -> Iterator[tuple[str, float, float]]:
    """Yield the times of a repeated report and of a job, with all fast paths on and off."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for _ in range(3):
        for fast_paths in (True, False):
            shards = Shards(fast_paths=fast_paths)
            each = min(shards.report(turn) for turn in range(1, 4))
            found[fast_paths].append((each, shards.release()))
    for at, name in enumerate(("all: a repeated report", "all: a job, from release to slot")):
        fast, plain = (min(one[at] for one in found[flag]) for flag in (True, False))
        yield name, fast, plain


def main() -> None:
    """Measure and print the table."""
    sys.stdout.write(f"{'us a call':<34}{'fast':>9}{'plain':>9}{'saved':>9}\n")
    for name, works in pairs().items():
        count = 20 if name == "cache: read_policy" else 2_000
        fast, plain = us_each(works, count)
        sys.stdout.write(f"{name:<34}{fast:>9.2f}{plain:>9.2f}{plain - fast:>9.2f}\n")
    for name, fast, plain in together():
        sys.stdout.write(f"{name:<34}{fast:>9.2f}{plain:>9.2f}{plain - fast:>9.2f}\n")


if __name__ == "__main__":
    main()
