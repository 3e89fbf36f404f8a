"""`drydock worker` with the Macs' clock and without sweeps."""

import argparse
import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry

from agents.clock import SteppedClock
from pipeline.config import read_stamps
from pipeline.demo.embedded import NO_SWEEP
from pipeline.metrics import Metrics
from pipeline.processors.service import WorkerPlan, serve_until_signalled
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.listening import Listen
from runtime.logs import make_log
from runtime.trusted_keys import KeyRing, Purpose


def main() -> None:
    """Run one worker until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--clock", type=Path, required=True)
    given = parser.parse_args()
    trust = KeyRing.load(given.keys)
    plan = WorkerPlan(
        connection=KafkaConnection(bootstrap=given.bootstrap),
        data_dir=given.data_dir,
        key=KeyStore(given.keys).signer(Purpose.JOBS),
        jobs=trust.jobs,
        approvals=trust.approvals,
        control=trust.control,
        stamps=read_stamps(),
        web=Listen.parse(given.listen),
        sweep_every=NO_SWEEP,
        clock=SteppedClock(given.clock).now,
    )
    asyncio.run(serve_until_signalled(plan, Metrics(CollectorRegistry()), make_log()))


if __name__ == "__main__":
    main()
