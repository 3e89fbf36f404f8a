"""Shards without fast paths give the same output as shards with them, for any events."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.decision import evaluate
from pipeline.decide.job import build_job
from pipeline.decide.situation import Situation
from pipeline.payload_signing import sign_job
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import OutgoingRecord, ShardOutput
from pipeline.reconcile.reconciler import Reconciler
from schemas.decisions import Verdict, encode_record
from schemas.envelope import CloudEvent, JobIssuedEvent, decode, encode
from schemas.results import ErrorCode, Outcome
from schemas.topics import (
    ADVISORIES,
    CONTROL,
    DISPATCH,
    INTERNAL_TOPICS,
    INVENTORY,
    ORDERS,
    RESULTS,
    TOPICS,
    jobs_topic,
)
from tests import factories as make
from tests.factories.sites import JOBS_KEY, KEYS
from tests.fast_paths import fast_path_uses
from tests.strategies import situations

ONE_PARTITION = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
MACS, SITES = ("MAC-A", "MAC-B", "MAC-C"), ("london", "tokyo")
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


class Shards:
    """The shards of one worker; records that they publish are read back, as from Kafka."""

    def __init__(self, *, fast_paths: bool) -> None:
        self.now = make.NOW
        self.jobs: dict[str, bytes] = {}
        self.work: list[ShardOutput] = []
        self._broadcast = BroadcastState(KEYS.approvals)
        config = ShardConfig(JOBS_KEY, KEYS.jobs, ONE_PARTITION, fast_paths=fast_paths)
        self._macs = DeviceShard(0, self._broadcast, config)
        self._sites = DispatchShard(
            0, self._broadcast, config, {jobs_topic(site): 1 for site in SITES}
        )
        self._ends: Counter[str] = Counter()
        self.send(make.policy_changed(), make.release("26.1"), make.release("26.2"))
        for udid in MACS:
            self.send(*make.enrolled(udid), make.polled(udid))
        self._macs.begin(self.now)
        self._sites.begin(self.now)
        self._macs.finish_catch_up()
        self._sites.finish_catch_up()
        self.settle()

    def send(self, *events: CloudEvent) -> None:
        for event in events:
            self.take(make.topic_of(event), [encode(event)])

    def take(self, topic: str, raws: Sequence[bytes]) -> None:
        first = self._ends[topic]
        self._ends[topic] += len(raws)
        if topic in (ADVISORIES.name, CONTROL.name):
            for offset, raw in enumerate(raws, first):
                self._broadcast.fold_record(topic, offset, raw)
            return
        shard = self._sites if topic == DISPATCH.name else self._macs
        records = [Record(offset, None, raw) for offset, raw in enumerate(raws, first)]
        shard.process_records(topic, records, self.now)

    def settle(self) -> None:
        """Tick and read published records back, until no more records are published."""
        for _ in range(50):
            busy = self._macs.tick(self.now) | self._sites.tick(self.now)
            posts = [post for shard in (self._macs, self._sites) for post in self._collect(shard)]
            for post in posts:
                if post.topic in (ORDERS.name, RESULTS.name, DISPATCH.name):
                    self.take(post.topic, [post.value])
                elif post.topic in map(jobs_topic, SITES) and b"job.issued" in post.value:
                    self.jobs[post.key.decode()] = post.value
            if not busy and not posts:
                return

    def _collect(self, shard: DeviceShard | DispatchShard) -> list[OutgoingRecord]:
        work = shard.collect()
        self.work.append(work)
        return work.records


def compared(work: ShardOutput) -> tuple[Any, ...]:
    """Return the output to compare: all but the ages of jobs and results.

    A worker that recognises its own records by their bytes does not read their times.
    """
    ages = {
        topic: age_s
        for topic, age_s in work.counters.oldest_age_s.items()
        if topic == INVENTORY.name
    }
    rounded = {topic: round(age_s, 3) for topic, age_s in ages.items()}
    return work.records, work.rows, replace(work.counters, oldest_age_s=rounded)


# --- happenings: functions that do the same to both pairs of shards ---


def report(
    macs: Sequence[str], version: str, facts: dict[str, Any], telemetry: Sequence[Any], ago: int
) -> Any:
    """Return a happening: each Mac reports `facts` once per element of `telemetry`, with those."""

    def happen(shards: Shards) -> None:
        when = shards.now - ago * MINUTE
        for number, moving in enumerate(telemetry):
            own = facts | moving
            raws = [
                encode(
                    make.full_report(
                        version, udid, when + number * SECOND, **{"serial": f"C02{udid}"} | own
                    )
                )
                for udid in macs
            ]
            shards.take(INVENTORY.name, raws)

    return happen


def report_result(udid: str, outcome: Outcome) -> Any:
    def happen(shards: Shards) -> None:
        if udid in shards.jobs:
            event = decode(shards.jobs[udid])
            assert isinstance(event, JobIssuedEvent)
            code = ErrorCode.INSTALL_FAILED if outcome is Outcome.FAILED else None
            shards.send(make.resulted(event.data.job, outcome, shards.now, code))

    return happen


def send(event: CloudEvent) -> Any:
    return lambda shards: shards.send(event)


def read_again(udid: str) -> Any:
    """Return a happening: a published job is read once more, when the worker expects none."""

    def happen(shards: Shards) -> None:
        if udid in shards.jobs:
            for topic in (ORDERS, DISPATCH):
                shards.take(topic.name, [shards.jobs[udid]])

    return happen


def pass_time(minutes: int) -> Any:
    def happen(shards: Shards) -> None:
        shards.now += minutes * MINUTE

    return happen


def send_invalid(raw: bytes) -> Any:
    return lambda shards: [shards.take(one.name, [raw]) for one in (INVENTORY, ORDERS, DISPATCH)]


FACTS = st.sampled_from(
    [{}, {}, {"hostname": "h"}, {"site": "tokyo"}, {"serial": "C02OTHER"}, {"supervised": False}]
)
TELEMETRY = st.sampled_from(
    [{}, {"free_disk_gb": 3.5}, {"free_disk_gb": 90.0}, {"battery_percent": 7.0}]
)
REPORTS = st.builds(
    report,
    st.lists(st.sampled_from(MACS), min_size=1, max_size=3, unique=True),
    st.sampled_from(["26.1", "26.1", "26.2"]),
    FACTS,
    st.lists(TELEMETRY, min_size=1, max_size=4),
    st.integers(0, 90),
)
HAPPENINGS = st.one_of(
    *[REPORTS] * 4,
    st.builds(report_result, st.sampled_from(MACS), st.sampled_from(list(Outcome))),
    st.builds(read_again, st.sampled_from(MACS)),
    st.builds(pass_time, st.sampled_from([0, 1, 60, 600, 6000])),
    st.builds(send, st.sampled_from([make.release("26.3"), make.retracted("26.2")])),
    st.builds(send, st.sampled_from([make.halted(site="london"), make.halt_cleared()])),
    st.builds(send, st.builds(make.checked_out, st.sampled_from(MACS))),
    st.builds(send_invalid, st.sampled_from([b"", b"{", encode(make.issued(make.job()))])),
)


def outputs_of(
    happenings: Sequence[Any], *, fast_paths: bool
) -> tuple[list[ShardOutput], Counter[str]]:
    """Return all output of shards after these happenings, and the number of fast-path uses."""
    with fast_path_uses() as uses:
        shards = Shards(fast_paths=fast_paths)
        for happen in happenings:
            happen(shards)
            shards.settle()
    return shards.work, uses


@given(st.lists(HAPPENINGS, max_size=12))
def test_output_is_the_same_without_fast_paths(happenings: list[Any]) -> None:
    fast, _ = outputs_of(happenings, fast_paths=True)
    plain, unwanted = outputs_of(happenings, fast_paths=False)
    assert [compared(work) for work in fast] == [compared(work) for work in plain]
    assert not unwanted


def test_every_fast_path_is_used_and_gives_the_same_output() -> None:
    """These happenings use every fast path, so the test above can compare them."""
    low, enough = {"free_disk_gb": 3.5}, {"free_disk_gb": 90.0}
    reports = report(MACS, "26.1", {}, (low, low, enough, low), 1)
    happenings = (reports, pass_time(6000), reports)
    fast, uses = outputs_of(happenings, fast_paths=True)
    plain, _ = outputs_of(happenings, fast_paths=False)
    assert [compared(work) for work in fast] == [compared(work) for work in plain]
    assert set(uses) == {
        *("construct_unchecked", "json_bytes", "peek_report", "apply_duplicate"),
        *("reevaluate_after_send", "VerifiedCache", "peek_job"),
    }


def test_report_that_changes_nothing_does_not_write_the_row_again() -> None:
    """An older copy of a report changes only the memory by which repeats are recognised."""
    report_of_mac = report(MACS[:1], "26.1", {}, ({}, {}), 0)
    older = report(MACS[:1], "26.1", {}, ({},), 0)
    for fast_paths in (True, False):
        work, _ = outputs_of((report_of_mac, older, pass_time(60)), fast_paths=fast_paths)
        assert not work[-2].rows
        assert not work[-1].rows


@given(situations())
def test_decision_record_and_job_have_the_same_bytes(s: Situation) -> None:
    found, plain = evaluate(s), evaluate(s, fast_paths=False)
    assert found == plain
    record = Reconciler().record_of(found.decision, s)
    again = Reconciler(fast_paths=False).record_of(plain.decision, s)
    assert encode_record(record) == encode_record(again, fast_paths=False)
    if found.decision.decision is Verdict.SEND:
        issued = sign_job(build_job(s, found.decision), JOBS_KEY)
        plainly = sign_job(
            build_job(s, plain.decision, fast_paths=False), JOBS_KEY, fast_paths=False
        )
        assert issued == plainly
        events = [
            make.issued(one.job).model_copy(update={"data": one}) for one in (issued, plainly)
        ]
        assert encode(events[0]) == encode(events[1], fast_paths=False)
