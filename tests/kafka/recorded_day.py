"""`python -m tests.kafka.recorded_day`: replay a day of 1,000 simulated Macs from Kafka.

It starts a broker and a fleet, and plays the demo's scenario with its faults until the first Macs
were patched. Then `drydock replay --kafka` must find no difference in the last day, and with
one deadline changed exactly the Macs that it concerns. Exit 0 if that is so.
"""

import argparse
import shutil
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.demo.scenario import STARTS_AT, build
from runtime.logs import silence_kafka_clients
from tests.kafka.brokers import KafkaCluster, free_ports
from tests.kafka.recorded import SEED, RecordedFleet, record_fleet
from tests.kafka.replay_checks import macs_of_a_longer_deadline, verified


def say(text: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def check(fleet: RecordedFleet, folder: Path, since: datetime, until: datetime) -> None:
    """Print the numbers of a period. Raises AssertionError for a difference."""
    report = verified(fleet, "--since", since.isoformat(), "--until", until.isoformat())
    say(f"  --verify: {report['decisions']:,} decisions, {report['jobs']:,} jobs: 0 differences")
    concerned = macs_of_a_longer_deadline(fleet, folder, since, until)
    macs = len(fleet.run.scenario.specs)
    say(f"  a longer deadline: {len(concerned):,} of {macs:,} Macs differ, as expected")
    assert 0 < len(concerned) < macs


def main() -> int:
    """Record and replay the day; return 0 without a difference."""
    parser = argparse.ArgumentParser(prog="make replay-day", description=__doc__)
    parser.add_argument("--devices", type=int, default=1000, help="number of simulated Macs")
    macs = parser.parse_args().devices
    silence_kafka_clients()
    folder = Path(tempfile.mkdtemp(prefix="drydock-recorded-day-"))
    broker = KafkaCluster(1, folder / "kafka", free_ports(2))
    end = STARTS_AT + timedelta(days=11, hours=18)  # a Tuesday night, after the weekend
    try:
        broker.start()
        began = time.monotonic()
        run = folder / "fleet"
        run.mkdir()
        fleet = record_fleet(run, broker, build(SEED, macs), end)
        say(f"{macs:,} Macs recorded in {time.monotonic() - began:.0f} s")
        begin = end - timedelta(days=1)
        say(f"the day from {begin:%Y-%m-%d %H:%M} UTC:")
        check(fleet, folder, begin, end)
        say("all records:")
        check(fleet, folder, STARTS_AT, end)
    finally:
        broker.kill()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
