"""The first document of SOFA with known Macs, and the delay of webhooks meanwhile.

`python -m tests.bench.first_document FEED [MACS]` prints the figures that docs/embedded.md names:
the time on one core until every Mac is decided, the longest delay of a report, the jobs of a Mac
and the growth of the log for each decision. The Macs run the releases of the feed, older ones too.
"""

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pipeline.embedded.log import FILE
from pipeline.embedded.service import Options, Service
from pipeline.embedded.service_thread import AcceptedInput, ServiceThread
from pipeline.embedded.write_requests import feed
from pipeline.trust.senders import default_sender
from runtime.free_space import SpaceReserve
from runtime.logs import make_log
from schemas.envelope import InventoryEvent
from tests.factories.sites import JOBS_KEY, KEYS, osquery_report

MACS: Final = 3000
POLICY: Final = """\
version: 1
default_site: london
blast_radius: {jobs_per_hour: null, new_macs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 3000}
deferrals: {exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}
"""
# As `drydock run` sets it.
OPTIONS: Final = Options(tick_budget_s=0.05)
_REPORT_EVERY_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run; times in s, `core_s` is CPU time of the service's thread."""

    macs: int
    decided: int
    wall_s: float
    core_s: float
    longest_delay_s: float
    most_jobs: int
    decisions: int
    bytes_per_decision: float


def fleet(document: dict[str, Any], macs: int, now: datetime) -> list[InventoryEvent]:
    """Return a full report of each Mac: in turn every release of the feed, with a model of it."""
    releases = [
        (release["ProductVersion"], release["Build"])
        for line in document["OSVersions"]
        for release in line["SecurityReleases"]
        if release.get("Build")
    ]
    models = [name for name in document["Models"] if name.startswith("Mac1")]
    found = []
    for number in range(macs):
        version, build = releases[number % len(releases)]
        report = osquery_report(
            f"BENCH-{number:05}",
            now,
            os_version=version,
            build=build,
            model=models[number % len(models)],
            supervised=True,
            user_approved=True,
            mdm_enrolled=True,
            bootstrap_token_escrowed=True,
            free_disk_gb=200.0,
            on_ac_power=True,
        )
        found.append(report)
    return found


def measure(raw: bytes, macs: int, folder: Path) -> Figures:
    """Return the figures for a first document in an empty folder of a data directory."""
    now = datetime.now(UTC)
    reports = fleet(json.loads(raw), macs, now - timedelta(hours=1))
    service = Service.open(
        folder, now=now, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY, options=OPTIONS
    )
    for start in range(0, len(reports), 100):
        service.accept(reports[start : start + 100], (), now)
    while (wake := service.next_wake(now)) is not None and wake <= now:
        service.tick(now)
    before = _state(service)
    thread = ServiceThread(
        lambda _: (service, None),
        make_log(),
        max_waiting=1000,
        on_ready=lambda _: None,
        space=SpaceReserve(folder),
    )
    thread.start()
    try:
        return _while_reports_arrive(
            thread, feed("sofa", raw, default_sender("sofa")), reports, before
        )
    finally:
        thread.stop()


def _while_reports_arrive(
    thread: ServiceThread,
    document: Any,
    reports: Sequence[InventoryEvent],
    before: tuple[int, int],
) -> Figures:
    delays: list[float] = []
    is_over = threading.Event()

    def send() -> None:
        number = 0
        while not is_over.is_set():
            report = reports[number % len(reports)]
            at = datetime.now(UTC)
            again = report.model_copy(update={"id": f"again-{number}", "time": at})
            began = time.perf_counter()
            thread.submit(lambda _, __, one=again: AcceptedInput((one,))).result()  # type: ignore[misc]
            delays.append(time.perf_counter() - began)
            number += 1
            time.sleep(_REPORT_EVERY_S)

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(1)
    delays.clear()
    began, cpu = time.perf_counter(), thread.ask(lambda _, __: time.thread_time()).result()
    thread.submit(document).result()
    while thread.ask(lambda service, at: service.reconciler.queue.has_due(at)).result():
        time.sleep(_REPORT_EVERY_S)
    wall = time.perf_counter() - began
    core = thread.ask(lambda _, __: time.thread_time()).result() - cpu
    is_over.set()
    sender.join()
    after, jobs, decided = thread.ask(lambda service, _: _outcome(service)).result()
    decisions = after[0] - before[0]
    return Figures(
        macs=len(reports),
        decided=decided,
        wall_s=wall,
        core_s=core,
        longest_delay_s=max(delays),
        most_jobs=jobs,
        decisions=decisions,
        bytes_per_decision=(after[1] - before[1]) / decisions,
    )


def _state(service: Service) -> tuple[int, int]:
    """Return the number of decisions in the log, and the bytes that decisions and lists use."""
    row = service.store._db.execute(
        "SELECT count(*), total(length(body)) FROM log WHERE kind = 'decision'"
    ).fetchone()
    (blobs,) = service.store._db.execute("SELECT total(length(body)) FROM blobs").fetchone()
    return int(row[0]), int(row[1] + blobs)


def _outcome(service: Service) -> tuple[tuple[int, int], int, int]:
    histories = service.reconciler.fleet.job_histories
    jobs = Counter({udid: len(history) for udid, history in histories.items()})
    decided = sum(1 for _ in service.reconciler.last_decisions)
    return _state(service), max(jobs.values(), default=0), decided


def main() -> None:
    """Print the figures of one run."""
    macs = int(sys.argv[2]) if len(sys.argv) > 2 else MACS
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(sys.argv[1]).read_bytes(), macs, Path(folder))
        size = (Path(folder) / FILE).stat().st_size
    sys.stdout.write(
        f"{found.decided} of {found.macs} Macs decided; first document {found.wall_s:.2f} s,"
        f" {found.core_s:.2f} s of one core; longest delay of a report"
        f" {found.longest_delay_s * 1e3:.0f} ms; at most {found.most_jobs} jobs a Mac;"
        f" {found.decisions} decisions, {found.bytes_per_decision:.0f} bytes each;"
        f" file {size / 1e6:.1f} MB\n"
    )


if __name__ == "__main__":
    main()
