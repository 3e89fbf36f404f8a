"""`drydock gateway` with the Macs' clock instead of the real one.

Simulated time can be ahead of the real one: every event would then get the time of its receipt.
"""

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from agents.clock import ScaledClock, SteppedClock
from agents.simulated.wire import TimeLine
from pipeline.config import GatewaySettings, read_stamps
from pipeline.gateway.service import GatewayPlan, serve
from runtime.kafka import KafkaConnection
from runtime.listening import Listen
from runtime.logs import make_log


def main() -> None:
    """Run one gateway until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--clock", type=Path, help="a file with the time")
    parser.add_argument("--time-line", type=Path, help="a TimeLine as JSON")
    given = parser.parse_args()
    plan = GatewayPlan(
        given.data_dir,
        Listen.parse(given.listen),
        None,
        KafkaConnection(bootstrap=given.bootstrap),
        stamps=read_stamps(),
        clock=_clock(given.clock, given.time_line),
    )
    serve(plan, GatewaySettings(), make_log())


def _clock(path: Path | None, line_path: Path | None) -> Callable[[], datetime]:
    if path is not None:
        return SteppedClock(path).now
    assert line_path is not None
    line = TimeLine.model_validate_json(line_path.read_bytes())
    return ScaledClock(line.start, line.began_s, line.speed).now


if __name__ == "__main__":
    main()
