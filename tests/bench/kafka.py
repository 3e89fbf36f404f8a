"""`make bench`: the worker on a real broker, beside plain consumers, and a whole fleet's load."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.bench.core import machine
from tests.bench.kafka_throughput import bench_throughput
from tests.bench.kafka_world import world

PARTS: Final = ("repeats", "figures")


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    options.add_argument("--json", type=Path, default=Path("build/bench-kafka.json"))
    options.add_argument("--only", choices=PARTS, action="append")
    options.add_argument("--quick", action="store_true", help="small, to see that it runs")
    options.add_argument("--runs", type=int)
    options.add_argument("--reports", type=int)
    options.add_argument("--contender")
    chosen = options.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    for part in chosen.only or PARTS:
        with (
            tempfile.TemporaryDirectory(prefix="drydock-bench-") as folder,
            world(Path(folder)) as here,
        ):
            found[part] = bench_throughput(
                here,
                reports=chosen.reports or (20_000 if chosen.quick else 200_000),
                runs=chosen.runs or (1 if chosen.quick else 5),
                figures=part == "figures",
                only=chosen.contender,
            )
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
