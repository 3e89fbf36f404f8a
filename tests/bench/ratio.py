"""`make bench-ratio`: compare reconciling reports with decoding them; fail if it became slower.

The ratio is the CPU time to recognise or decode, fold and decide REPORTS reports, divided by the
CPU time to decode the same number of reports. Both run in turns in one process (decode, reconcile,
decode, ...); each turn of the reconciler is compared with the mean of the two turns of decoding
around it, and the result is the median. So neither the machine's speed nor steady load on it
changes the ratio much.

The workload is that of `tests.bench.core`, `telemetry`, with a smaller fleet. `ratio.baseline.toml`
has the recorded ratio and its spread; the limit is the ratio plus twice the spread.
"""

import argparse
import gc
import statistics
import sys
import tomllib
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from schemas.envelope import decode
from tests.bench.core import (
    Stream,
    a_tenth,
    accept_reports,
    cpu,
    first_events,
    reconciler_of,
)

BASELINE: Final = Path(__file__).with_name("ratio.baseline.toml")
# Few Macs and short turns: on a loaded machine, a large state loses its cache lines and a long turn
# sees other load than its neighbours, so the ratio would vary with the load.
MACS: Final = 50
REPORTS: Final = 1_000
TURNS: Final = 61


def ratios(*, decodes_twice: bool) -> Iterator[float]:
    """Yield the ratio of each turn; `decodes_twice` adds one decoding to each report."""
    reconciler = reconciler_of(first_events(MACS, a_tenth))
    stream = Stream(telemetry=True, macs=MACS)
    gc.freeze()
    gc.disable()  # `cpu` collects before each turn

    def decode_all(raws: Iterable[bytes]) -> None:
        for raw in raws:
            decode(raw)

    def reconcile_all(raws: Iterable[bytes], now: datetime) -> None:
        accept_reports(reconciler, raws, now)
        if decodes_twice:
            decode_all(raws)

    def decode_turn() -> float:
        return cpu(partial(decode_all, stream.next(REPORTS)))

    def reconcile_turn() -> float:
        raws = stream.next(REPORTS)
        return cpu(partial(reconcile_all, raws, stream.clock))

    before = decode_turn()
    for _ in range(TURNS):
        reconciled, after = reconcile_turn(), decode_turn()
        yield reconciled / statistics.mean((before, after))
        before = after


def main() -> None:
    """Measure, print the ratio and the limit; exit with 1 if the ratio exceeds the limit."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    options.add_argument(
        "--decode-twice", action="store_true", help="a check of the check: must exit with 1"
    )
    chosen = options.parse_args()
    baseline = tomllib.loads(BASELINE.read_text(encoding="utf-8"))
    limit = baseline["ratio"] + 2 * baseline["spread"]
    found = statistics.median(ratios(decodes_twice=chosen.decode_twice))
    sys.stdout.write(f"reconcile / decode: {found:.2f}, limit {limit:.2f}\n")
    if found > limit:
        sys.exit("a report costs more than recorded: see tests/bench/ratio.baseline.toml")


if __name__ == "__main__":
    main()
