"""`python -m tests.observe`: a service with Prometheus and Alertmanager, and an incident.

The alert rules of the chart have shorter times (`compressed_rules`). Exit code 0 if exactly the
expected alerts fire and then end, 1 if not, 2 if a program is missing or does not start.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.drydock_process import running
from tests.observe.compressed_rules import compressed_rules
from tests.observe.incident import (
    FAULTS,
    SETTINGS,
    SLOW_FAULTS,
    Fault,
    Watch,
    World,
    good_feed,
    verdicts,
)
from tests.observe.monitoring import alertmanager, has_metrics, missing_programs, prometheus
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "deploy" / "helm" / "drydock" / "files" / "rules" / "alerts.yaml"
# 1 h is 30 s, 15 min are 7.5 s: several scrapes, of one second each, in the shortest window.
FACTOR: Final = 120
_QUIET_S: Final = 15.0
_LIMIT_S: Final = 180.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the incident and return the exit code."""
    parser = argparse.ArgumentParser(prog="make observe", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the world's traffic")
    parser.add_argument("--short", action="store_true", help="only the faults of a minute")
    given = parser.parse_args(arguments)
    out = Console(width=None if sys.stdout.isatty() else 120)
    lacking = missing_programs()
    if lacking is not None:
        out.print(lacking)
        return 2
    faults = FAULTS if given.short else (*FAULTS, *SLOW_FAULTS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found, watch = observe(Path(folder), faults, given.seed, out.print)
        except (TimeoutError, AssertionError) as error:
            out.print(f"the run failed: {error}")
            return 2
    _print(out, faults, watch, found)
    return 0 if set(found.values()) == {"ok"} else 1


def observe(
    folder: Path, faults: Sequence[Fault], seed: int, print_line: Callable[[str], None]
) -> tuple[dict[str, str], Watch]:
    """Let the faults begin, wait for their alerts, repair them, wait for the end of the alerts.

    Returns a verdict for each alert, and what was seen.
    """
    document = folder / "sofa.json"
    document.write_bytes(good_feed())
    options = ("--policy", str(ROOT / "examples" / "policy.yaml"), "--sofa", str(document))
    with (
        running(folder / "data", *options, env=SETTINGS) as service,
        World(service.url, document, random.Random(seed)).runs() as world,
        alertmanager(folder / "alertmanager") as alerts,
        prometheus(
            folder / "prometheus",
            service.url.removeprefix("http://"),
            compressed_rules(RULES, FACTOR),
            f"{alerts.base_url.host}:{alerts.base_url.port}",
        ) as metrics,
    ):
        print_line(
            f"service {service.url}, Prometheus {metrics.base_url}, Alertmanager {alerts.base_url}"
        )
        # The first scrapes of a busy computer can fail: the watch begins after them.
        wait_until(
            lambda: has_metrics(metrics) and not Watch(alerts).active(),
            _LIMIT_S,
            "Prometheus has read the metrics of the service",
        )
        watch = Watch(alerts)
        _wait(lambda: bool(watch.active()), _QUIET_S)
        for fault in faults:
            print_line(f"fault: {fault.text}")
            fault.begin(world)
        expected = {one.alert for one in faults}
        _wait(lambda: expected <= watch.active(), _LIMIT_S)
        for fault in faults:
            fault.end(world)
        print_line("repaired")
        _wait(lambda: not watch.active(), _LIMIT_S)
        return verdicts(faults, watch.seen, watch.active()), watch


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait until the condition is True, at most `limit_s`."""
    until = time.monotonic() + limit_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.5)


def _print(out: Console, faults: Sequence[Fault], watch: Watch, found: dict[str, str]) -> None:
    texts = {one.alert: one.text for one in faults}
    table = Table("alert", "fault", "fired after", "active until", "verdict", box=None)
    for name, verdict in found.items():
        first, last = watch.seen.first_s.get(name), watch.seen.last_s.get(name)
        times = ("" if one is None else f"{one:.0f} s" for one in (first, last))
        table.add_row(name, texts.get(name, ""), *times, verdict)
    out.print(table)


if __name__ == "__main__":
    sys.exit(main())
