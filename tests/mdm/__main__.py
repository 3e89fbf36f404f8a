"""`make demo-mdm`: ten Macs that speak Apple's MDM protocol are patched through real MDM servers.

It starts NanoMDM, KMFDDM, a SCEP server, a stand-in for Apple's push service and `drydock run`, and
stops them at any end. Exit code 0 if all Macs end as the policy wants, 1 if not, 2 if a part is
missing.
"""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from agents.simulated.spec import ALWAYS, Faults, Period
from pipeline.demo.scenario import releases
from tests.mdm.company import Employee, Group, Line, declining, employees, releases_of
from tests.mdm.drydock import Embedded, write_config
from tests.mdm.fleet import FastClock
from tests.mdm.programs import missing_tools
from tests.mdm.run import SPEED, Run
from tests.mdm.servers import MdmServers, Ports

_LINES: Final = {
    "26": Line(("26.1", "25B78"), ("26.2", "25C56")),
    "15": Line(("15.7.2", "24G325"), ("15.7.3", "24G419")),
    "14": Line(("14.8.2", "23J126"), ("14.8.3", "23J220")),
    "13": Line(("13.7.7", "22H722"), ("13.7.8", "22H730")),
}
_ADVISORY_AT: Final = datetime(2025, 12, 12, tzinfo=UTC)
_WITHIN_S: Final = 180.0
_TERMINATED: Final = 128 + signal.SIGTERM
_KINDS: Final = {
    "healthy": "",
    "declines": "declines two commands",
    "away": "offline for three hours",
    "idle": "acknowledges and does nothing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo-mdm", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("demo-mdm-data"), help="for all files; it is replaced"
    )
    folder = parser.parse_args(arguments).folder
    missing = missing_tools()
    if missing:
        sys.stderr.write(f"drydock: {missing}\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    console = Console()
    console.print("Starting Drydock and the MDM servers. Ten Macs enroll ...")
    with _running(folder.absolute()) as run:
        servers = run.servers
        console.print(
            f"NanoMDM {servers.nanomdm.url}, KMFDDM {servers.kmfddm.url},"
            f" SCEP {servers.scep.url}, Drydock {run.drydock.webhook_url}",
            highlight=False,
            soft_wrap=True,
        )
        is_done = _play(run, console)
    console.print(
        f"\nThe servers are stopped; their logs are in {folder}/mdm. Drydock's record is kept:\n"
        f"  .venv/bin/drydock status --data-dir {folder}/data\n"
        f"  .venv/bin/drydock explain C02MDM000001 --data-dir {folder}/data\n"
        f"  .venv/bin/drydock replay --verify --data-dir {folder}/data",
        highlight=False,
    )
    return 0 if is_done else 1


@contextmanager
def _running(folder: Path) -> Iterator[Run]:
    """Run Drydock, the servers and the Macs within the block."""
    clock, ports = FastClock(), Ports.choose()
    away_at = clock() + timedelta(minutes=30)
    away = Faults(offline=(Period(away_at, away_at + timedelta(hours=3)),))
    groups = [
        Group("healthy", "26", 3),
        Group("healthy", "15", 1),
        Group("healthy", "14", 1),
        Group("healthy", "13", 1),
        Group("declines", "26", 1, behavior=declining(2)),
        Group("declines", "15", 1, behavior=declining(2)),
        Group("away", "26", 1, away),
        Group("idle", "15", 1, Faults(ignored=ALWAYS)),
    ]
    with (
        Embedded.run(folder, write_config(folder / "config", ports)) as drydock,
        MdmServers.run(folder / "mdm", ports=ports, webhook_url=drydock.webhook_url) as servers,
        Run.of(drydock, servers, employees(groups, _LINES), releases_of(releases()), clock) as run,
    ):
        yield run


def _play(run: Run, console: Console) -> bool:
    """Let Apple's releases arrive and watch the Macs; return True if all end as they should."""
    run.eventually(run.are_queried, "Drydock has queried the Macs")
    for is_new, events in groupby(releases(), lambda event: event.time >= _ADVISORY_AT):
        if is_new:
            console.print(f"Apple releases of {_ADVISORY_AT:%d %B %Y} arrive. A second is ten")
            console.print("minutes of a Mac: it downloads, waits for its time, and restarts.")
        for event in events:
            run.drydock.accept(event)
    run.clock.accelerate(SPEED)
    until = time.monotonic() + _WITHIN_S
    asked: set[str] = set()
    with Live(_table(run), console=console, refresh_per_second=2) as live:
        while run.unexpected() and time.monotonic() < until:
            time.sleep(0.5)
            live.update(_table(run))
            silent = [one for one in run.employees if _is_silent(run, one)]
            new = [one for one in silent if one.spec.udid not in asked]
            asked |= {one.spec.udid for one in new}
            run.ask(new)
        live.update(_table(run))
    return not run.unexpected()


def _is_silent(run: Run, one: Employee) -> bool:
    """Return True for a patched Mac on macOS 13, which reports its version only if asked."""
    return one.ends_at.major == 13 and run.is_patched(one)


def _table(run: Run) -> Table:
    table = Table(title="Macs", title_justify="left")
    for column in ("serial", "macOS", "decision", "job", "behavior"):
        table.add_column(column, no_wrap=column == "serial")
    outcome = run.drydock.outcome()
    jobs = {job.udid: job for job in outcome.jobs.values()}
    for one in run.employees:
        udid, job = one.spec.udid, jobs.get(one.spec.udid)
        table.add_row(
            one.spec.serial,
            str(run.fleet.macs[udid].physics.os_version),
            outcome.latest[udid]["reason"] if udid in outcome.latest else "",
            "" if job is None else f"{job.method}: {job.outcome}",
            _KINDS[one.kind],
        )
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.stderr.write("drydock: interrupted; everything that was started is stopped\n")
        sys.exit(128 + signal.SIGINT)
