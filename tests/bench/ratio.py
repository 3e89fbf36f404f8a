"""`make bench-ratio`: compare reconciling reports with decoding them; fail if it became slower.

The ratio is the CPU time to recognise or decode, fold and decide REPORTS reports, divided by the
CPU time to decode the same reports. Both run in turns in one process (decode, reconcile, decode,
...), and the result compares the lower quartiles of their times: other work on the machine takes
cache lines and only adds time, so the faster turns vary the least.

Decoding is compiled code, and reconciling is Python; processors differ in how much slower the
second is. So a turn of fixed Python work is measured too, and on a machine where it takes longer,
compared with decoding, than on that of the baseline, the limit is higher by the same factor.

The workload is that of `tests.bench.core`, `telemetry`, with a smaller fleet. `ratio.baseline.toml`
has the recorded ratios and the spread; the limit is the ratio plus twice the spread.
"""

import argparse
import gc
import statistics
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

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
WORK: Final = 40_000
NAMES: Final = tuple(f"C02{number:07d}" for number in range(500))


class Ratios(NamedTuple):
    """CPU times of a turn, divided by that of decoding."""

    reconcile: float
    interpreter: float


@dataclass(slots=True)
class _Entry:
    name: str
    count: int


def interpret() -> None:
    """Do fixed work with what the reconciler uses most: attributes, dictionaries and tuples."""
    known: dict[str, _Entry] = {}
    for number in range(WORK):
        name = NAMES[number % len(NAMES)]
        entry = known.get(name)
        if entry is None:
            known[name] = _Entry(name, 1)
        elif entry.count & 1:
            entry.count += 1
        else:
            known[name] = _Entry(*(entry.name, entry.count + 1))


def ratios(*, decodes_twice: bool) -> Ratios:
    """Return the ratios of lower quartiles; `decodes_twice` adds one decoding to each report."""
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

    decoded, reconciled, interpreted = [], [], []
    for _ in range(TURNS):
        raws = stream.next(REPORTS)
        decoded.append(cpu(partial(decode_all, raws)))
        reconciled.append(cpu(partial(reconcile_all, raws, stream.clock)))
        interpreted.append(cpu(interpret))
    decode_s = lower_quartile(decoded)
    return Ratios(lower_quartile(reconciled) / decode_s, lower_quartile(interpreted) / decode_s)


def lower_quartile(seconds: Sequence[float]) -> float:
    """Return the time that a quarter of the turns do not exceed."""
    return statistics.quantiles(seconds, n=4)[0]


def main() -> None:
    """Measure, print the ratio and the limit; exit with 1 if the ratio exceeds the limit."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    options.add_argument(
        "--decode-twice", action="store_true", help="a check of the check: must exit with 1"
    )
    chosen = options.parse_args()
    baseline = tomllib.loads(BASELINE.read_text(encoding="utf-8"))
    # Noise only adds time: a second measurement decides.
    for _ in range(2):
        reconcile, interpreter = ratios(decodes_twice=chosen.decode_twice)
        slower = max(1.0, interpreter / baseline["interpreter"])
        limit = (baseline["ratio"] + 2 * baseline["spread"]) * slower
        sys.stdout.write(
            f"reconcile / decode: {reconcile:.2f}, limit {limit:.2f};"
            f" interpreter / decode: {interpreter:.2f}\n"
        )
        if reconcile <= limit:
            return
    sys.exit("a report costs more than recorded: see tests/bench/ratio.baseline.toml")


if __name__ == "__main__":
    main()
