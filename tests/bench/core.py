"""`make bench-core`: ingest, fold and decide without a broker, on one core.

Workload. A Mac is an enrolled, supervised M4 MacBook Pro that osquery and MDM report on; its report
carries 15 facts (about 650 bytes of CloudEvents JSON). 90 % of the Macs are compliant, 10 % lack a
release and are held or have an open job.

- reports: a stream over 10,000 Macs in which a tenth of the reports changes a field. Of ten such
  changes five are a new host name, four a new boot time, and one is another OS version, which leads
  to an update job or closes one. In `duplicates` the other nine tenths differ from the Mac's
  previous report in time and id only; in `telemetry` each report also has another free disk space.
  `decode` is schemas.envelope.decode from bytes; `fold` adds Fleet.apply; `all` is all that a
  worker's shard does with a report except for signatures, rows and counters: `peek_report`
  recognises duplicates, events are admitted and folded, all decisions are made, decisions and jobs
  are encoded, and the rows that changed are named. The three are measured in turns on the same
  bytes.
- memory: resident memory per Mac of 100,000 Macs with indexes, job histories, last decisions, and
  the peeks of their last reports.
- advisory: a release arrives that 10 % of 100,000 Macs lack: decisions, records, jobs, and the
  second decision after each job is open.
- scaling: the same with 1,000 Macs that lack it, in fleets of 10,000, 100,000 and 1,000,000.

Rates and durations are CPU time of this process: other work on the machine disturbs them less.
Each is the median of several runs; `ratio` compares with decoding alone in the same run.
"""

import argparse
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pydantic

from pipeline.reconcile.changes import Changes, Input
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.fleet import Fleet
from schemas.envelope import Event, decode, encode
from schemas.fast.report_peek import peek_report
from schemas.jobs import JobIssued
from tests import factories as make

UNLIMITED: Final = 1 << 30
# A worker decides for so many records at a time.
RECORDS_PER_STEP: Final = 500
RUNS: Final = 5
FLEET: Final = 10_000
REPORTS: Final = 40_000
BIG: Final = 100_000
SCALES: Final = (10_000, 100_000, 1_000_000)
SAME_AFFECTED: Final = 1_000
TARGETS: Final = {"reports_per_s": 40_000, "bytes_per_mac": 1_536, "advisory_s": 2.0}
POLICY: Final = """\
version: 1
blast_radius: {jobs_per_hour: null, new_macs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 10000}
follow_up: {compliant: false}
"""


def udid_of(number: int) -> str:
    return f"5A0C7D9E-0000-4000-8000-{number:012X}"


def numbered_report(number: int, version: str, when: datetime, **facts: Any) -> Event:
    own = {"serial": f"C02{number:07d}", "hostname": f"lon-{number:06d}"}
    return make.full_report(version, udid_of(number), when, **(own | facts))


def new_reconciler() -> Reconciler:
    """Return a reconciler that issues jobs without signing them."""
    return Reconciler(sign=lambda job: JobIssued(job=job, signed=make.SIGNED))


def accept_event(reconciler: Reconciler, event: Event, now: datetime) -> int:
    """Apply an event and decide for all Macs that it affects. Return the number of records."""
    changes = reconciler.apply([Input(event, b"")], now)
    return record_count(reconciler.decide_marked(now, UNLIMITED, changes))


def accept_reports(reconciler: Reconciler, raws: Iterable[bytes], now: datetime) -> int:
    """Apply records and decide, with the calls of `DeviceShard`. Return the number of records."""
    count, left = 0, iter(raws)
    while some := list(islice(left, RECORDS_PER_STEP)):
        changes = Changes()
        for raw in some:
            peek = peek_report(raw)
            if peek is None or reconciler.apply_duplicate(peek, now, changes) is None:
                reconciler.apply((Input(decode(raw), raw, peek),), now, changes)
        reconciler.decide_marked(now, 0, changes)
        count += record_count(changes)
    return count


def record_count(changes: Changes) -> int:
    """Return the number of decisions and derived events; fail if our code raised."""
    assert not changes.rejections, changes.rejections
    return len(changes.records)


def first_events(count: int, behind: Callable[[int], str]) -> Iterator[bytes]:
    """Yield the bytes of these Macs' first events: check-ins, a poll, a full report."""
    for number in range(count):
        udid = udid_of(number)
        for event in make.enrolled(udid):
            yield encode(event)
        yield encode(make.polled(udid))
        yield encode(numbered_report(number, behind(number), make.NOW - make.HOUR))


def reconciler_of(raws: Iterable[bytes], releases: Iterable[str] = make.RELEASES) -> Reconciler:
    reconciler = new_reconciler()
    accept_event(reconciler, make.policy_changed(POLICY), make.NOW)
    for version in releases:
        accept_event(reconciler, make.release(version), make.NOW)
    for raw in raws:
        accept_event(reconciler, decode(raw), make.NOW)
    return reconciler


def a_tenth(number: int) -> str:
    return "26.2" if number % 10 else "26.1"


class Stream:
    """A stream of reports; a tenth of them changes a field of the Mac's previous report."""

    def __init__(self, *, telemetry: bool, macs: int = FLEET) -> None:
        self.telemetry = telemetry
        self.macs = macs
        self.rng = random.Random(2026)
        self.clock = make.NOW
        self.facts: dict[int, dict[str, Any]] = {}
        self.count = 0

    def next(self, count: int) -> list[bytes]:
        return [self._one() for _ in range(count)]

    def _one(self) -> bytes:
        number = self.rng.randrange(self.macs)
        facts = self.facts.setdefault(number, {"version": a_tenth(number)})
        self.count += 1
        self.clock += timedelta(milliseconds=20)
        if self.count % 10 == 0:
            turn = self.count // 10 % 10
            if turn < 5:
                facts["hostname"] = f"lon-{self.count:08d}"
            elif turn < 9:
                facts["boot_at"] = self.clock
            else:
                facts["version"] = "26.2" if facts["version"] == "26.1" else "26.1"
        if self.telemetry:
            facts["free_disk_gb"] = round(self.rng.uniform(50, 200), 1)
        changed = {name: value for name, value in facts.items() if name != "version"}
        return encode(numbered_report(number, facts["version"], self.clock, **changed))


def cpu(work: Callable[[], object]) -> float:
    gc.collect()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def bench_reports(*, telemetry: bool) -> dict[str, Any]:
    raws = list(first_events(FLEET, a_tenth))
    reconciler, fleet = reconciler_of(raws), Fleet()
    for raw in raws:
        fleet.apply(decode(raw))
    stream, count = Stream(telemetry=telemetry), 0

    def decode_only() -> None:
        for raw in stretch:
            decode(raw)

    def fold_too() -> None:
        for raw in stretch:
            fleet.apply(decode(raw))

    def decide_too() -> None:
        nonlocal count
        count += accept_reports(reconciler, stretch, now)

    times: dict[str, list[float]] = {"decode": [], "fold": [], "all": []}
    for _ in range(RUNS):
        stretch, now = stream.next(REPORTS), stream.clock
        times["decode"].append(cpu(decode_only))
        times["fold"].append(cpu(fold_too))
        times["all"].append(cpu(decide_too))
    rates = {name: round(REPORTS / statistics.median(found)) for name, found in times.items()}
    ratios = [d / a for d, a in zip(times["decode"], times["all"], strict=True)]
    return {
        "reports_per_s": rates["all"],
        "decode_only_per_s": rates["decode"],
        "decode_and_fold_per_s": rates["fold"],
        "ratio": round(statistics.median(ratios), 3),
        "bytes_per_report": round(statistics.mean(map(len, stretch))),
        "records_per_report": round(count / RUNS / REPORTS, 3),
    }


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of(count: int) -> float:
    """Return the bytes per Mac. It measures the whole process: call it in a new one."""
    reconciler = reconciler_of(first_events(200, a_tenth))
    gc.collect()
    before = resident()
    accept_reports(reconciler, first_events(count, a_tenth), make.NOW)
    gc.collect()
    assert len(reconciler.last_decisions) == count
    return (resident() - before) / (count - 200)


def bench_memory() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.core", "--memory-of", str(BIG)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"bytes_per_mac": round(float(done.stdout)), "macs": BIG}


def spread_behind(affected: int, count: int) -> Callable[[int], str]:
    """Return a function from a Mac's number to its version: `affected` Macs lack 15.7.3."""
    step = count // affected
    return lambda number: "26.2" if number % step else "15.7.2"


def bench_advisory(count: int, affected: int, runs: int) -> dict[str, Any]:
    """Measure the CPU time from the arrival of 15.7.3 to the last decision."""
    known = [version for version in make.RELEASES if version != "15.7.3"]
    # The fleet is only folded: decisions happen for the affected Macs alone, when 15.7.3 arrives.
    reconciler = reconciler_of((), known)
    for raw in first_events(count, spread_behind(affected, count)):
        reconciler.fold(decode(raw))
    histories, found, records = dict(reconciler.fleet.job_histories), [], 0
    before = reconciler.fleet.advisories
    gc.collect()
    gc.freeze()
    for _ in range(runs):
        reconciler.fleet.advisories = before
        reconciler.fleet.job_histories = dict(histories)
        reconciler.last_decisions.clear()
        reconciler.recount_jobs()
        landed = make.release("15.7.3")
        begun = time.process_time()
        records = accept_event(reconciler, landed, make.NOW)
        found.append(time.process_time() - begun)
    gc.unfreeze()
    assert records == 3 * affected, "a decision, a job and the hold for it, for each affected Mac"
    return {"macs": count, "affected": affected, "seconds": round(statistics.median(found), 3)}


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((one.split(":")[1].strip() for one in lines if "model name" in one), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "pydantic": pydantic.VERSION,
        "system": platform.system(),
    }


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    options.add_argument("--json", type=Path, default=Path("build/bench-core.json"))
    options.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options.add_argument("--only", choices=["reports", "memory", "advisory", "scaling"])
    chosen = options.parse_args()
    if chosen.memory_of:
        sys.stdout.write(f"{memory_of(chosen.memory_of)}\n")
        return
    found: dict[str, Any] = {"machine": machine(), "targets": TARGETS}
    if chosen.only in (None, "reports"):
        found["duplicates"] = bench_reports(telemetry=False)
        found["telemetry"] = bench_reports(telemetry=True)
    if chosen.only in (None, "memory"):
        found["memory"] = bench_memory()
    if chosen.only in (None, "advisory"):
        found["advisory"] = bench_advisory(BIG, BIG // 10, 3)
    if chosen.only in (None, "scaling"):
        found["scaling"] = [bench_advisory(count, SAME_AFFECTED, 3) for count in SCALES]
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table(found) + f"\nwritten to {chosen.json}\n")


def table(found: dict[str, Any]) -> str:
    rows = [
        (part, name, value)
        for part, values in found.items()
        for row in (values if isinstance(values, list) else [values])
        for name, value in row.items()
    ]
    return "\n".join(f"{part:<9} {name:<22} {value:>40}" for part, name, value in rows)


if __name__ == "__main__":
    main()
