"""`make bench`: the worker on a real broker, compared with plain consumers; a whole fleet."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.bench.core import machine
from tests.bench.kafka_fleet import SITES, bench_fleet
from tests.bench.kafka_latency import bench_latency
from tests.bench.kafka_throughput import bench_throughput
from tests.bench.kafka_world import SITE, World, world

PARTS: Final = ("duplicates", "telemetry", "latency", "fleet")


def main() -> None:
    """Measure, and print and write the JSON."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    options.add_argument("--json", type=Path, default=Path("build/bench-kafka.json"))
    options.add_argument("--only", choices=PARTS, action="append")
    options.add_argument("--quick", action="store_true", help="small, to check that it runs")
    options.add_argument("--macs", type=int, default=1_000_000, help="of the whole fleet")
    options.add_argument(
        "--rate", type=float, default=1_000, help="webhooks per second, for latency"
    )
    options.add_argument("--gateways", type=int, default=2, help="number of gateways, for latency")
    chosen = options.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    for part in chosen.only or PARTS:
        sys.stderr.write(f"{part}\n")
        sites = SITES if part == "fleet" else (SITE,)
        with tempfile.TemporaryDirectory(prefix="bench-") as name, world(Path(name), sites) as here:
            found[part] = bench(part, here, chosen)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def bench(part: str, here: World, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure one part on its own broker."""
    quick: bool = chosen.quick
    if part == "fleet":
        return bench_fleet(here, macs=10_000 if quick else chosen.macs)
    if part == "latency":
        seconds = 5.0 if quick else 60.0
        return bench_latency(here, rate=chosen.rate, seconds=seconds, gateways=chosen.gateways)
    return bench_throughput(
        here,
        reports=20_000 if quick else 200_000,
        runs=1 if quick else 5,
        telemetry=part == "telemetry",
    )


if __name__ == "__main__":
    main()
