"""`drydock worker` with the Macs' clock instead of the real one."""

import argparse
import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from agents.clock import ScaledClock
from agents.simulated.wire import TimeLine
from pipeline.config import read_stamps
from pipeline.metrics import Metrics
from pipeline.processors.service import WorkerPlan, serve_until_signalled
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from runtime.trusted_keys import KeyRing, Purpose

GROUP: Final = "drydock-worker"


def main() -> None:
    """Run one worker until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--clock", type=Path, required=True)
    given = parser.parse_args()
    line = TimeLine.model_validate_json(given.clock.read_bytes())
    clock = ScaledClock(line.start, line.began_s, line.speed)
    trust = KeyRing.load(given.keys)
    plan = WorkerPlan(
        connection=KafkaConnection(bootstrap=given.bootstrap),
        data_dir=given.data_dir,
        key=KeyStore(given.keys).signer(Purpose.JOBS),
        jobs=trust.jobs,
        approvals=trust.approvals,
        control=trust.control,
        stamps=read_stamps(),
        group=GROUP,
        session_timeout_s=6.0,
        # Write the times of the last reports in every round: the checker compares them.
        refresh=timedelta(0),
        sweep_every=timedelta(hours=1),
        clock=clock.now,
    )
    asyncio.run(serve_until_signalled(plan, Metrics(CollectorRegistry()), make_log()))


if __name__ == "__main__":
    main()
