"""`python -m tests.fleet_demo`: run the demo on Kafka and embedded, and compare the numbers.

It starts a broker, two workers, a gateway and one agent for each site, and stops them all on any
end. Exit code 0 if the numbers are equal, 1 if they differ, 2 if the run failed.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.cli.demo import print_summary, watch
from pipeline.demo import embedded
from pipeline.demo.drive import STEP, FleetSample, steps
from pipeline.demo.outcome import read_outcome
from pipeline.demo.scenario import Scenario, build
from pipeline.demo.summary import summarize
from runtime.logs import silence_kafka_clients
from tests.fleet_demo.comparison import ComparedNumber, rows
from tests.fleet_demo.running import FleetError, FleetRun
from tests.kafka.brokers import BrokerError, KafkaCluster, free_ports

_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both forms and return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo-kafka", description=__doc__)
    parser.add_argument("--devices", type=int, default=200, help="number of simulated Macs")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal numbers")
    parser.add_argument("--json", action="store_true", help="one JSON object, no live view")
    parser.add_argument(
        "--step-minutes", type=int, default=int(STEP / timedelta(minutes=1)), help="of one step"
    )
    given = parser.parse_args(arguments)
    silence_kafka_clients()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(_TERMINATED))
    # A shell starts its background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="drydock-demo-kafka-"))
    try:
        scenario = build(given.seed, given.devices)
        step = timedelta(minutes=given.step_minutes)
        code = _run(folder, scenario, given.seed, step, as_json=given.json)
    except (BrokerError, FleetError, ValueError) as error:
        sys.stderr.write(f"drydock: {error}\ndrydock: logs are in {folder}\n")
        return 2
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return code


def _run(folder: Path, scenario: Scenario, seed: int, step: timedelta, *, as_json: bool) -> int:
    console = Console(stderr=True, quiet=as_json)
    devices, count = len(scenario.specs), steps(step)

    def follow(moments: Generator[FleetSample]) -> None:
        # Close the generator on any error: its `finally` ends the programs of the run.
        with closing(moments):
            if as_json:
                deque(moments, maxlen=0)
            else:
                watch(moments, devices, console, count)

    console.print("The embedded form, in this process ...")
    ours = folder / "embedded"
    ours.mkdir()
    follow(embedded.run(ours, scenario, seed, step))
    wanted = summarize(read_outcome(embedded.log_lines(ours)), scenario, seed)
    with _kafka(folder / "kafka") as kafka:
        console.print(f"The fleet form, on Kafka at {kafka.bootstrap} (logs in {folder}) ...")
        started = time.monotonic()
        run = FleetRun(folder, kafka.bootstrap, scenario, seed, step)
        follow(run.moments())
        took_s = time.monotonic() - started
    found = summarize(run.outcome, scenario, seed)
    compared = rows(wanted, found)
    same = all(row.is_same for row in compared)
    if as_json:
        report = {"same": same, "kafka": found, "embedded": wanted, "programs": run.figures}
        sys.stdout.write(json.dumps(report | {"took_s": round(took_s, 1)}) + "\n")
    else:
        print_summary(found, took_s)
        _print(compared, run.figures)
    if not same:
        names = ", ".join(row.name for row in compared if not row.is_same)
        sys.stderr.write(f"drydock: the two forms differ in: {names}\n")
    return 0 if same else 1


@contextmanager
def _kafka(folder: Path) -> Iterator[KafkaCluster]:
    cluster = KafkaCluster(1, folder, free_ports(2))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def _print(compared: Sequence[ComparedNumber], programs: Mapping[str, Mapping[str, Any]]) -> None:
    console = Console()
    table = Table(title="Beside the embedded form", title_justify="left")
    for column in ("", "embedded", "Kafka"):
        table.add_column(column, justify="right" if column else "left")
    for row in compared:
        style = None if row.is_same else "bold red"
        table.add_row(row.name, str(row.embedded), str(row.kafka), style=style)
    console.print(table)
    if any(figures.get("held_back") for figures in programs.values()):
        console.print(
            "Executors blocked acts because this machine was too slow: ignore the numbers."
        )
    for name, figures in programs.items():
        line = ", ".join(f"{what} {count:,}" for what, count in figures.items())
        console.print(f"{name}: {line}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.stderr.write("drydock: interrupted; everything that was started is stopped\n")
        sys.exit(128 + signal.SIGINT)
    except Exception:  # noqa: BLE001 - a bug; `main` has stopped everything
        traceback.print_exc()
        sys.exit(2)
