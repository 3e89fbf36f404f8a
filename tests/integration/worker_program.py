"""`drydock worker` with a clock that a test sets: the only difference from the command."""

import argparse
import asyncio
from datetime import datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry

from pipeline.metrics import Metrics
from pipeline.processors.logs import make_log
from pipeline.processors.service import Plan, serve_until_signalled
from pipeline.server_process import Listen
from schemas.connection import KafkaConnection
from tests.site_factories import JOBS_KEY, KEYS


def main() -> None:
    """Run one worker until it is told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--web-port", type=int, required=True)
    parser.add_argument("--clock", type=Path, required=True)
    parser.add_argument("--group", required=True)
    given = parser.parse_args()

    def clock() -> datetime:
        return datetime.fromisoformat(given.clock.read_text())

    plan = Plan(
        connection=KafkaConnection(bootstrap=given.bootstrap),
        data_dir=given.data_dir,
        key=JOBS_KEY,
        jobs=KEYS.jobs,
        approvals=KEYS.approvals,
        group=given.group,
        web=Listen("127.0.0.1", given.web_port),
        session_timeout_s=6.0,
        refresh=timedelta(hours=1),
        sweep_every=timedelta(days=1000),
        clock=clock,
    )
    asyncio.run(serve_until_signalled(plan, Metrics(CollectorRegistry()), make_log()))


if __name__ == "__main__":
    main()
