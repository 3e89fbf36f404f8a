"""Throughput of the embedded service: reports through `Service.accept`, on this machine's disk.

`python -m tests.bench.embedded [MACS] [REPORTS]` prints the workload, the machine and the rates.
One report in ten changes a field.
"""

import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from agents.simulated import SimulatedFleet
from pipeline.embedded.log import FILE, Log
from pipeline.embedded.service import Service
from pipeline.replay.verify import verify
from schemas.envelope import Event
from tests.embedded_world import Environment, open_service
from tests.factories.sites import START, critical_release, osquery_report

REPORT_EVERY: Final = timedelta(minutes=15)
NEW_SHARE: Final = 10
MAC: Final[dict[str, Any]] = {
    "os_version": "26.2",
    "build": "25C56",
    "model": "Mac14,2",
    "hostname": "bench",
    "supervised": True,
    "user_approved": True,
    "on_ac_power": True,
}


def say(text: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(text + "\n")


def reports(macs: int, count: int) -> Iterator[tuple[datetime, Event]]:
    """Yield time and report of all Macs in turn, evenly spread over their interval."""
    for number in range(count):
        round_, mac = divmod(number, macs)
        now = START + round_ * REPORT_EVERY + REPORT_EVERY * mac / macs
        changed = (number + round_) % NEW_SHARE == 0
        free = 100.0 + round_ if changed else 100.0
        yield now, osquery_report(f"MAC-{mac:06}", now, free_disk_gb=free, **MAC)


def accept(service: Service, batch: Sequence[tuple[datetime, Event]]) -> None:
    """Accept one batch, and do the work that is due after it."""
    now = batch[-1][0]
    service.accept([event for _, event in batch], (), now)
    wake = service.next_wake(now)
    if wake is not None and wake <= now:
        service.tick(now)


def measure(service: Service, feed: Sequence[tuple[datetime, Event]], size: int) -> None:
    """Print the rate at which the service accepts these reports in batches of this size."""
    batches = [feed[start : start + size] for start in range(0, len(feed), size)]
    took = []
    cpu, began = time.process_time(), time.perf_counter()
    for batch in batches:
        start = time.perf_counter()
        accept(service, batch)
        took.append(time.perf_counter() - start)
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    took.sort()
    say(
        f"batches of {size:>3}: {len(feed) / wall:>8,.0f} reports/s wall"
        f" {len(feed) / used:>8,.0f} reports/s of CPU"
        f"  p50 {statistics.median(took) * 1e3:.2f} ms"
        f"  p99 {took[int(len(took) * 0.99)] * 1e3:.2f} ms"
    )
    fleet_rate = 5_000 / REPORT_EVERY.total_seconds()
    share = fleet_rate * used / len(feed)
    say(f"                5,000 Macs every 15 minutes: {share:.2%} of one core")


def main() -> None:
    """Run the workload."""
    macs = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000
    say(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    say(f"{macs:,} Macs, {count:,} reports a run, 1 in {NEW_SHARE} with a change")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        environment = Environment(SimulatedFleet((), START))
        service = open_service(data_dir, environment)
        service.accept([critical_release("26.2", "25C56")], (), START)
        feed = list(reports(macs, macs + 2 * count))
        for start in range(0, macs, 500):
            accept(service, feed[start : start + 500])
        bytes_before = (data_dir / FILE).stat().st_size
        measure(service, feed[macs : macs + count], 1)
        measure(service, feed[macs + count :], 100)
        grown = (data_dir / FILE).stat().st_size - bytes_before
        _advisory(service, feed[-1][0])
        service.close()
        _verify(data_dir)
        began = time.perf_counter()
        open_service(data_dir, environment).close()
        say(f"start with {macs:,} Macs: {time.perf_counter() - began:.2f} s")
        say(f"log and state: {grown / (2 * count):,.0f} bytes a report")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"peak memory: {peak:,.0f} MB")


def _advisory(service: Service, now: datetime) -> None:
    """Print the time for a release that every Mac lacks: one transaction decides for all."""
    began = time.perf_counter()
    done = service.accept([critical_release("26.3", "25D10", now)], (), now)
    took = time.perf_counter() - began
    say(f"an advisory for all: {done.decisions:,} decisions, {done.jobs} jobs in {took:.2f} s")


def _verify(data_dir: Path) -> None:
    """Print the CPU time in which `replay --verify` computes the whole log again."""
    with Log.open(data_dir) as log:
        began = time.process_time()
        found = verify(log, state=log)
        used = time.process_time() - began
    assert found.difference is None, found.difference
    say(f"verify: {found.events:,} events, {found.decisions:,} decisions in {used:.2f} s of CPU")


if __name__ == "__main__":
    main()
