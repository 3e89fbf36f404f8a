"""An outage of Kafka under webhooks: each webhook with a 200 must reach the topic in order.

`python -m tests.bench.outage [--seconds 60] [--rate 200] [--macs 200] [--json]` starts a broker
and a gateway, posts at the rate, stops the broker for that time, starts it again, and reads the
topic with another client. Exit code 1 if a webhook is missing or out of its Mac's order.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.kafka.brokers import KafkaCluster, free_ports, missing_parts
from tests.kafka.gateways import Fleet, Server, found_of, gateway
from tests.kafka.topics import make_topics

TOPIC: Final = "drydock.checkins.v1"


@dataclass(frozen=True, slots=True)
class Outage:
    """Result of an outage.

    `durable_by_kafka` and `durable_by_spool` count the records by the place that made them durable.
    `answer_...` are the times from the request to the response.
    """

    down_s: float
    rate: float
    macs: int
    posted: int
    answered_200: int
    answered_otherwise: int
    unanswered: int
    durable_by_kafka: int
    durable_by_spool: int
    deepest_spool: int
    drained_s: float
    answer_p50_s: float
    answer_p99_s: float
    answer_max_s: float
    answer_p99_down_s: float
    gateway_cpu_s: float
    in_topic: int
    repeated: int
    missing: int
    disordered: int

    @property
    def is_good(self) -> bool:
        """True if no accepted webhook is missing or out of order."""
        return self.missing == 0 and self.disordered == 0 and self.answered_200 > 0


def outage(
    kafka: KafkaCluster, folder: Path, fleet: Fleet, seconds: float, around_s: float = 5.0
) -> Outage:
    """Stop the broker for `seconds` while the fleet posts webhooks, and return the result.

    The fleet posts for `around_s` before and after the outage too.
    """
    with gateway(kafka, folder) as running:
        running.settles()
        with fleet.posting(lambda: running.url):
            time.sleep(around_s)
            kafka.stop()
            stopped_at = time.monotonic()
            time.sleep(seconds)
            deepest = running.spooled()
            kafka.start()
            back_at = time.monotonic()
            running.settles()
            drained_s = time.monotonic() - back_at
            time.sleep(around_s)
        running.settles()
        by = {where: _durable(running, where) for where in ("kafka", "spool")}
        cpu_s = running.value("process_cpu_seconds_total")
        assert running.end() == 0
    found = found_of(fleet, kafka)
    took = sorted(response.took_s for response in fleet.answers)
    down = sorted(a.took_s for a in fleet.answers if stopped_at <= a.at_s < back_at)
    statuses = fleet.statuses
    return Outage(
        down_s=back_at - stopped_at,
        rate=fleet.rate,
        macs=fleet.macs,
        posted=len(took),
        answered_200=statuses[200],
        answered_otherwise=len(took) - statuses[200] - statuses[None],
        unanswered=statuses[None],
        durable_by_kafka=by["kafka"],
        durable_by_spool=by["spool"],
        deepest_spool=round(deepest),
        drained_s=drained_s,
        answer_p50_s=took[len(took) // 2],
        answer_p99_s=took[len(took) * 99 // 100],
        answer_max_s=took[-1],
        answer_p99_down_s=down[len(down) * 99 // 100],
        gateway_cpu_s=cpu_s,
        in_topic=sum(len(set(numbers)) for numbers in found.numbers.values()),
        repeated=found.duplicates,
        missing=len(found.missing(fleet)),
        disordered=len(found.disordered(fleet)),
    )


def _durable(running: Server, where: str) -> int:
    return round(running.value("drydock_gateway_records_total", TOPIC, where))


def shown(result: Outage) -> Table:
    """Return the result as a table."""
    table = Table(box=None, show_header=False)
    for name, value in asdict(result).items():
        unit = " s" if name.endswith("_s") else ""
        figure = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
        table.add_row(name.removesuffix("_s").replace("_", " "), figure + unit)
    return table


def main() -> int:
    """Run the outage and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.outage")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the outage")
    parser.add_argument("--rate", type=float, default=200.0, help="webhooks per second")
    parser.add_argument("--macs", type=int, default=200, help="number of Macs that post in turn")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    lacking = missing_parts()
    if lacking:
        sys.stderr.write(f"no Kafka: {lacking}\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        kafka = KafkaCluster(1, Path(folder) / "kafka", free_ports(2))
        try:
            kafka.start()
            make_topics(kafka.bootstrap)
            fleet = Fleet("MAC", given.macs, given.rate)
            result = outage(kafka, Path(folder), fleet, given.seconds)
        finally:
            kafka.kill()
    if given.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    else:
        out = Console()
        out.print(
            f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        )
        out.print(shown(result))
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
